//! Owns one HTTP/1.1 probe: request, response head, redirects, judgement. Must not know addresses or TLS.
//!
//! Not a client library: the deadline, the redirect rule, the header rules and the limits are what a probe is, and a general client
//! would have to be configured against its own at each of these points. `httparse` owns the grammar of the head.

use std::fmt::Write as _;
use std::path::Path;

use super::answer::{Answer, Status};
use super::body::{self, Body};
use super::closing::{Closing, OpenConnection};
use super::connection::Connection;
use super::deadline::Deadline;
use super::wire::{Broken, Wire};
use crate::health::host::is_here;
use crate::health::terms::Terms;
use crate::health::url::{Url, has_scheme};

/// How much of a head is read, interim responses included. Bytes.
const MAX_HEAD: usize = 64 * 1024;

/// How many header lines are parsed.
const MAX_HEADERS: usize = 256;

/// The limit of the kubelet and of Go (net/http/client.go, `defaultCheckRedirect`; pkg/probe/http/http.go, `RedirectChecker`).
const MAX_REDIRECTS: usize = 10;

/// The parts of a response head that a probe needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub status: u16,
    pub location: Option<String>,
    pub framing: body::Framing,
}

/// Requests `url`, over the Unix socket `socket` if there is one, follows redirects and judges the last response.
pub fn probe(
    url: &Url,
    (socket, own): (Option<&Path>, Option<i32>),
    shown: String,
    terms: &Terms,
    deadline: Deadline,
) -> Answer {
    let own = own.map(|root| (url.port, root));
    let (url, method) = (url.clone(), terms.method.clone());
    let mut probe = HttpProbe { url, method, host: None, shown, status: None, open: Vec::new(), terms, deadline, own };
    probe.host = header(terms, "host").filter(|value| !value.is_empty()).map(str::to_owned);
    let outcome = probe.follow(socket);
    let closing = Closing::new(probe.open, deadline);
    Answer { shown: probe.shown, status: probe.status.map(Status::Http), outcome, closing }
}

struct HttpProbe<'a> {
    url: Url,
    method: String,
    /// The user's Host header, if it replaces the URL's own.
    host: Option<String>,
    shown: String,
    status: Option<u16>,
    /// Connections whose responses are not read to the end.
    open: Vec<OpenConnection>,
    terms: &'a Terms,
    deadline: Deadline,
    /// The shared port, and the pid of the `run` whose app must answer on it.
    own: Option<(u16, i32)>,
}

impl HttpProbe<'_> {
    fn follow(&mut self, socket: Option<&Path>) -> Result<String, String> {
        let first = self.url.host.clone();
        for redirects in 0..=MAX_REDIRECTS {
            let exchanged = self.exchange(socket, redirects == 0);
            let (connection, head, rest) = exchanged.map_err(|why| format!("{why}{}", self.followed(redirects)))?;
            self.status = Some(head.status);
            let Some(location) = self.redirect(&head) else {
                return self.judge(connection, &head, &rest, redirects, "");
            };
            // Compare the hostnames as text before anything else of the `Location`, as the kubelet does.
            let elsewhere = self.url.host_of(location) != first;
            let next = match self.url.join(location) {
                Ok(next) => Some(next),
                Err(_) if elsewhere => None,
                Err(why) => return Err(format!("the redirect of status {} leads nowhere: {why}", head.status)),
            };
            // A Unix socket has no host and no TLS, so a redirect to https:// leaves it.
            let next = match next {
                Some(next) if !(elsewhere || socket.is_some() && next.tls) => next,
                next => {
                    let place = next.map_or_else(
                        || format!("host {:?}", self.url.host_of(location)),
                        |next| next.shown_without_query(),
                    );
                    let note = format!("; not followed, it leads elsewhere: {place}");
                    return self.judge(connection, &head, &rest, redirects, &note);
                }
            };
            // Only a relative reference keeps the user's Host header (net/http/client.go).
            if has_scheme(location) {
                self.host = None;
            }
            if matches!(head.status, 301..=303) && self.method != "GET" && self.method != "HEAD" {
                "GET".clone_into(&mut self.method);
            }
            self.drain_later(connection, &head, &rest, false);
            self.url = next;
        }
        Err(format!("stopped after {MAX_REDIRECTS} redirects"))
    }

    /// Sends one request. Returns the response head and the bytes after it.
    fn exchange(&mut self, socket: Option<&Path>, first: bool) -> Result<(Connection, Head, Vec<u8>), String> {
        let mut connection = self.connect(socket, first)?;
        let request = request(&self.url, &self.method, self.host.as_deref(), self.terms)?;
        connection
            .send(request.as_bytes(), self.deadline)
            .map_err(|broken| self.failed(broken, "sending the request"))?;
        let (head, rest) = self.head(&mut connection)?;
        Ok((connection, head, rest))
    }

    /// Names the redirects that led to the current URL, for messages.
    fn followed(&self, redirects: usize) -> String {
        match redirects {
            0 => String::new(),
            1 => format!(" after a redirect to {}", self.url.shown_without_query()),
            many => format!(" after {many} redirects, the last to {}", self.url.shown_without_query()),
        }
    }

    fn connect(&mut self, socket: Option<&Path>, first: bool) -> Result<Connection, String> {
        let wire = match socket {
            Some(socket) => Wire::unix(socket, self.deadline)?,
            None => {
                let own = self.own.filter(|(port, _)| *port == self.url.port).map(|(_, root)| root);
                let (wire, address) = Wire::tcp_to(&self.url.host, self.url.port, self.deadline, own)?;
                // `localhost` has two addresses: the verdict shows the one that answered.
                if first && is_here(&self.url.host) {
                    self.shown = Url { host: address.ip().to_string(), ..self.url.clone() }.shown();
                }
                wire
            }
        };
        if !self.url.tls {
            return Ok(Connection::Plain(wire));
        }
        #[cfg(feature = "tls")]
        let connection =
            super::tls::Session::start(wire, &self.url.host, super::tls::Alpn::Http, self.terms, self.deadline)
                .map(|session| Connection::Tls(Box::new(session)));
        #[cfg(not(feature = "tls"))]
        let connection = Err("https is not built into this reberth; use http, or the build with TLS".to_owned());
        connection
    }

    /// The `Location` to follow, if any.
    fn redirect<'h>(&self, head: &'h Head) -> Option<&'h str> {
        let wanted = self.terms.status_explicit && accepted(self.terms, head.status);
        match head.status {
            301 | 302 | 303 | 307 | 308 if !wanted => head.location.as_deref(),
            _ => None,
        }
    }

    fn judge(
        &mut self,
        mut connection: Connection,
        head: &Head,
        rest: &[u8],
        redirects: usize,
        note: &str,
    ) -> Result<String, String> {
        let status = head.status;
        let followed = self.followed(redirects);
        let list = status_list(self.terms);
        let wanted = match &self.terms.body_contains {
            Some(wanted) if accepted(self.terms, status) => wanted,
            _ => {
                self.drain_later(connection, head, rest, true);
                let list = format!("in {list}{followed}{note}");
                return if accepted(self.terms, status) {
                    Ok(format!("the status is {list}"))
                } else {
                    Err(format!("the status is not {list}"))
                };
            }
        };
        let mut body = Body::new(self.framing(head));
        let found = body.feed(rest);
        let found = found.and_then(|()| body::contains(&mut connection, &mut body, wanted.as_bytes(), self.deadline));
        let found = found.map_err(|broken| self.failed(broken, "reading the body"))?;
        self.open.extend(OpenConnection::of_response(connection, body.discarding()));
        match found {
            body::Search::Found => Ok(format!("the body contains the text{followed}{note}")),
            body::Search::Missing => Err(format!("the body does not contain the text{followed}{note}")),
            body::Search::TooLong => Err(format!(
                "the first {} KiB of the body do not contain the text{followed}{note}",
                body::MAX_BODY / 1024
            )),
        }
    }

    fn framing(&self, head: &Head) -> body::Framing {
        if self.method == "HEAD" { body::Framing::None } else { head.framing }
    }

    /// Keeps the connection for draining after the verdict: its body is not needed, and `rest` of it came with the head. A connection with
    /// a complete body is closed before the next request, because a server may take only one client at a time.
    fn drain_later(&mut self, connection: Connection, head: &Head, rest: &[u8], last: bool) {
        let mut body = Body::new(self.framing(head)).discarding();
        if body.feed(rest).is_ok() && (last || body.is_worth_draining()) {
            self.open.extend(OpenConnection::of_response(connection, body));
        }
    }

    /// Reads a complete head. Returns it with the bytes after it.
    fn head(&self, connection: &mut Connection) -> Result<(Head, Vec<u8>), String> {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        let (mut scanned, mut dropped) = (0, 0);
        loop {
            let doing = if text.is_empty() { "waiting for the answer" } else { "reading the headers" };
            let size = connection.receive(&mut buffer, self.deadline).map_err(|broken| self.failed(broken, doing))?;
            if size == 0 && text.is_empty() {
                return Err("the server closed the connection without an answer".to_owned());
            }
            if size == 0 {
                return Err("the server closed the connection in the middle of the headers".to_owned());
            }
            text.extend_from_slice(buffer.get(..size).unwrap_or_default());
            begins_like_http(&text)?;
            while let Some(end) = end_of_head(&text, scanned) {
                let head = parse(text.get(..end).unwrap_or_default())?;
                text.drain(..end);
                // 100 and 103 precede the final response; nothing follows a 101.
                if head.status == 101 || !(100..200).contains(&head.status) {
                    return Ok((head, text));
                }
                (scanned, dropped) = (0, dropped + end);
            }
            scanned = text.len();
            if dropped + scanned > MAX_HEAD {
                return Err(format!("the headers are longer than {} KiB", MAX_HEAD / 1024));
            }
        }
    }

    fn failed(&self, broken: Broken, doing: &str) -> String {
        broken.words(doing, self.deadline)
    }
}

/// The user's first header with this name.
pub fn header<'a>(terms: &'a Terms, name: &str) -> Option<&'a str> {
    terms.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// The kubelet's request (pkg/probe/http/request.go): a default header is sent unless the user sets it, and dropped if set to empty.
///
/// `Connection: close`, as the kubelet sends: the server closes first, so TIME_WAIT stays on its side.
fn request(url: &Url, method: &str, host: Option<&str>, terms: &Terms) -> Result<String, String> {
    // A line break in a value would end the head early, or smuggle in a second request.
    let given = terms.headers.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let mut parts = given.chain([method, url.host.as_str(), terms.user_agent.as_str()]);
    if parts.any(|part| part.contains(|letter: char| letter.is_ascii_control() && letter != '\t')) {
        return Err("a control character in the method, the host or a header".to_owned());
    }
    let mut text = format!("{method} {} HTTP/1.1\r\nHost: ", url.request_target());
    text.push_str(host.unwrap_or(&url.authority()));
    text.push_str("\r\n");
    let mut line = |name: &str, value: &str| {
        let _ = write!(text, "{name}: {value}\r\n");
    };
    for (name, default) in [("User-Agent", terms.user_agent.as_str()), ("Accept", "*/*"), ("Connection", "close")] {
        if header(terms, name).is_none() && !default.is_empty() {
            line(name, default);
        }
    }
    if matches!(method, "POST" | "PUT" | "PATCH") && header(terms, "content-length").is_none() {
        line("Content-Length", "0");
    }
    for (name, value) in &terms.headers {
        let dropped = value.is_empty()
            && ["accept", "user-agent", "connection"].iter().any(|drop| name.eq_ignore_ascii_case(drop));
        if !dropped && !name.eq_ignore_ascii_case("host") {
            line(name, value);
        }
    }
    text.push_str("\r\n");
    Ok(text)
}

pub(super) fn accepted(terms: &Terms, status: u16) -> bool {
    terms.status.iter().any(|(low, high)| (*low..=*high).contains(&status))
}

pub(super) fn status_list(terms: &Terms) -> String {
    let range = |(low, high): &(u16, u16)| if low == high { low.to_string() } else { format!("{low}-{high}") };
    terms.status.iter().map(range).collect::<Vec<_>>().join(",")
}

/// Fails at the first byte that cannot start an HTTP response: a server of another protocol may never send a newline.
pub(crate) fn begins_like_http(text: &[u8]) -> Result<(), String> {
    let known = b"HTTP/1.";
    if text.iter().zip(known).all(|(got, want)| got == want) {
        return Ok(());
    }
    Err(match text {
        [0x15 | 0x16, 0x03, ..] => "the server speaks TLS here; use https://".to_owned(),
        _ => "the answer is not HTTP/1".to_owned(),
    })
}

/// The end of the empty line. Starts searching shortly before `scanned`.
pub(crate) fn end_of_head(text: &[u8], scanned: usize) -> Option<usize> {
    let from = scanned.saturating_sub(3);
    let tail = text.get(from..)?;
    let mut breaks = tail.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    breaks.find_map(|at| match tail.get(at + 1..)? {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

pub(crate) fn parse(text: &[u8]) -> Result<Head, String> {
    // Most responses have few headers, and room for many costs two fresh stack pages.
    let parsed = match parse_with::<32>(text) {
        Err(httparse::Error::TooManyHeaders) => parse_with::<MAX_HEADERS>(text),
        parsed => parsed,
    };
    parsed.map_err(|error| match error {
        httparse::Error::TooManyHeaders => format!("the answer has more than {MAX_HEADERS} headers"),
        _ => "the answer is not HTTP/1".to_owned(),
    })
}

// Inlined, both sizes would share one stack frame.
#[inline(never)]
fn parse_with<const HEADERS: usize>(text: &[u8]) -> Result<Head, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    // As lenient as clients are: a probe tests whether the app works, not whether its headers are well formed.
    let parsed = httparse::ParserConfig::default()
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .parse_response(&mut response, text)?;
    let status = match (parsed, response.code) {
        (httparse::Status::Complete(_), Some(status)) => status,
        _ => return Err(httparse::Error::Status),
    };
    let value = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value.trim_ascii())
    };
    let find = |name: &str| value(name).map(String::from_utf8_lossy);
    let location = value("location").map(escaped).filter(|location| !location.is_empty());
    let chunked = find("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
    let framing = match (status, chunked, find("content-length").and_then(|value| value.parse().ok())) {
        (..200 | 204 | 304, _, _) => body::Framing::None,
        (_, true, _) => body::Framing::Chunked,
        (_, _, Some(length)) => body::Framing::Length(length),
        _ => body::Framing::UntilClose,
    };
    Ok(Head { status, location, framing })
}

/// A `Location` as text. Its path may be in any encoding, so its bytes are percent-encoded unchanged, as browsers do.
fn escaped(location: &[u8]) -> String {
    let mut text = String::with_capacity(location.len());
    for byte in location {
        if byte.is_ascii() {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_heads() {
        for (text, want) in [
            ("HTTP/1.1 200 OK\r\n\r\nbody\r\n\r\n", Some(19)),
            ("HTTP/1.1 200\n\nbody", Some(14)),
            ("HTTP/1.1 200\r\na: b\r\n\r", None),
            ("", None),
        ] {
            // Wherever the packets are cut, the end is the same.
            for scanned in 0..want.unwrap_or(text.len()) {
                assert_eq!(end_of_head(text.as_bytes(), scanned), want, "{text:?} from {scanned}");
            }
        }
    }

    #[test]
    fn heads() {
        let parsed = |text: &str| parse(text.as_bytes()).map(|head| (head.status, head.location, head.framing));
        use body::Framing;
        for (text, want) in [
            ("HTTP/1.1 200 OK\r\n\r\n", (200, None, Framing::UntilClose)),
            ("HTTP/1.0 503\r\nContent-Length: 12\r\n\r\n", (503, None, Framing::Length(12))),
            ("HTTP/1.1 204 No\r\nContent-Length: 12\r\n\r\n", (204, None, Framing::None)),
            (
                "HTTP/1.1 302 F\nlocation:  /x \nTransfer-Encoding: gzip, Chunked\n\n",
                (302, Some("/x".into()), Framing::Chunked),
            ),
            ("HTTP/1.1 301 F\r\nbad header\r\nLocation:\r\n\r\n", (301, None, Framing::UntilClose)),
        ] {
            assert_eq!(parsed(text), Ok(want), "{text:?}");
        }
        // "é" in UTF-8 and in Latin-1.
        for (path, want) in [(&b"/\xc3\xa9?\xc3\xa9"[..], "/%C3%A9?%C3%A9"), (b"/\xe9", "/%E9"), (b"/%e9 x", "/%e9 x")]
        {
            let text = [b"HTTP/1.1 302 F\r\nLocation: ", path, b"\r\n\r\n"].concat();
            assert_eq!(parse(&text).unwrap().location.unwrap(), want);
        }
        for text in ["HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 20\r\n\r\n", "HTTP/2 200 OK\r\n\r\n"] {
            assert!(parsed(text).is_err(), "{text:?}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(parsed(&many).unwrap_err(), "the answer has more than 256 headers");
    }

    #[test]
    fn first_bytes() {
        for text in ["H", "HTTP/1.1", "HTTP/1.0 200"] {
            assert_eq!(begins_like_http(text.as_bytes()), Ok(()));
        }
        assert!(begins_like_http(b"SSH-2.0").unwrap_err().contains("not HTTP"));
        assert!(begins_like_http(b"HTTP/2 200").is_err());
        assert!(begins_like_http(b"\x15\x03\x01").unwrap_err().contains("TLS"));
    }
}
