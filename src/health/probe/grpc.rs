//! Owns one call of `grpc.health.v1.Health/Check`: request, exchange, judgement. Must not know addresses.
//!
//! HTTP/2 with prior knowledge, in plaintext or over TLS, as in the kubelet's prober (pkg/probe/grpc/grpc.go) and grpc_health_probe.
//! Not a client library: a gRPC stack is larger than all of reberth, and one call needs five kinds of frames.

pub(crate) mod exchange;
mod hpack;
mod huffman;

use exchange::{Exchange, Response};
use hpack::{Name, literal};

use super::answer::{Answer, Status, answered_at};
use super::closing::{Closing, OpenConnection};
use super::connection::Connection;
use super::deadline::Deadline;
use super::http::header;
use super::wire::{Broken, Wire};
use crate::health::host::{bracketed, without_zone};
use crate::health::target::place::{HERE, Peer};
use crate::health::target::shown_grpc;
use crate::health::terms::Terms;

/// Entries of HPACK's static table (RFC 7541, appendix A).
const POST: u8 = 0x80 | 3;
const SCHEME_HTTP: u8 = 0x80 | 6;
#[cfg(feature = "tls")]
const SCHEME_HTTPS: u8 = 0x80 | 7;
const AUTHORITY: Name<'_> = Name::Static(1);
const PATH: Name<'_> = Name::Static(4);
const CONTENT_TYPE: Name<'_> = Name::Static(31);
const USER_AGENT: Name<'_> = Name::Static(58);

/// HEADER_TABLE_SIZE and ENABLE_PUSH, both 0: no dynamic table and no pushed streams (RFC 9113, 6.5.2).
const OUR_SETTINGS: [u8; 12] = [0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];

/// Headers that the protocol sets itself, or that HTTP/2 forbids (RFC 9113, 8.2.2). The user's values for them are not sent.
const NOT_THE_USERS: [&str; 9] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "te",
    "content-type",
    "content-length",
];

/// Codes of `grpc-status` (grpc, doc/statuscodes.md).
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
const NOT_FOUND: u32 = 5;
const UNIMPLEMENTED: u32 = 12;

/// Checks whether `service` is serving. The empty service is the server as a whole.
#[inline(never)]
pub fn probe((tls, peer): (bool, &Peer), service: &str, terms: &Terms, deadline: Deadline, own: Option<i32>) -> Answer {
    let (wire, address) = match Wire::to(peer, deadline, own) {
        Ok(connected) => connected,
        Err(reason) => return Answer::unhealthy(shown_grpc(tls, peer, service), reason),
    };
    let shown = shown_grpc(tls, &answered_at(peer, address), service);
    let connection = match (tls, peer) {
        #[cfg(feature = "tls")]
        (true, Peer::Host(host, _)) => {
            match super::tls::Session::start(wire, host, super::tls::Alpn::Http2, terms, deadline) {
                Ok(session) => Connection::Tls(Box::new(session)),
                Err(reason) => return Answer::unhealthy(shown, reason),
            }
        }
        _ => Connection::Plain(wire),
    };
    let authority = header(terms, "host").filter(|value| !value.is_empty()).map(str::to_owned);
    let authority = authority.unwrap_or_else(|| match peer {
        Peer::Host(host, port) => format!("{}:{port}", bracketed(without_zone(host))),
        Peer::Socket(_) => HERE.to_owned(),
    });
    match converse(connection, &authority, service, terms, deadline) {
        Ok((response, open)) => {
            let (status, outcome) = judge(&response, service);
            Answer { shown, status, outcome, closing: Closing::new(vec![open], deadline) }
        }
        Err(reason) => Answer::unhealthy(shown, reason),
    }
}

fn converse(
    mut connection: Connection,
    authority: &str,
    service: &str,
    terms: &Terms,
    deadline: Deadline,
) -> Result<(Response, OpenConnection), String> {
    let failed = |broken: Broken, doing| broken.words(doing, deadline);
    let scheme = match connection {
        Connection::Plain(_) => SCHEME_HTTP,
        #[cfg(feature = "tls")]
        Connection::Tls(_) => SCHEME_HTTPS,
    };
    let request = request(scheme, authority, service, terms)?;
    connection.send(&request, deadline).map_err(|broken| failed(broken, "sending the request"))?;
    let mut exchange = Exchange::default();
    let mut buffer = [0; 4096];
    loop {
        let doing = match (&exchange.greeted, exchange.begun()) {
            (false, _) => "waiting for the server to speak HTTP/2",
            (true, false) => "waiting for the answer",
            (true, true) => "reading the answer",
        };
        let replies = std::mem::take(&mut exchange.replies);
        match connection.send(&replies, deadline) {
            // A server that has closed takes no replies. What it sent before explains more than the broken pipe.
            Ok(()) | Err(Broken::Error(_)) => {}
            Err(broken) => return Err(failed(broken, doing)),
        }
        let size = connection.receive(&mut buffer, deadline).map_err(|broken| failed(broken, doing))?;
        if size == 0 {
            return Err(format!("the server closed the connection while {doing}"));
        }
        if let Some(response) = exchange.feed(buffer.get(..size).unwrap_or_default())? {
            // The pending replies, then GOAWAY with NO_ERROR; the last stream is 0, because the server opened none.
            let mut farewell = exchange.replies;
            exchange::frame(&mut farewell, exchange::GOAWAY, 0, &[0; 8]);
            return Ok((response, OpenConnection::sending(connection, farewell)));
        }
    }
}

/// Everything the client sends unprompted, in one piece: it need not wait for the server's preface (RFC 9113, 3.4).
fn request(scheme: u8, authority: &str, service: &str, terms: &Terms) -> Result<Vec<u8>, String> {
    let mut block = vec![POST, scheme];
    literal(&mut block, &PATH, b"/grpc.health.v1.Health/Check");
    literal(&mut block, &AUTHORITY, authority.as_bytes());
    // The protocol fixes what comes before the user's metadata, and its order (grpc, doc/PROTOCOL-HTTP2.md).
    literal(&mut block, &Name::Text("te"), b"trailers");
    literal(&mut block, &CONTENT_TYPE, b"application/grpc");
    if header(terms, "user-agent").is_none() {
        literal(&mut block, &USER_AGENT, terms.user_agent.as_bytes());
    }
    for (name, value) in &terms.headers {
        // HTTP/2 header names are lower case.
        let name = name.to_ascii_lowercase();
        let dropped = value.is_empty() && matches!(&*name, "accept" | "user-agent");
        if !dropped && !NOT_THE_USERS.contains(&&*name) {
            literal(&mut block, &Name::Text(&name), value.as_bytes());
        }
    }
    if block.len() > exchange::MAX_FRAME {
        return Err(format!("the headers to send are longer than {} KiB", exchange::MAX_FRAME / 1024));
    }
    let mut text = exchange::PREFACE.to_vec();
    exchange::frame(&mut text, exchange::SETTINGS, 0, &OUR_SETTINGS);
    exchange::frame(&mut text, exchange::HEADERS, exchange::END_HEADERS, &block);
    exchange::frame(&mut text, exchange::DATA, exchange::END_STREAM, &message(service));
    Ok(text)
}

/// `HealthCheckRequest {service}` in protobuf, after gRPC's five-byte prefix: uncompressed, length.
fn message(service: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    if !service.is_empty() {
        fields.push(1 << 3 | 2);
        let mut length = service.len();
        while length > 0x7f {
            fields.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        fields.push(length as u8);
        fields.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(fields.len()).unwrap_or_default();
    [&[0][..], &length.to_be_bytes(), &fields].concat()
}

/// `HealthCheckResponse.status`, or `None` if the data is not exactly one such message.
fn serving_status(data: &[u8]) -> Option<u64> {
    let (head, mut fields) = data.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *head;
    if compressed != 0 || u32::from_be_bytes(length) as usize != fields.len() {
        return None;
    }
    // proto3 omits a field that is 0.
    let mut status = 0;
    while !fields.is_empty() {
        let key = varint(&mut fields)?;
        match key & 7 {
            0 => {
                let value = varint(&mut fields)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => fields = fields.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut fields)?).ok()?;
                fields = fields.get(length..)?;
            }
            5 => fields = fields.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(fields: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = fields.split_first()?;
        *fields = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The verdict. Only SERVING in a call that succeeded is healthy.
pub(crate) fn judge(response: &Response, service: &str) -> (Option<Status>, Result<String, String>) {
    let subject =
        if service.is_empty() { "the server as a whole".to_owned() } else { format!("the service '{service}'") };
    let http = response.status.map(Status::Http);
    let Some(code) = response.code.filter(|_| response.status == Some(200)) else {
        let reason = match response.status {
            Some(200) => "the answer has no grpc-status: this is not a gRPC server",
            _ => "an HTTP status that is not 200 does not come from a gRPC server; is there a proxy in front of it?",
        };
        return (http, Err(reason.to_owned()));
    };
    if code != 0 {
        let name = usize::try_from(code).ok().and_then(|code| CODES.get(code)).copied();
        let mut reason = match code {
            UNIMPLEMENTED => "the server has no health service (grpc.health.v1.Health)".to_owned(),
            NOT_FOUND => format!("the health service does not know {subject}"),
            _ => format!("the call failed with grpc-status {code}"),
        };
        if !response.message.is_empty() {
            reason = format!("{reason}: {}", exchange::shortened(&unescaped(&response.message)));
        }
        return (Some(Status::Grpc(name.unwrap_or("UNRECOGNIZED"))), Err(reason));
    }
    let (status, outcome) = match serving_status(&response.data) {
        Some(0) => ("UNKNOWN", Err(format!("the health of {subject} is not known yet"))),
        Some(1) => ("SERVING", Ok(format!("{subject} serves"))),
        Some(2) => ("NOT_SERVING", Err(format!("{subject} does not serve"))),
        Some(3) => ("SERVICE_UNKNOWN", Err(format!("the health service does not know {subject}"))),
        Some(other) => ("UNRECOGNIZED", Err(format!("the status {other} is not one of grpc.health.v1"))),
        None => ("OK", Err("the answer is not a HealthCheckResponse".to_owned())),
    };
    (Some(Status::Grpc(status)), outcome)
}

/// Percent-decodes `grpc-message` (grpc, doc/PROTOCOL-HTTP2.md).
fn unescaped(message: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(message.len());
    let mut rest = message;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let digits = after.split_first_chunk::<2>().filter(|_| *first == b'%');
        let escaped = digits.and_then(|([high, low], after)| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
            Some((byte, after))
        });
        match escaped {
            Some((byte, after)) => {
                text.push(byte);
                rest = after;
            }
            None => text.push(*first),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(message(""), b"\0\0\0\0\0");
        assert_eq!(message("a.B"), b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "x".repeat(300);
        assert_eq!(message(&long)[..8], *b"\0\0\0\x01\x2f\x0a\xac\x02");
    }

    #[test]
    fn serving_statuses() {
        for (fields, want) in [
            (&b""[..], Some(0)),
            (b"\x08\x00", Some(0)),
            (b"\x08\x01", Some(1)),
            (b"\x08\x81\x00", Some(1)),
            (b"\x08\x01\x08\x02", Some(2)),
            // Unknown fields, one of each wire type.
            (b"\x10\x05\x19abcdefgh\x22\x02\x08\x02\x2dabcd\x08\x01", Some(1)),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Some(u64::MAX)),
            (b"\x08", None),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
            (b"\x0b", None),
            (b"\x0a\x05abc", None),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
            (b"\x0d\x01", None),
        ] {
            let length = (fields.len() as u32).to_be_bytes();
            assert_eq!(serving_status(&[&[0], &length[..], fields].concat()), want, "{fields:?}");
        }
        for bad in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x02\x08", b"\0\0\0\0\x02\x08\x01\0"] {
            assert_eq!(serving_status(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn judgements() {
        let status = |number: u8| [0, 0, 0, 0, 2, 8, number].to_vec();
        let response = |status, code, message: &str, data| Response { status, code, message: message.into(), data };
        for (response, word, healthy, reason) in [
            (response(Some(200), Some(0), "", status(1)), "SERVING", true, "the service 'a.B' serves"),
            (response(Some(200), Some(0), "", status(0)), "UNKNOWN", false, "not known yet"),
            (response(Some(200), Some(0), "", vec![0; 5]), "UNKNOWN", false, "not known yet"),
            (response(Some(200), Some(0), "", status(2)), "NOT_SERVING", false, "does not serve"),
            (response(Some(200), Some(0), "", status(3)), "SERVICE_UNKNOWN", false, "does not know the service 'a.B'"),
            (response(Some(200), Some(0), "", status(4)), "UNRECOGNIZED", false, "the status 4"),
            (response(Some(200), Some(0), "", Vec::new()), "OK", false, "not a HealthCheckResponse"),
            (response(Some(200), Some(5), "no%20such%zz", status(1)), "NOT_FOUND", false, "'a.B': no such%zz"),
            (response(Some(200), Some(12), "", Vec::new()), "UNIMPLEMENTED", false, "has no health service"),
            (response(Some(200), Some(14), "later", status(1)), "UNAVAILABLE", false, "grpc-status 14: later"),
            (response(Some(200), Some(99), "", status(1)), "UNRECOGNIZED", false, "grpc-status 99"),
            (response(Some(200), None, "", status(1)), "200", false, "no grpc-status"),
            (response(Some(503), Some(0), "", status(1)), "503", false, "not 200"),
            (response(None, Some(0), "", status(1)), "", false, "not 200"),
        ] {
            let (got, outcome) = judge(&response, "a.B");
            assert_eq!(got.map(|status| status.to_string()).unwrap_or_default(), word, "{response:?}");
            let said = outcome.as_ref().unwrap_or_else(|why| why);
            assert!(outcome.is_ok() == healthy && said.contains(reason), "{response:?}: {outcome:?}");
        }
        let (_, outcome) = judge(&response(Some(200), Some(2), &"x".repeat(9999), Vec::new()), "");
        assert!(outcome.unwrap_err().len() < 300);
    }
}
