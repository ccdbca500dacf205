//! Owns the checks of what servers and other programs send or leave behind: responses, redirects, state files. Must not know sockets.

use crate::health::probe::body::{Body, Framing, MAX_BODY};
use crate::health::probe::database::dialect::Healthy;
use crate::health::probe::database::{mysql, postgres, redis};
use crate::health::probe::fcgi as cgi;
use crate::health::probe::grpc::exchange::{Exchange, MAX_ANSWER, MAX_FRAME, Response};
use crate::health::probe::grpc::judge;
use crate::health::probe::http::{begins_like_http, end_of_head, parse};
use crate::health::target::Target;
use crate::health::url::Url;
use crate::state;

/// The first byte says where the stream is cut; the rest is a response.
pub fn http(data: &[u8]) {
    let Some((cut, text)) = data.split_first() else { return };
    let cut = text.len() * usize::from(*cut) / 256;
    let _ = begins_like_http(text);
    let end = end_of_head(text, 0);
    // Wherever the packets are cut, the head ends at the same byte.
    let early = text.get(..cut).and_then(|early| end_of_head(early, 0));
    assert_eq!(early.or_else(|| end_of_head(text, cut)), end);
    let Some(end) = end else { return };
    assert!(end <= text.len());
    let (head, rest) = text.split_at(end);
    let Ok(head) = parse(head) else { return };
    assert!(head.status < 1000, "{head:?}");
    for framing in [head.framing, Framing::Chunked, Framing::Length(rest.len() as u64 / 2), Framing::UntilClose] {
        let cut = cut.saturating_sub(end).min(rest.len());
        let whole = body(framing, &[rest]);
        let pieces = body(framing, &[rest.get(..cut).unwrap_or_default(), rest.get(cut..).unwrap_or_default()]);
        assert_eq!(whole, pieces, "{framing:?} cut at {cut}");
    }
    if let Some(location) = head.location {
        redirect("http://localhost:8080/a/b?c", &location);
    }
}

/// The kept text of a body, whether it is complete, and whether nothing more follows. `None`: it is malformed.
fn body(framing: Framing, pieces: &[&[u8]]) -> Option<(Vec<u8>, bool, bool)> {
    let (mut body, mut dropped) = (Body::new(framing), Body::new(framing).discarding());
    for piece in pieces {
        // The reader stops here, too.
        if !body.over {
            body.feed(piece).ok()?;
        }
        // Discarding the text does not change where the body ends, within the part that is kept.
        if body.text.len() < MAX_BODY {
            assert!(dropped.over || dropped.feed(piece).is_ok());
            assert_eq!((body.ended, body.over), (dropped.ended, dropped.over), "{framing:?}");
        }
    }
    assert!(body.text.len() <= MAX_BODY && dropped.text.is_empty() && (body.ended || !body.over));
    Some((body.text, body.ended, body.over))
}

/// A URL and, after a NUL, a `Location` that redirects from it.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (base, location) = text.split_once('\0').unwrap_or((&text, ""));
    redirect(base, location);
}

fn redirect(base: &str, location: &str) {
    let Ok(base) = Url::parse(base) else { return };
    check_url(&base);
    if let Ok(next) = base.join(location) {
        check_url(&next);
        // Only a reference with an authority may lead to another host.
        assert!(location.contains("//") || next.host == base.host, "{location:?} leads from {base:?} to {next:?}");
    }
}

fn check_url(url: &Url) {
    assert!(!url.host.is_empty() && url.port != 0 && url.path.starts_with('/') && !url.path.contains('#'), "{url:?}");
    assert_eq!(Url::parse(&url.shown()).as_ref(), Ok(url), "{}", url.shown());
    let target = url.request_target();
    assert!(target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic()), "{target:?}");
    assert!(!url.shown_without_query().contains('?'));
}

/// The first byte says where the stream is cut; the rest is what an HTTP/2 server sends.
pub fn grpc(data: &[u8]) {
    let Some((cut, text)) = data.split_first() else { return };
    let (early, late) = text.split_at(text.len() * usize::from(*cut) / 256);
    let (outcome, replies) = exchange(&[text]);
    assert_eq!(exchange(&[early, late]), (outcome.clone(), replies));
    match outcome {
        Ok(None) => {}
        Ok(Some(response)) => {
            let (status, outcome) = judge(&response, "a.B");
            if let Ok(reason) = outcome {
                assert_eq!((response.status, response.code), (Some(200), Some(0)), "{status:?} {reason}");
            }
        }
        Err(reason) => assert!(!reason.is_empty() && reason.len() < 1024, "{reason}"),
    }
}

/// The first byte says where the stream is cut; the rest is what a database sends.
pub fn database(data: &[u8]) {
    let Some((cut, text)) = data.split_first() else { return };
    let early = text.get(..text.len() * usize::from(*cut) / 256).unwrap_or_default();
    for read in [redis::read, postgres::read, mysql::read] {
        let whole = read(text);
        // The bytes decide, not where they are cut.
        let first = read(early);
        assert!(matches!(first, Ok(None)) || first == whole, "{first:?} and then {whole:?}");
        match whole {
            Ok(Some(Healthy { reason, .. })) | Err(reason) => assert!(!reason.is_empty() && reason.len() < 1024),
            Ok(None) => assert!(text.len() < 1 << 20),
        }
    }
}

/// The same for a FastCGI responder.
pub fn fcgi(data: &[u8]) {
    let Some((cut, text)) = data.split_first() else { return };
    let early = text.get(..text.len() * usize::from(*cut) / 256).unwrap_or_default();
    for wanted in [None, Some(&b"pong"[..])] {
        let (first, whole) = (cgi::read(early, wanted), cgi::read(text, wanted));
        // Bytes of an incomplete record may add to the server's stderr.
        assert!(matches!(first, Ok(None)) || first == whole, "{first:?} and then {whole:?}");
        if let Ok(Some(response)) = whole {
            assert!((100..600).contains(&response.status) && response.found.is_some() == wanted.is_some());
            assert!(response.stderr.len() <= text.len());
        }
    }
}

/// The outcome, and the replies sent meanwhile.
fn exchange(pieces: &[&[u8]]) -> (Result<Option<Response>, String>, Vec<u8>) {
    let mut exchange = Exchange::default();
    for piece in pieces {
        let outcome = exchange.feed(piece);
        // A server cannot make the client send more than it sent itself, or keep more than one frame beyond that.
        assert!(exchange.replies.len() <= MAX_ANSWER && exchange.kept() <= MAX_ANSWER + MAX_FRAME + piece.len());
        if !matches!(outcome, Ok(None)) {
            return (outcome, exchange.replies);
        }
    }
    (Ok(None), exchange.replies)
}

/// A state file, whoever wrote it.
pub fn state(data: &[u8]) {
    let Ok(document) = state::parse(data) else { return };
    let again = serde_json::to_vec(&document).expect("what was read can be written");
    let again = state::parse(&again).expect("what was written can be read");
    assert_eq!(again.state, document.state);
    for target in document.state.health.iter().chain(&document.state.liveness) {
        let _ = target.parse::<Target>();
    }
}

/// A message from another instance: it prints as it was parsed, and nothing else parses.
pub fn share(data: &[u8]) {
    use crate::share::message::{Message, SIZE};
    if let Ok(message) = Message::parse(data) {
        assert_eq!(data.len(), SIZE);
        assert_eq!(message.bytes(), data, "{message:?}");
    }
}
