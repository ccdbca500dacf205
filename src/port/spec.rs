//! Owns the port spec `[NAME=][ADDR:]PORT[/udp]`: its type and its text form. Must not know sockets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::setting::value::{is, shown};

/// The accepted form, for error messages.
pub const FORM: &str = "a port is [NAME=][ADDR:]PORT[/udp], such as 8080, admin=127.0.0.1:9090, [::1]:80 or 53/udp, several separated by commas";

/// The transport a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Lower case, as in `/etc/services`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// `[a-z][a-z0-9-]{0,14}`
    pub name: Option<String>,
    /// `None`: the wildcard of both families.
    pub addr: Option<IpAddr>,
    /// 0: any free port.
    pub port: u16,
    pub protocol: Protocol,
}

impl Spec {
    /// The same spec on another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// The addresses to try to bind, best first: `[::]` (dual-stack) and then `0.0.0.0` for a wildcard.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        match self.addr {
            Some(addr) => vec![SocketAddr::new(addr, self.port)],
            None => vec![
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port),
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port),
            ],
        }
    }
}

impl fmt::Display for Spec {
    /// The text form, which parses back to the same spec.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        match self.addr {
            Some(addr) => write!(f, "{}", SocketAddr::new(addr, self.port))?,
            None => write!(f, "{}", self.port)?,
        }
        if self.protocol == Protocol::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

impl FromStr for Spec {
    type Err = String;

    /// Parses one spec. The error is the reason only; `FORM` is the accepted form.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) => (Some(name), rest),
            None => (None, text),
        };
        if let Some(name) = name.filter(|name| !is_name(name)) {
            return Err(format!(
                "the name {} must be a lower-case letter and then at most 14 of a-z, 0-9 and -",
                shown(name)
            ));
        }
        let (rest, protocol) = match rest.split_once('/') {
            Some((rest, protocol)) if is(protocol, "udp") => (rest, Protocol::Udp),
            Some((rest, protocol)) if is(protocol, "tcp") => (rest, Protocol::Tcp),
            Some((_, other)) => return Err(format!("{} is no protocol: tcp or udp", shown(other))),
            None => (rest, Protocol::Tcp),
        };
        let (addr, port) = match rest.rsplit_once(':') {
            Some((addr, port)) => (Some(address(addr)?), port),
            None => (None, rest),
        };
        let port = Some(port)
            .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|port| port.parse().ok())
            .ok_or_else(|| format!("{} is no port number from 0 to 65535", shown(port)))?;
        Ok(Self { name: name.map(Into::into), addr, port, protocol })
    }
}

/// ADDR of a spec: an IPv4 address, or an IPv6 address in brackets. Host names are refused: their addresses can change
/// while we wait.
fn address(text: &str) -> Result<IpAddr, String> {
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        // To the kernel, `::ffff:127.0.0.1` is the same address as 127.0.0.1, and few apps accept it.
        let addr = inner.parse::<Ipv6Addr>().map(|addr| addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4));
        return addr.map_err(|_| format!("{} is no IPv6 address", shown(text)));
    }
    if text.starts_with('[') {
        return Err("no port after the IPv6 address: [ADDR]:PORT".to_owned());
    }
    if text.contains(':') {
        return Err(format!("an IPv6 address goes in brackets: [{}]:PORT", text.trim_matches(['[', ']'])));
    }
    let hint = if is(text, "localhost") { "; did you mean 127.0.0.1?" } else { "" };
    text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| format!("{} is no IP address{hint}", shown(text)))
}

/// Whether `text` is a NAME: `[a-z][a-z0-9-]{0,14}`.
pub fn is_name(text: &str) -> bool {
    text.len() <= 15
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A comma-separated list of specs; `none` is the empty list. An error has all reasons in one line, with the accepted
/// form.
pub fn list(text: &str) -> Result<Vec<Spec>, String> {
    if is(text, "none") {
        return Ok(Vec::new());
    }
    let (mut specs, mut reasons): (Vec<Spec>, Vec<String>) = Default::default();
    for item in text.split(',') {
        match item.trim().parse::<Spec>() {
            Ok(spec) => {
                reasons.extend(clash(&specs, &spec));
                specs.push(spec);
            }
            Err(reason) => reasons.push(reason),
        }
    }
    if reasons.is_empty() { Ok(specs) } else { Err(format!("{}; {FORM}", reasons.join("; "))) }
}

/// Why `spec` conflicts with an earlier one: the same name, or the same address and port. A wildcard includes every
/// address of its families, so the claim would wait for its own socket until the timeout.
fn clash(earlier: &[Spec], spec: &Spec) -> Option<String> {
    if let Some(name) = spec.name.as_ref().filter(|name| earlier.iter().any(|other| other.name.as_ref() == Some(name)))
    {
        return Some(format!("the name {name} comes twice"));
    }
    let overlap = |left: Option<IpAddr>, right: Option<IpAddr>| match (left, right) {
        (None, _) | (_, None) => true,
        (Some(left), Some(right)) => {
            left == right || left.is_ipv4() == right.is_ipv4() && (left.is_unspecified() || right.is_unspecified())
        }
    };
    let twin = earlier.iter().find(|other| {
        spec.port != 0 && other.port == spec.port && other.protocol == spec.protocol && overlap(other.addr, spec.addr)
    })?;
    Some(format!("{spec} and {twin} are the same address and port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let v4 = |text: &str| text.parse::<IpAddr>().ok();
        for (text, name, addr, port, protocol) in [
            ("8080", None, None, 8080, Protocol::Tcp),
            ("0", None, None, 0, Protocol::Tcp),
            ("53/udp", None, None, 53, Protocol::Udp),
            ("127.0.0.1:80", None, v4("127.0.0.1"), 80, Protocol::Tcp),
            ("0.0.0.0:80", None, v4("0.0.0.0"), 80, Protocol::Tcp),
            ("[::1]:80", None, v4("::1"), 80, Protocol::Tcp),
            ("[::ffff:10.0.0.1]:80", None, v4("10.0.0.1"), 80, Protocol::Tcp),
            ("http=8080", Some("http"), None, 8080, Protocol::Tcp),
            ("a-1=[::]:65535/udp", Some("a-1"), v4("::"), 65535, Protocol::Udp),
            ("abcdefghijklmno=1", Some("abcdefghijklmno"), None, 1, Protocol::Tcp),
        ] {
            let want = Spec { name: name.map(Into::into), addr, port, protocol };
            assert_eq!(text.parse(), Ok(want.clone()), "{text}");
            assert!(want.to_string() == text || text.contains("ffff"), "{want}");
        }
        for (other, usual) in [("80/tcp", "80"), ("80/TCP", "80"), ("80/UDP", "80/udp")] {
            assert_eq!(other.parse::<Spec>(), usual.parse(), "{other}");
        }
        for bad in [
            "",
            "x",
            "65536",
            "-1",
            "+80",
            "80/",
            "80/sctp",
            ":80",
            "localhost:80",
            "::1:80",
            "[::1]80",
            "[::1]",
            "[127.0.0.1]:80",
            "1.2.3:80",
            "01.2.3.4:80",
            "HTTP=80",
            "=80",
            "1a=80",
            "a_b=80",
            "abcdefghijklmnop=80",
            "a=b=80",
            "80:",
            "8 0",
            "80/udp/udp",
        ] {
            assert!(bad.parse::<Spec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists() {
        assert_eq!(list("80, admin=127.0.0.1:9090 ,53/udp").map(|specs| specs.len()), Ok(3));
        assert_eq!(list("none"), Ok(vec![]));
        for good in
            ["0,0", "80,80/udp", "127.0.0.1:80,127.0.0.2:80", "127.0.0.1:80,[::1]:80", "0.0.0.0:80,[::]:80", "a=0,b=0"]
        {
            assert!(list(good).is_ok(), "{good}: {:?}", list(good));
        }
        for (bad, reason) in [
            ("80,80", "80 and 80 are the same"),
            ("53/udp,53/udp", "53/udp and 53/udp"),
            ("a=80,b=80", "b=80 and a=80"),
            ("a=80,a=81", "the name a comes twice"),
            ("127.0.0.1:80,127.0.0.1:80", "the same address"),
            ("80,127.0.0.1:80", "the same address"),
            ("[::1]:80,80", "the same address"),
            ("0.0.0.0:80,127.0.0.1:80", "the same address"),
            ("80,", "\"\" is no port number"),
            ("[::ffff:127.0.0.1]:80,127.0.0.1:80", "the same address"),
            ("[::1]", "no port after the IPv6 address"),
            ("x,99999", "x is no port number from 0 to 65535; 99999 is no port number"),
            ("::1:80", "in brackets: [::1]:PORT"),
        ] {
            assert!(
                list(bad).is_err_and(|got| got.contains(reason) && got.contains("[ADDR:]PORT")),
                "{bad}: {:?}",
                list(bad)
            );
        }
    }
}
