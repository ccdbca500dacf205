//! Owns the templates in the app's arguments: `{port}`, `{addr}`, `{host}`, `{fd}`. Must not know how a port is claimed, or how the app
//! is launched.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::app_port::AppPort;
use super::handover::Handover;
use crate::port::spec::{Spec, is_name};

/// A template, with the port's name if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Template<'a> {
    Port(Option<&'a str>),
    Addr,
    Host,
    Fd(Option<&'a str>),
}

impl<'a> Template<'a> {
    /// Parses the text between two braces. Anything that is not exactly a template belongs to the app: JSON, shell, `{port.Not A Name}`.
    fn parse(inner: &'a [u8]) -> Option<Self> {
        let inner = std::str::from_utf8(inner).ok()?;
        match inner {
            "port" => Some(Self::Port(None)),
            "addr" => Some(Self::Addr),
            "host" => Some(Self::Host),
            "fd" => Some(Self::Fd(None)),
            _ => match inner.split_once('.')? {
                ("port", name) if is_name(name) => Some(Self::Port(Some(name))),
                ("fd", name) if is_name(name) => Some(Self::Fd(Some(name))),
                _ => None,
            },
        }
    }

    fn text(self) -> String {
        match self {
            Self::Port(None) => "{port}".into(),
            Self::Port(Some(name)) => format!("{{port.{name}}}"),
            Self::Addr => "{addr}".into(),
            Self::Host => "{host}".into(),
            Self::Fd(None) => "{fd}".into(),
            Self::Fd(Some(name)) => format!("{{fd.{name}}}"),
        }
    }

    fn name(self) -> Option<&'a str> {
        match self {
            Self::Port(name) | Self::Fd(name) => name,
            Self::Addr | Self::Host => None,
        }
    }

    /// The text that replaces the template. `None`: there is no such port, and the template stays unchanged.
    fn value(self, ports: &[AppPort]) -> Option<String> {
        let port = match self.name() {
            None => ports.first(),
            Some(name) => ports.iter().find(|port| port.name.as_deref() == Some(name)),
        }?;
        // Most apps accept `0.0.0.0` as "all addresses", and few accept `[::]`.
        let addr = port.addr.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Some(match self {
            Self::Port(_) => port.port.to_string(),
            Self::Addr => SocketAddr::new(addr, port.port).to_string(),
            Self::Host => addr.to_string(),
            Self::Fd(_) => port.fd?.to_string(),
        })
    }
}

/// Splits an argument into text (`Err`) and templates (`Ok`). Works on bytes: an argument need not be UTF-8.
fn pieces(argument: &OsStr) -> Vec<Result<Template<'_>, &[u8]>> {
    let mut found = Vec::new();
    let mut rest = argument.as_bytes();
    let mut text = rest;
    while let Some(open) = rest.iter().position(|byte| *byte == b'{') {
        let inner = rest.get(open + 1..).unwrap_or_default();
        // No template is longer than this. The limit keeps an argument full of open braces from taking quadratic time.
        let close = inner.iter().take(32).position(|byte| *byte == b'}');
        match close.and_then(|close| Some((Template::parse(inner.get(..close)?)?, inner.get(close + 1..)?))) {
            Some((template, tail)) => {
                let before = text.len().saturating_sub(inner.len() + 1);
                found.push(Err(text.get(..before).unwrap_or_default()));
                found.push(Ok(template));
                (rest, text) = (tail, tail);
            }
            None => rest = inner,
        }
    }
    found.push(Err(text));
    found
}

fn templates(command: &[OsString]) -> impl Iterator<Item = (usize, Template<'_>)> {
    let arguments = command.iter().enumerate().skip(1);
    arguments
        .flat_map(|(index, argument)| pieces(argument).into_iter().flatten().map(move |template| (index, template)))
}

/// Whether an argument uses `{fd}` or `{fd.NAME}`, which decides `--handover auto`.
pub fn wants_fd(command: &[OsString]) -> bool {
    templates(command).any(|(_, template)| matches!(template, Template::Fd(_)))
}

/// The templates of `command` that cannot be expanded, one per line: no port, an unknown name, `{fd}` without handover.
pub fn check(command: &[OsString], ports: &[Spec], handover: Handover) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (index, template) in templates(command) {
        let names: Vec<&str> = ports.iter().filter_map(|spec| spec.name.as_deref()).collect();
        let reason = match template.name() {
            _ if ports.is_empty() => "no port is configured: set --port, REBERTH_PORT or PORT".to_string(),
            Some(name) if !names.contains(&name) && names.is_empty() => {
                format!("no port is named {name}, none has a name: --port {name}=PORT gives it one")
            }
            Some(name) if !names.contains(&name) => {
                format!("no port is named {name}; the names are {}", names.join(", "))
            }
            _ if matches!(template, Template::Fd(_)) && !handover.passes_descriptors() => {
                let way = handover.word();
                format!("handover is {way}, so there is no descriptor: set --handover on (REBERTH_HANDOVER)")
            }
            _ => continue,
        };
        let line = format!("argument {index} {}: {reason}", template.text());
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// The command line with its templates expanded. The command word (the first) is never changed.
pub fn expand(command: &[OsString], ports: &[AppPort]) -> Vec<OsString> {
    let argument = |argument: &OsString| {
        let mut bytes = Vec::with_capacity(argument.len());
        for piece in pieces(argument) {
            match piece {
                Err(text) => bytes.extend_from_slice(text),
                Ok(template) => {
                    bytes.extend_from_slice(template.value(ports).unwrap_or_else(|| template.text()).as_bytes());
                }
            }
        }
        OsString::from_vec(bytes)
    };
    let word = command.iter().take(1).cloned();
    word.chain(command.iter().skip(1).map(argument)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    fn port(name: Option<&str>, addr: Option<&str>, port: u16, fd: Option<i32>) -> AppPort {
        AppPort { name: name.map(Into::into), addr: addr.and_then(|addr| addr.parse().ok()), port, fd }
    }

    #[test]
    fn templates_are_replaced_in_arguments_only() {
        let ports = [port(None, None, 8080, Some(3)), port(Some("admin"), Some("::1"), 9090, Some(4))];
        for (argument, want) in [
            ("{port}", "8080"),
            ("--port={port},{port.admin}", "--port=8080,9090"),
            ("{addr}", "0.0.0.0:8080"),
            ("http://{host}/", "http://0.0.0.0/"),
            ("fd://{fd}{fd.admin}", "fd://34"),
            ("{{port}}", "{8080}"),
            ("{\"port\":{port},\"a\":{}}", "{\"port\":8080,\"a\":{}}"),
            ("{port", "{port"),
            ("{ports}", "{ports}"),
            ("{Port}", "{Port}"),
            ("{port.Bad Name}", "{port.Bad Name}"),
            ("{port.}", "{port.}"),
            ("{addr.admin}", "{addr.admin}"),
            ("${port}{", "$8080{"),
            ("{x{port}", "{x8080"),
            ("", ""),
        ] {
            assert_eq!(expand(&words(&["{port}", argument]), &ports), words(&["{port}", want]), "{argument}");
        }
        let raw = OsString::from_vec(b"\xff{port}\xfe{".to_vec());
        assert_eq!(expand(&["x".into(), raw], &ports)[1].as_bytes(), b"\xff8080\xfe{");
        let v6 = [port(None, Some("::1"), 80, None)];
        assert_eq!(expand(&words(&["x", "{addr} {host} {fd}"]), &v6), words(&["x", "[::1]:80 ::1 {fd}"]));
        assert_eq!(
            expand(&words(&["x", "{addr}"]), &[port(None, Some("127.0.0.1"), 80, None)]),
            words(&["x", "127.0.0.1:80"])
        );
        assert_eq!(expand(&[], &ports), words(&[]));
    }

    #[test]
    fn templates_without_their_port_are_named() {
        let specs: Vec<Spec> = ["80", "admin=9090"].iter().filter_map(|text| text.parse().ok()).collect();
        for (argument, ports, handover, want) in [
            ("{port} {addr} {host} {port.admin}", &specs[..], Handover::Off, None),
            ("{fd} {fd.admin}", &specs, Handover::Descriptors, None),
            ("{json: {port.X}}", &[], Handover::Off, None),
            ("{port}", &[], Handover::Off, Some("argument 1 {port}: no port is configured")),
            ("{addr}", &[], Handover::Off, Some("{addr}: no port is configured")),
            ("{fd}", &[], Handover::Descriptors, Some("{fd}: no port is configured")),
            ("{port.x}", &specs, Handover::Off, Some("no port is named x; the names are admin")),
            ("{fd.x}", &specs, Handover::Descriptors, Some("no port is named x")),
            ("{port.x}", &specs[..1], Handover::Off, Some("none has a name")),
            ("{fd}", &specs, Handover::Off, Some("{fd}: handover is off")),
            ("{fd}", &specs, Handover::Bind, Some("{fd}: handover is bind")),
            ("{port}", &specs, Handover::Bind, None),
        ] {
            let lines = check(&words(&["{port}", argument]), ports, handover);
            match want {
                None => assert_eq!(lines, [""; 0], "{argument}"),
                Some(want) => assert!(lines.len() == 1 && lines[0].contains(want), "{argument}: {lines:?}"),
            }
        }
        assert!(wants_fd(&words(&["x", "a", "--fd={fd.web}"])));
        assert!(!wants_fd(&words(&["{fd}", "{fdx}", "{port}"])));
    }
}
