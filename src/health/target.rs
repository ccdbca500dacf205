//! Owns the health TARGET: its type and its text form. Must not know how it is probed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::host::bracketed;
use crate::setting::value::is;

pub mod place;

use place::{HERE, Peer, authority, is_place, place, socket};

/// The accepted form, for error messages.
pub const FORM: &str = "a target is /path, :port/path, http://host[:port]/path, https://…, tcp, tcp://host:port, grpc[:SERVICE], \
     grpc://host:port[/SERVICE], grpcs://…, fcgi://host:port/path, redis://host, postgres://host, mysql://host, unix:/socket[:/path], file:/path or dns:name; \
     tcp, grpc, grpcs, fcgi, redis, postgres and mysql take a port of this host too (tcp:8080), all but tcp and grpcs a socket (redis:unix:/socket)";

/// What a probe checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/path?query` on the primary port, plain HTTP.
    Path(String),
    /// `http://…` or `https://…`, as typed; it has a host and a valid port. `:port/path` becomes one on localhost.
    Url(String),
    /// `tcp`: connect to the primary port.
    Tcp,
    /// `tcp://host:port`. IPv6 has no brackets.
    TcpAt(String, u16),
    /// `grpc` or `grpc:SERVICE`: the gRPC health checking protocol on the primary port. The empty service is the server as a whole.
    Grpc(String),
    /// `grpc://host:port[/SERVICE]`, `grpcs://…` (true) or `grpc:unix:/sock[:/SERVICE]`: the same elsewhere.
    GrpcAt(bool, Peer, String),
    /// `unix:/sock`: connect. `unix:/sock:/path`: HTTP over it.
    Unix(PathBuf, Option<String>),
    /// `fcgi://host:port/path` or `fcgi:unix:/sock:/path`: a request to a FastCGI responder.
    Fcgi(Peer, String),
    /// `redis://host`, `postgres://host`, `mysql://host`, or one of them over a Unix socket.
    Database(Database, Peer),
    /// `file:/path`: it exists.
    File(PathBuf),
    /// `dns:name`: it resolves.
    Dns(String),
}

/// A server whose own protocol tells whether it accepts clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Redis,
    Postgres,
    Mysql,
}

impl Database {
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Redis => 6379,
            Self::Postgres => 5432,
            Self::Mysql => 3306,
        }
    }

    fn of(scheme: &str) -> Option<Self> {
        match scheme {
            "redis" => Some(Self::Redis),
            "postgres" | "postgresql" => Some(Self::Postgres),
            "mysql" => Some(Self::Mysql),
            _ => None,
        }
    }
}

impl Target {
    /// Whether the target is on the primary port, and so needs one to be known.
    pub fn needs_port(&self) -> bool {
        matches!(self, Self::Path(_) | Self::Tcp | Self::Grpc(_))
    }
}

impl fmt::Display for Target {
    /// The text form, which parses back to the same target.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(text) | Self::Url(text) => f.write_str(text),
            Self::Tcp => f.write_str("tcp"),
            Self::TcpAt(host, port) => write!(f, "tcp://{}:{port}", bracketed(host)),
            Self::Grpc(service) if service.is_empty() => f.write_str("grpc"),
            Self::Grpc(service) => write!(f, "grpc:{service}"),
            Self::GrpcAt(tls, peer, service) => f.write_str(&shown_grpc(*tls, peer, service)),
            Self::Unix(socket, None) => write!(f, "unix:{}", socket.display()),
            Self::Unix(socket, Some(path)) => write!(f, "unix:{}:{path}", socket.display()),
            Self::Fcgi(peer, path) => f.write_str(&peer.shown("fcgi", path)),
            Self::Database(database, peer) => f.write_str(&peer.shown(database.scheme(), "")),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

/// `grpc://host:port/SERVICE`, `grpcs://…` or `grpc:unix:…`.
pub fn shown_grpc(tls: bool, peer: &Peer, service: &str) -> String {
    let slash = if service.is_empty() { "" } else { "/" };
    peer.shown(if tls { "grpcs" } else { "grpc" }, &format!("{slash}{service}"))
}

impl FromStr for Target {
    type Err = String;

    /// The error is the reason, followed by the accepted form.
    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map_err(|reason| format!("{reason}; {FORM}"))
    }
}

fn parse(text: &str) -> Result<Target, String> {
    if is(text, "tcp") {
        return Ok(Target::Tcp);
    }
    if is(text, "grpc") {
        return Ok(Target::Grpc(String::new()));
    }
    if text.starts_with('/') {
        return path(text).map(Target::Path);
    }
    let (scheme, rest) = text.split_once(':').unwrap_or_default();
    let scheme = scheme.to_ascii_lowercase();
    match (scheme.as_str(), rest.strip_prefix("//")) {
        ("", None) if text.starts_with(':') => {
            let local = format!("{HERE}{text}");
            url(&format!("http://{local}"), &local)
        }
        ("https" | "grpcs", _) if cfg!(not(feature = "tls")) => Err(format!(
            "this reberth is built without TLS, so it cannot probe {scheme}: use {}://, or the build with TLS",
            scheme.trim_end_matches('s')
        )),
        ("http" | "https", Some(rest)) => url(text, rest),
        ("tcp", _) if is_place(rest) => match place("tcp", rest, None)? {
            (Peer::Host(host, port), "" | "/") => Ok(Target::TcpAt(host, port)),
            (Peer::Host(..), _) => Err("nothing may follow the port of tcp".into()),
            (Peer::Socket(_), _) => Err("a socket is written unix:/socket, without tcp".into()),
        },
        ("grpc", _) if !is_place(rest) => grpc(rest),
        ("grpc" | "grpcs", _) => {
            let tls = scheme == "grpcs";
            let (peer, name) = place(&scheme, rest, None)?;
            if tls && matches!(peer, Peer::Socket(_)) {
                return Err("gRPC over a socket is probed without TLS: use grpc:unix:".into());
            }
            Ok(Target::GrpcAt(tls, peer, service(name.strip_prefix('/').unwrap_or(name))?))
        }
        ("unix", _) => {
            let (socket, tail) = socket(rest)?;
            let tail = if tail.is_empty() { None } else { Some(path(tail)?) };
            Ok(Target::Unix(socket, tail))
        }
        ("fcgi", _) if is_place(rest) => fcgi(rest),
        ("file", _) => file(rest).map(Target::File),
        ("dns", _) => name(rest).map(Target::Dns),
        (scheme, _) => match Database::of(scheme) {
            Some(database) if is_place(rest) => match place(scheme, rest, Some(database.port()))? {
                (peer, "" | "/") => Ok(Target::Database(database, peer)),
                _ => Err(format!(
                    "{scheme} checks only whether the server takes clients, so no path or database may follow its address"
                )),
            },
            _ => Err(guess(text)),
        },
    }
}

/// A hint for near misses: `8080`, `localhost:8080`, `example.org/health`, `redis`.
fn guess(text: &str) -> String {
    let scheme = text.split(':').next().unwrap_or_default().to_ascii_lowercase();
    if Database::of(&scheme).is_some() || matches!(&*scheme, "fcgi" | "grpcs" | "tcp" | "http" | "https") {
        return format!("{scheme} needs an address: {scheme}://host:port");
    }
    let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let local = if number { format!("127.0.0.1:{text}") } else { text.to_string() };
    let (host, _) = local.split_once('/').unwrap_or((&local, ""));
    match authority(host) {
        Ok((_, Some(_))) => format!("it has no scheme (did you mean http://{local}?)"),
        _ => "it has no scheme that reberth knows".into(),
    }
}

/// Accepts what a request line can carry unencoded. Cuts off the fragment, which is never sent.
fn path(text: &str) -> Result<String, String> {
    let sent = text.split('#').next().unwrap_or(text);
    if sent.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(sent.into())
    } else {
        Err("a path is printable ASCII without spaces (write others as %20, %C3%A4)".into())
    }
}

fn url(text: &str, rest: &str) -> Result<Target, String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if host.contains('@') {
        return Err("credentials do not go into the URL (use --header 'Authorization: …')".into());
    }
    authority(host)?;
    path(tail)?;
    Ok(Target::Url(text.into()))
}

/// `file:/path`, or `file:///path` as browsers write it.
fn file(rest: &str) -> Result<PathBuf, String> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.starts_with('/') && !path.contains('\0') {
        Ok(path.into())
    } else {
        Err("file: needs an absolute path: file:/run/ready".into())
    }
}

/// A host name, or an address.
fn name(rest: &str) -> Result<String, String> {
    let name = rest.strip_prefix("//").unwrap_or(rest);
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'@' | b'?' | b'#' | b'[' | b']');
    let has_port = name.contains(':') && name.parse::<std::net::IpAddr>().is_err();
    if !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(fits) && !has_port {
        Ok(name.into())
    } else {
        Err("dns: takes a host name and nothing else: dns:db.example.org".into())
    }
}

/// With the final dot (RFC 1035, 2.3.4). Bytes.
const LONGEST_NAME: usize = 254;

/// `grpc:SERVICE`.
fn grpc(rest: &str) -> Result<Target, String> {
    match rest {
        "" => Err("grpc: takes a service or a port (grpc alone checks the server as a whole)".into()),
        name if name.starts_with('/') => Err("grpc: takes a service without a /".into()),
        name => service(name).map(Target::Grpc),
    }
}

/// A service name, sent as typed.
fn service(name: &str) -> Result<String, String> {
    if name.len() <= LONGEST_SERVICE && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(name.into())
    } else {
        Err(format!("a service is printable ASCII without spaces, at most {LONGEST_SERVICE} bytes"))
    }
}

/// Far longer than any service name, and far shorter than an HTTP/2 frame. Bytes.
const LONGEST_SERVICE: usize = 1024;

/// `fcgi:`. With a socket, the `:` before the path is optional: without it the socket ends at the segment that ends in `.sock` or
/// `.socket`, else before the last segment.
fn fcgi(rest: &str) -> Result<Target, String> {
    let (peer, request) = place("fcgi", rest, None)?;
    let (peer, request) = match peer {
        Peer::Socket(socket) if request.is_empty() => {
            let text = socket.to_str().unwrap_or_default();
            let end = [".sock/", ".socket/"].iter().filter_map(|end| Some(text.find(end)? + end.len() - 1)).min();
            let whole = text.ends_with(".sock") || text.ends_with(".socket");
            let end = end.or_else(|| text.rfind('/').filter(|at| *at > 0 && !whole)).unwrap_or(text.len());
            let (socket, request) = text.split_at_checked(end).unwrap_or((text, ""));
            (Peer::Socket(socket.into()), request.to_owned())
        }
        peer => (peer, request.to_owned()),
    };
    let request = if request.is_empty() { "/".to_owned() } else { path(&request)? };
    Ok(Target::Fcgi(peer, request))
}

#[cfg(test)]
mod tests;
