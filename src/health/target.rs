//! Owns the health TARGET: its type and its text form. Must not know how it is asked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::probe::peer::Peer;
use super::probe::url::bracketed;
use crate::config::value::is;

mod place;

use place::{authority, checked_socket, port, until_path};

/// The accepted form, for messages.
pub const FORM: &str = "a target is /path, :PORT/path, http://host[:port]/path, https://…, tcp, tcp:PORT, tcp://host:port, unix:/socket[:/path], unix:@name[:/path], grpc[:SERVICE], grpc:PORT[/SERVICE], grpc://host:port[/SERVICE] or grpc:unix:/socket[:SERVICE]";

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/path?query` on the primary port, plain HTTP.
    Path(String),
    /// `http://…` or `https://…`, as typed; checked to have a host and a valid port. `:8080/path` is `http://localhost:8080/path`.
    Url(String),
    /// `tcp`: connect to the primary port.
    Tcp,
    /// `tcp://host:port`, or `tcp:PORT` for this host; IPv6 without its brackets.
    TcpAt(String, u16),
    /// `grpc…`: gRPC's health checking protocol on the primary port (`None`) or elsewhere; the empty service is the server as a whole.
    Grpc(Option<Peer>, String),
    /// `unix:/sock`: connect. `unix:/sock:/path`: HTTP over it. `@name` for a socket is one of the abstract namespace.
    Unix(PathBuf, Option<String>),
}

impl Target {
    /// Whether it asks the primary port, and so means nothing where no port is known.
    pub fn needs_port(&self) -> bool {
        matches!(self, Self::Path(_) | Self::Tcp | Self::Grpc(None, _))
    }
}

impl fmt::Display for Target {
    /// The text form, which parses back to the same target.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(text) | Self::Url(text) => f.write_str(text),
            Self::Tcp => f.write_str("tcp"),
            Self::TcpAt(host, port) => write!(f, "tcp://{}:{port}", bracketed(host)),
            Self::Grpc(None, service) if service.is_empty() => f.write_str("grpc"),
            Self::Grpc(None, service) => write!(f, "grpc:{service}"),
            Self::Grpc(Some(peer), service) => f.write_str(&shown_grpc(peer, service)),
            Self::Unix(socket, None) => write!(f, "unix:{}", socket.display()),
            Self::Unix(socket, Some(path)) => write!(f, "unix:{}:{path}", socket.display()),
        }
    }
}

/// How a service somewhere is written, in the verdict too.
pub fn shown_grpc(peer: &Peer, service: &str) -> String {
    let joint = match peer {
        Peer::Host(..) => "/",
        Peer::Socket(_) => ":",
    };
    let joint = if service.is_empty() { "" } else { joint };
    format!("{}{joint}{service}", peer.shown("grpc"))
}

impl FromStr for Target {
    type Err = String;

    /// The error is the reason with the accepted form.
    fn from_str(text: &str) -> Result<Self, String> {
        read(text).map_err(|reason| format!("{reason}; {FORM}"))
    }
}

fn read(text: &str) -> Result<Target, String> {
    if text.starts_with('/') {
        return path(text).map(Target::Path);
    }
    let (scheme, rest) = match text.split_once(':') {
        // The short form for another port of this host.
        Some(("", rest)) => return on_this_host(rest),
        Some((scheme, rest)) => (scheme, Some(rest)),
        None => (text, None),
    };
    match (scheme.to_ascii_lowercase().as_str(), rest) {
        ("http" | "https", Some(rest)) => web(text, scheme, rest),
        ("tcp", rest) => tcp(rest),
        ("grpc", rest) => grpc(rest),
        ("grpcs", Some(_)) => Err("gRPC is asked in plaintext only, as the kubelet does it: use grpc://".into()),
        ("unix", Some(rest)) => {
            let (socket, tail) = until_path(rest);
            let tail = if tail.is_empty() { None } else { Some(path(tail)?) };
            Ok(Target::Unix(checked_socket(socket)?.into(), tail))
        }
        _ => Err(guess(text)),
    }
}

/// A hint for what people type instead: `8080`, `localhost:8080`, `example.org/health`.
fn guess(text: &str) -> String {
    let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let local = if number { format!("127.0.0.1:{text}") } else { text.to_string() };
    let (host, _) = local.split_once('/').unwrap_or((&local, ""));
    match authority(host) {
        Ok((_, Some(_))) => format!("it has no scheme (did you mean http://{local}?)"),
        _ => "it has no scheme that reberth knows".into(),
    }
}

/// Characters a request line can carry as they are; a fragment is the client's own business and is cut off.
fn path(text: &str) -> Result<String, String> {
    let sent = text.split('#').next().unwrap_or(text);
    if sent.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(sent.into())
    } else {
        Err("a path is printable ASCII without spaces (write others as %20, %C3%A4)".into())
    }
}

fn web(text: &str, scheme: &str, rest: &str) -> Result<Target, String> {
    let Some(rest) = rest.strip_prefix("//") else { return Err(guess(text)) };
    if is(scheme, "https") && cfg!(not(feature = "tls")) {
        return Err(
            "this reberth is built without TLS, so it cannot ask https: use http://, or the build with TLS".into()
        );
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if host.contains('@') {
        return Err("credentials do not go into the URL (use --header 'Authorization: …')".into());
    }
    authority(host)?;
    path(tail)?;
    Ok(Target::Url(text.into()))
}

/// `8080/path`, behind a colon.
fn on_this_host(rest: &str) -> Result<Target, String> {
    let (number, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let port = port(number).map_err(|why| format!("after the colon comes a port of this host, and {why}"))?;
    let tail = path(tail)?;
    let slash = if tail.starts_with('/') { "" } else { "/" };
    Ok(Target::Url(format!("http://localhost:{port}{slash}{tail}")))
}

fn tcp(rest: Option<&str>) -> Result<Target, String> {
    let Some(rest) = rest else { return Ok(Target::Tcp) };
    let no_socket = |_| Err("a connection to a Unix socket is asked for as unix:/socket".into());
    match place::place("tcp", rest, None, no_socket)? {
        (Some(Peer::Host(host, port)), "" | "/") => Ok(Target::TcpAt(host, port)),
        (Some(_), _) => Err("after the port of tcp comes nothing more".into()),
        (None, _) => Err("after tcp: comes a port of this host, or //host:port".into()),
    }
}

fn grpc(rest: Option<&str>) -> Result<Target, String> {
    let Some(rest) = rest else { return Ok(Target::Grpc(None, String::new())) };
    let (peer, name) = place::place("grpc", rest, None, |rest| Ok(rest.split_once(':').unwrap_or((rest, ""))))?;
    let name = match &peer {
        None if name.is_empty() => {
            return Err("after grpc: comes a service or a port (grpc alone asks for the server as a whole)".into());
        }
        None if name.starts_with('/') => return Err("after grpc: comes a service, without a /".into()),
        Some(Peer::Host(..)) => name.strip_prefix('/').unwrap_or(name),
        _ => name,
    };
    Ok(Target::Grpc(peer, service(name)?))
}

/// The name of a service, as the server knows it: sent as typed.
fn service(name: &str) -> Result<String, String> {
    if name.len() <= LONGEST_SERVICE && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(name.into())
    } else {
        Err(format!("a service is printable ASCII without spaces, at most {LONGEST_SERVICE} bytes"))
    }
}

/// Far more than any name, and far less than fits into one HTTP/2 frame. Bytes.
const LONGEST_SERVICE: usize = 1024;

#[cfg(test)]
mod tests;
