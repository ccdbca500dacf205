//! Owns what the app is given: the templates in its arguments, its environment, `LISTEN_*`. Must not know how ports are claimed or how
//! the app is launched.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::handover::Handover;
use crate::port::spec::{Spec, is_name};

/// A port as the app is told about it: claimed, so never 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub name: Option<String>,
    /// `None`: the wildcard.
    pub addr: Option<IpAddr>,
    pub port: u16,
    /// The descriptor's number in the app, with handover.
    pub fd: Option<i32>,
}

/// What a template stands for; the name where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Template<'a> {
    Port(Option<&'a str>),
    Addr,
    Host,
    Fd(Option<&'a str>),
}

impl<'a> Template<'a> {
    /// What stands between the braces. Anything that is not exactly a template is the app's own text: JSON, shell, `{port.Not A Name}`.
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

    /// The text that replaces it. `None`: there is no such port, and it stays as it is.
    fn value(self, places: &[Place]) -> Option<String> {
        let place = match self.name() {
            None => places.first(),
            Some(name) => places.iter().find(|place| place.name.as_deref() == Some(name)),
        }?;
        // Most apps take `0.0.0.0` for "everywhere", and few take `[::]`.
        let addr = place.addr.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Some(match self {
            Self::Port(_) => place.port.to_string(),
            Self::Addr => SocketAddr::new(addr, place.port).to_string(),
            Self::Host => addr.to_string(),
            Self::Fd(_) => place.fd?.to_string(),
        })
    }
}

/// One argument cut into text (`Err`) and templates (`Ok`). Byte-wise: an argument need not be UTF-8.
fn pieces(argument: &OsStr) -> Vec<Result<Template<'_>, &[u8]>> {
    let mut found = Vec::new();
    let mut rest = argument.as_bytes();
    let mut text = rest;
    while let Some(open) = rest.iter().position(|byte| *byte == b'{') {
        let inner = rest.get(open + 1..).unwrap_or_default();
        // No template is longer than this, so a long argument full of open braces does not take quadratic time.
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

/// Whether an argument uses `{fd}` or `{fd.NAME}`: what `--handover auto` goes by.
pub fn wants_fd(command: &[OsString]) -> bool {
    templates(command).any(|(_, template)| matches!(template, Template::Fd(_)))
}

/// The templates of `command` that cannot be replaced, a line each: no port, an unknown name, `{fd}` without handover.
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
            _ if matches!(template, Template::Fd(_)) && handover != Handover::Listen => {
                let way = if handover == Handover::Bind { "bind" } else { "off" };
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

/// The command line with its templates replaced. The command word (the first) stays as it is.
pub fn expand(command: &[OsString], places: &[Place]) -> Vec<OsString> {
    let argument = |argument: &OsString| {
        let mut bytes = Vec::with_capacity(argument.len());
        for piece in pieces(argument) {
            match piece {
                Err(text) => bytes.extend_from_slice(text),
                Ok(template) => {
                    bytes.extend_from_slice(template.value(places).unwrap_or_else(|| template.text()).as_bytes());
                }
            }
        }
        OsString::from_vec(bytes)
    };
    let word = command.iter().take(1).cloned();
    word.chain(command.iter().skip(1).map(argument)).collect()
}

/// The sockets handed over, for `LISTEN_*` (sd_listen_fds(3)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// A name for each descriptor from 3 on.
    pub names: Vec<String>,
}

/// The app's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    pub entries: Vec<(OsString, OsString)>,
    /// Which entry is `LISTEN_PID`; its value is `PID_PLACEHOLDER`.
    pub listen_pid: Option<usize>,
}

/// Stands for the app's pid, which only the fork knows. It is overwritten in place, and ended with a zero byte where the pid is shorter:
/// padding with zeros would make systemd's reader (`strtoul`, base 0) take the number for octal.
pub const PID_PLACEHOLDER: &str = "0000000000";

/// The inherited environment, byte for byte, and on top of it `PORT` (the primary, if there is a port), `PORT_<NAME>` for named ports
/// and, with `listen`, `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`. A variable of the same name is replaced where it stands.
pub fn environment(inherited: &[(OsString, OsString)], places: &[Place], listen: Option<&Listen>) -> Environment {
    let mut entries = inherited.to_vec();
    if let Some(primary) = places.first() {
        set(&mut entries, "PORT", &primary.port.to_string());
    }
    for place in places {
        if let Some(name) = &place.name {
            let variable = format!("PORT_{}", name.to_ascii_uppercase().replace('-', "_"));
            set(&mut entries, &variable, &place.port.to_string());
        }
    }
    if let Some(listen) = listen {
        set(&mut entries, "LISTEN_FDS", &listen.names.len().to_string());
        set(&mut entries, "LISTEN_FDNAMES", &listen.names.join(":"));
        set(&mut entries, "LISTEN_PID", PID_PLACEHOLDER);
    }
    let listen_pid = listen.and_then(|_| entries.iter().position(|(name, _)| name == "LISTEN_PID"));
    Environment { entries, listen_pid }
}

/// Sets one variable; twins of it go, since which of two an app sees depends on its language.
fn set(entries: &mut Vec<(OsString, OsString)>, name: &str, value: &str) {
    match entries.iter().position(|(known, _)| known == name) {
        Some(first) => {
            if let Some(entry) = entries.get_mut(first) {
                entry.1 = value.into();
            }
            let mut index = 0;
            entries.retain(|(known, _)| {
                index += 1;
                known != name || index - 1 == first
            });
        }
        None => entries.push((name.into(), value.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    fn place(name: Option<&str>, addr: Option<&str>, port: u16, fd: Option<i32>) -> Place {
        Place { name: name.map(Into::into), addr: addr.and_then(|addr| addr.parse().ok()), port, fd }
    }

    #[test]
    fn templates_are_replaced_in_arguments_only() {
        let places = [place(None, None, 8080, Some(3)), place(Some("admin"), Some("::1"), 9090, Some(4))];
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
            assert_eq!(expand(&words(&["{port}", argument]), &places), words(&["{port}", want]), "{argument}");
        }
        let raw = OsString::from_vec(b"\xff{port}\xfe{".to_vec());
        assert_eq!(expand(&["x".into(), raw], &places)[1].as_bytes(), b"\xff8080\xfe{");
        let v6 = [place(None, Some("::1"), 80, None)];
        assert_eq!(expand(&words(&["x", "{addr} {host} {fd}"]), &v6), words(&["x", "[::1]:80 ::1 {fd}"]));
        assert_eq!(
            expand(&words(&["x", "{addr}"]), &[place(None, Some("127.0.0.1"), 80, None)]),
            words(&["x", "127.0.0.1:80"])
        );
        assert_eq!(expand(&[], &places), words(&[]));
    }

    #[test]
    fn templates_without_their_port_are_named() {
        let specs: Vec<Spec> = ["80", "admin=9090"].iter().filter_map(|text| text.parse().ok()).collect();
        for (argument, ports, handover, want) in [
            ("{port} {addr} {host} {port.admin}", &specs[..], Handover::Off, None),
            ("{fd} {fd.admin}", &specs, Handover::Listen, None),
            ("{json: {port.X}}", &[], Handover::Off, None),
            ("{port}", &[], Handover::Off, Some("argument 1 {port}: no port is configured")),
            ("{addr}", &[], Handover::Off, Some("{addr}: no port is configured")),
            ("{fd}", &[], Handover::Listen, Some("{fd}: no port is configured")),
            ("{port.x}", &specs, Handover::Off, Some("no port is named x; the names are admin")),
            ("{fd.x}", &specs, Handover::Listen, Some("no port is named x")),
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

    #[test]
    fn environment_is_inherited_byte_for_byte() {
        let raw = (OsString::from_vec(b"\xff".to_vec()), OsString::from_vec(b"\xfe=\n".to_vec()));
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let inherited = [
            pair("A", "1"),
            pair("PORT", "x"),
            raw.clone(),
            pair("A", "2"),
            pair("PORT", "y"),
            pair("LISTEN_PID", "1"),
            pair("E", ""),
        ];
        assert_eq!(environment(&inherited, &[], None), Environment { entries: inherited.to_vec(), listen_pid: None });

        let places = [place(Some("web-1"), None, 8080, None), place(None, None, 81, None)];
        let got = environment(&inherited, &places, Some(&Listen { names: vec!["web-1".into(), "81".into()] }));
        let want = [
            pair("A", "1"),
            pair("PORT", "8080"),
            raw,
            pair("A", "2"),
            pair("LISTEN_PID", PID_PLACEHOLDER),
            pair("E", ""),
            pair("PORT_WEB_1", "8080"),
            pair("LISTEN_FDS", "2"),
            pair("LISTEN_FDNAMES", "web-1:81"),
        ];
        assert_eq!(got, Environment { entries: want.to_vec(), listen_pid: Some(4) });
    }
}
