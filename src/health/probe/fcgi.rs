//! Owns one request to a FastCGI responder such as php-fpm: records, CGI head, judgement. Must not know addresses.
//! (fastcgi-archives.github.io/FastCGI_Specification.html; RFC 3875 for the head.)

use super::answer::{Answer, Status, answered_at};
use super::closing::{Closing, OpenConnection};
use super::connection::Connection;
use super::database::{MAX_ANSWER, converse};
use super::deadline::Deadline;
use super::grpc::exchange::shortened;
use super::http::{accepted, end_of_head, status_list};
use super::wire::Wire;
use crate::health::target::place::Peer;
use crate::health::terms::Terms;

const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

/// The id of the one request. Id 0 is for management records.
const REQUEST: u16 = 1;

/// The longest content of a record. Bytes.
const LONGEST: usize = 0xffff;

/// The part of a response that the verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub status: u16,
    /// Whether the body contains the text; `None` if there was none to search for.
    pub found: Option<bool>,
    pub stderr: Vec<u8>,
}

/// Requests `path`.
#[inline(never)]
pub fn probe(peer: &Peer, path: &str, terms: &Terms, deadline: Deadline) -> Answer {
    let (wire, address) = match Wire::to(peer, deadline, None) {
        Ok(connected) => connected,
        Err(reason) => return Answer::unhealthy(peer.shown("fcgi", path), reason),
    };
    let shown = answered_at(peer, address).shown("fcgi", path);
    let wanted = terms.body_contains.as_deref().map(str::as_bytes);
    let mut connection = Connection::Plain(wire);
    let response = converse(&mut connection, &request(path, terms), |text| read(text, wanted), deadline);
    match response {
        Ok(response) => {
            let outcome = judge(&response, terms);
            let closing = Closing::new(vec![OpenConnection::sending(connection, Vec::new())], deadline);
            Answer { shown, status: Some(Status::Http(response.status)), outcome, closing }
        }
        Err(reason) => Answer::unhealthy(shown, reason),
    }
}

fn judge(response: &Response, terms: &Terms) -> Result<String, String> {
    let list = status_list(terms);
    if !accepted(terms, response.status) {
        let stderr = response.stderr.trim_ascii();
        let told = if stderr.is_empty() { String::new() } else { format!("; it logs: {}", shortened(stderr)) };
        return Err(format!("the status is not in {list}{told}"));
    }
    match response.found {
        None => Ok(format!("the status is in {list}")),
        Some(true) => Ok("the body contains the text".into()),
        Some(false) => Err("the body does not contain the text".into()),
    }
}

/// The whole request: begin, parameters, empty body. It asks the server to close the connection.
fn request(path: &str, terms: &Terms) -> Vec<u8> {
    let (script, query) = path.split_once('?').unwrap_or((path, ""));
    let mut params = Vec::new();
    for (name, value) in [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_METHOD", terms.method.as_str()),
        ("SCRIPT_NAME", script),
        // php-fpm finds its own pages and scripts by this one.
        ("SCRIPT_FILENAME", script),
        ("REQUEST_URI", path),
        ("QUERY_STRING", query),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("SERVER_NAME", "localhost"),
        ("SERVER_PORT", "80"),
        ("CONTENT_LENGTH", "0"),
        ("HTTP_USER_AGENT", &terms.user_agent),
    ] {
        param(&mut params, name, value);
    }
    for (name, value) in &terms.headers {
        param(&mut params, &format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_")), value);
    }
    let mut text = Vec::new();
    // FCGI_RESPONDER, without FCGI_KEEP_CONN.
    record(&mut text, BEGIN_REQUEST, &[0, 1, 0, 0, 0, 0, 0, 0]);
    params.chunks(LONGEST).for_each(|part| record(&mut text, PARAMS, part));
    record(&mut text, PARAMS, &[]);
    record(&mut text, STDIN, &[]);
    text
}

fn param(out: &mut Vec<u8>, name: &str, value: &str) {
    for length in [name.len(), value.len()] {
        match u8::try_from(length) {
            Ok(short) if short < 0x80 => out.push(short),
            _ => out.extend_from_slice(&(u32::try_from(length).unwrap_or_default() | 1 << 31).to_be_bytes()),
        }
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value.as_bytes());
}

fn record(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let [low, high] = u16::try_from(content.len()).unwrap_or_default().to_be_bytes();
    let [id_low, id_high] = REQUEST.to_be_bytes();
    out.extend_from_slice(&[1, kind, id_low, id_high, low, high, 0, 0]);
    out.extend_from_slice(content);
}

/// Parses what has arrived so far. Decides once the head is complete; with `wanted`, once that is found or the response is complete.
pub(crate) fn read(text: &[u8], wanted: Option<&[u8]>) -> Result<Option<Response>, String> {
    let (mut out, mut stderr) = (Vec::new(), Vec::new());
    let mut head = None;
    let response = |status, found, stderr: &[u8]| Ok(Some(Response { status, found, stderr: stderr.to_vec() }));
    let mut rest = text;
    while let Some(first) = rest.first() {
        if *first != 1 {
            return Err(other_protocol());
        }
        let Some(([_, kind, id_high, id_low, high, low, padding, _], after)) = rest.split_first_chunk::<8>() else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let ours = u16::from_be_bytes([*id_high, *id_low]) == REQUEST;
        let content = after.get(..length).unwrap_or(after);
        match *kind {
            STDOUT if ours => {
                let before = out.len();
                out.extend_from_slice(content);
                if head.is_none()
                    && let Some(end) = end_of_head(&out, before)
                {
                    head = Some((status(out.get(..end).unwrap_or_default())?, end));
                }
                if let Some((status, end)) = head {
                    let Some(wanted) = wanted else { return response(status, None, &stderr) };
                    let from = end.max(before.saturating_sub(wanted.len()));
                    if memchr::memmem::find(out.get(from..).unwrap_or_default(), wanted).is_some() {
                        return response(status, Some(true), &stderr);
                    }
                }
            }
            STDERR if ours => stderr.extend_from_slice(content),
            END_REQUEST if ours && content.len() == length => {
                refusal(content)?;
                let (status, _) = head.ok_or("the request ended without an answer")?;
                return response(status, Some(false), &stderr);
            }
            // Management records, or records of a request that is not ours.
            0..=11 => {}
            _ => return Err(other_protocol()),
        }
        let Some(next) = after.get(length + usize::from(*padding)..) else { break };
        rest = next;
    }
    match head {
        // Not found in the part that is read counts as not found, as in an HTTP body.
        Some((status, _)) if text.len() >= MAX_ANSWER => response(status, Some(false), &stderr),
        _ => Ok(None),
    }
}

/// An error, unless the end of the request says that it was completed.
fn refusal(content: &[u8]) -> Result<(), String> {
    let why = match content.get(4) {
        Some(0) => return Ok(()),
        Some(1) => "it takes no more requests on this connection",
        Some(2) => "it is overloaded",
        Some(3) => "it is no responder",
        _ => return Err(other_protocol()),
    };
    Err(format!("the server refuses the request: {why}"))
}

/// The status of a CGI head: its `Status` line, or 200 without one.
fn status(head: &[u8]) -> Result<u16, String> {
    let mut status = 200;
    for line in head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err("the answer has no CGI head".into());
        };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"status") {
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let code = value.split(u8::is_ascii_whitespace).next().and_then(|code| std::str::from_utf8(code).ok());
            let code = code.filter(|code| code.len() == 3).and_then(|code| code.parse().ok());
            status = code.filter(|code| (100..600).contains(code)).ok_or("its Status line has no status")?;
        }
    }
    Ok(status)
}

fn other_protocol() -> String {
    "the answer is not that of a FastCGI server".into()
}

#[cfg(test)]
mod tests;
