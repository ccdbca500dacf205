//! Owns where a target is: a host and port or a Unix socket, its text form and how that is read. Must not know what is asked there.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::health::host::{bracketed, plain_zone};

/// The kernel's `sun_path` holds 108 bytes with the final zero, or with the first one of an abstract name (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// The longest name of an interface (`IFNAMSIZ`), without its zero.
const LONGEST_ZONE: usize = 15;

/// This machine, on whichever family.
pub const HERE: &str = "localhost";

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// IPv6 without its brackets, with its zone behind a `%`.
    Host(String, u16),
    /// The path of a Unix socket, or `@name` of an abstract one.
    Socket(PathBuf),
}

impl Peer {
    /// `SCHEME://HOST:PORT/PATH` or `SCHEME:unix:SOCKET:/PATH`; `path` is empty or has its `/`.
    pub fn shown(&self, scheme: &str, path: &str) -> String {
        match self {
            Self::Host(host, port) => format!("{scheme}://{}:{port}{path}", bracketed(host)),
            Self::Socket(socket) => {
                let colon = if path.is_empty() { "" } else { ":" };
                format!("{scheme}:unix:{}{colon}{path}", socket.display())
            }
        }
    }
}

/// Reads what follows `SCHEME:`, which is `//HOST[:PORT][/PATH]`, `PORT[/PATH]` of this machine, or `unix:SOCKET[:/PATH]`; the path is
/// empty or has its `/`. `default` is the port of a host without one.
pub fn place<'t>(scheme: &str, rest: &'t str, default: Option<u16>) -> Result<(Peer, &'t str), String> {
    let split = |text: &'t str| text.split_at(text.find('/').unwrap_or(text.len()));
    if let Some(rest) = rest.strip_prefix("//") {
        let (text, path) = split(rest);
        if text.contains('@') {
            return Err("it asks without a login, so no credentials go into it".into());
        }
        let (host, port) = authority(text)?;
        let port = port.or(default).ok_or_else(|| format!("{scheme}://host needs a port"))?;
        return Ok((Peer::Host(host, port), path));
    }
    if let Some(rest) = strip_word(rest, "unix:") {
        let (socket, path) = socket(rest)?;
        return Ok((Peer::Socket(socket), path));
    }
    let (number, path) = split(rest);
    Ok((Peer::Host(HERE.into(), port(number)?), path))
}

/// Whether what follows `SCHEME:` says a place, as [`place`] reads it.
pub fn is_place(rest: &str) -> bool {
    let number = rest.split('/').next().unwrap_or_default();
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    rest.starts_with("//") || strip_word(rest, "unix:").is_some() || digits
}

fn strip_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(word.len())?;
    start.eq_ignore_ascii_case(word).then_some(rest)
}

/// `/path` or `@name` of a Unix socket, and the path behind its `:`, if there is one.
pub fn socket(text: &str) -> Result<(PathBuf, &str), String> {
    let (socket, path) = match text.find(":/") {
        Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default()),
        None => (text, ""),
    };
    if !socket.starts_with(['/', '@']) || socket == "@" || socket.contains('\0') {
        return Err("the socket of unix: is an absolute path, or @name of an abstract one".into());
    }
    // The `@` stands for the zero that an abstract name begins with; a path has one at its end.
    if socket.len() > LONGEST_SOCKET {
        return Err(format!("a socket's path has at most {LONGEST_SOCKET} bytes"));
    }
    Ok((socket.into(), path))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; the host without brackets.
pub fn authority(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, number) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => {
            let host = address(host)?;
            match rest.strip_prefix(':') {
                Some(number) => (host, Some(number)),
                None if rest.is_empty() => (host, None),
                None => return Err("after the address comes :port".into()),
            }
        }
        None => match text.split_once(':') {
            Some((_, number)) if number.contains(':') => return Err("an IPv6 address goes in brackets".into()),
            Some((host, number)) => (host.to_owned(), Some(number)),
            None => (text.to_owned(), None),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) || host.contains('%') && !host.contains(':') {
        return Err("it has no valid host".into());
    }
    Ok((host, number.map(port).transpose()?))
}

/// An IPv6 address, and its zone if it has one: `fe80::1%eth0`, or with the `%25` of a URL (RFC 6874).
fn address(text: &str) -> Result<String, String> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(plain_zone(zone))),
        None => (text, None),
    };
    if address.parse::<Ipv6Addr>().is_err() {
        return Err("in brackets goes an IPv6 address".into());
    }
    let Some(zone) = zone else { return Ok(address.to_owned()) };
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if zone.is_empty() || zone.len() > LONGEST_ZONE || !zone.bytes().all(word) {
        return Err(format!("after the % of an address comes its interface, at most {LONGEST_ZONE} letters"));
    }
    Ok(format!("{address}%{zone}"))
}

fn port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|port| digits && *port != 0);
    number.ok_or_else(|| "its port is not 1 to 65535".into())
}
