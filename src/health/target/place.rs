//! Owns where a target is: a host and port or a Unix socket, and its text form. Must not know which protocol is spoken there.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::health::host::{bracketed, plain_zone};

/// The kernel's `sun_path` holds 108 bytes, including the final NUL of a path or the leading NUL of an abstract name (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// The longest interface name: `IFNAMSIZ` without the NUL.
const LONGEST_ZONE: usize = 15;

/// This host, in either address family.
pub const HERE: &str = "localhost";

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// An IPv6 address has no brackets, and its zone follows a `%`.
    Host(String, u16),
    /// The path of a Unix socket, or `@name` of an abstract one.
    Socket(PathBuf),
}

impl Peer {
    /// `SCHEME://HOST:PORT/PATH` or `SCHEME:unix:SOCKET:/PATH`. `path` is empty or starts with `/`.
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

/// Parses the text after `SCHEME:`: `//HOST[:PORT][/PATH]`, `PORT[/PATH]` on localhost, or `unix:SOCKET[:/PATH]`. The returned path is
/// empty or starts with `/`. `default` is the port if a host comes without one.
pub fn place<'t>(scheme: &str, rest: &'t str, default: Option<u16>) -> Result<(Peer, &'t str), String> {
    let split = |text: &'t str| text.split_at(text.find('/').unwrap_or(text.len()));
    if let Some(rest) = rest.strip_prefix("//") {
        let (text, path) = split(rest);
        if text.contains('@') {
            return Err("it is probed without a login, so it takes no credentials".into());
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

/// Whether the text after `SCHEME:` has one of the forms that [`place`] parses.
pub fn is_place(rest: &str) -> bool {
    let number = rest.split('/').next().unwrap_or_default();
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    rest.starts_with("//") || strip_word(rest, "unix:").is_some() || digits
}

fn strip_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(word.len())?;
    start.eq_ignore_ascii_case(word).then_some(rest)
}

/// The `/path` or `@name` of a Unix socket, and the path after its `:`, if there is one.
pub fn socket(text: &str) -> Result<(PathBuf, &str), String> {
    let (socket, path) = match text.find(":/") {
        Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default()),
        None => (text, ""),
    };
    if !socket.starts_with(['/', '@']) || socket == "@" || socket.contains('\0') {
        return Err("the socket of unix: is an absolute path, or @name of an abstract one".into());
    }
    // `@` stands for the leading NUL of an abstract name; a path has a final NUL instead.
    if socket.len() > LONGEST_SOCKET {
        return Err(format!("a socket's path has at most {LONGEST_SOCKET} bytes"));
    }
    Ok((socket.into(), path))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`. The returned host has no brackets.
pub fn authority(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, number) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => {
            let host = address(host)?;
            match rest.strip_prefix(':') {
                Some(number) => (host, Some(number)),
                None if rest.is_empty() => (host, None),
                None => return Err("only :port may follow the address".into()),
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

/// An IPv6 address with an optional zone: `fe80::1%eth0`, or with a URL's `%25` (RFC 6874).
fn address(text: &str) -> Result<String, String> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(plain_zone(zone))),
        None => (text, None),
    };
    if address.parse::<Ipv6Addr>().is_err() {
        return Err("the brackets must hold an IPv6 address".into());
    }
    let Some(zone) = zone else { return Ok(address.to_owned()) };
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if zone.is_empty() || zone.len() > LONGEST_ZONE || !zone.bytes().all(word) {
        return Err(format!("the % of an address must be followed by its interface, at most {LONGEST_ZONE} letters"));
    }
    Ok(format!("{address}%{zone}"))
}

fn port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|port| digits && *port != 0);
    number.ok_or_else(|| "its port is not 1 to 65535".into())
}
