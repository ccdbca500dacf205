//! Owns how a target is probed: the timeout, what is sent and what is accepted, and the text form of status lists, headers and methods.
//! Must not know which target, or how bytes are sent.

use std::path::PathBuf;
use std::time::Duration;

/// The options of a probe, whatever its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// For one whole attempt: resolve, connect, request and answer.
    pub timeout: Duration,
    /// Accepted status codes, inclusive ranges.
    pub status: Vec<(u16, u16)>,
    /// `--status` was given: a 3xx that it names is accepted, not followed.
    pub status_explicit: bool,
    /// In the order given; the same name may occur more than once.
    pub headers: Vec<(String, String)>,
    pub method: String,
    pub body_contains: Option<String>,
    pub ca: Option<PathBuf>,
    /// The client certificate and its key: both or neither.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub insecure: bool,
    pub user_agent: String,
}

/// Status codes that count as healthy: codes and inclusive ranges, 100 to 599, comma-separated.
pub fn status(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let code = |text: &str| {
        let number: u16 = Some(text.trim()).filter(|text| text.len() == 3 && !text.starts_with('+'))?.parse().ok()?;
        (100..=599).contains(&number).then_some(number)
    };
    text.split(',')
        .map(|item| {
            let (low, high) = item.split_once('-').unwrap_or((item, item));
            code(low).zip(code(high)).filter(|(low, high)| low <= high)
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "a status list is codes and ranges from 100 to 599, such as 200-399,418".into())
}

/// One header line `Name: value`. The value may be empty.
pub fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').map(|(name, value)| (name, value.trim())).unwrap_or_default();
    if token(name) && printable(value) {
        Ok((name.into(), value.into()))
    } else {
        Err("a header is 'Name: value', printable ASCII on one line".into())
    }
}

/// Several headers, one per line. Empty lines are ignored.
pub fn headers(text: &str) -> Result<Vec<(String, String)>, String> {
    let lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    lines.filter(|line| !line.trim().is_empty()).map(header).collect()
}

/// A request method: a token, sent as typed (methods are case-sensitive, RFC 9110 section 9.1).
pub fn method(text: &str) -> Result<String, String> {
    if token(text) { Ok(text.into()) } else { Err("a method is one word such as GET or HEAD".into()) }
}

/// A header value such as the user agent: printable ASCII, not empty.
pub fn agent(text: &str) -> Result<String, String> {
    if !text.is_empty() && printable(text) {
        Ok(text.into())
    } else {
        Err("must be printable ASCII on one line".into())
    }
}

/// A token as in RFC 9110 section 5.6.2.
fn token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn printable(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lists() {
        assert_eq!(status("200"), Ok(vec![(200, 200)]));
        assert_eq!(status("200-399,418"), Ok(vec![(200, 399), (418, 418)]));
        assert_eq!(status("200, 300 - 399"), Ok(vec![(200, 200), (300, 399)]));
        for bad in ["", "2xx", "99", "600", "399-200", "200-", "-200", "200,", "0200", "+20", "200-300-400"] {
            assert!(status(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn header_lines() {
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        assert_eq!(header("Host: example.org"), Ok(pair("Host", "example.org")));
        assert_eq!(header("X-A:b:c "), Ok(pair("X-A", "b:c")));
        assert_eq!(header("Accept:"), Ok(pair("Accept", "")));
        for bad in ["", "Host", ": v", "Ho st: v", "Host : v", "K: a\nB: c", "K: \u{1b}", "K: é", "K: a\0"] {
            assert!(header(bad).is_err(), "{bad:?}");
        }
        assert_eq!(headers("A: 1\r\n\nB: 2\n"), Ok(vec![pair("A", "1"), pair("B", "2")]));
        assert!(headers("A: 1\nB").is_err());
        assert!(method("GET").is_ok() && method("PROPFIND").is_ok() && method("G T").is_err() && method("").is_err());
        assert!(agent("kube-probe/1.30").is_ok() && agent("").is_err() && agent("a\nb").is_err());
    }
}
