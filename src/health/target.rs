//! Owns the health TARGET: its type and its text form. Must not know how it is asked.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::probe::url::bracketed;
use crate::config::value::is;

/// The accepted form, for messages.
pub const FORM: &str = "a target is /path, http://host[:port]/path, https://…, tcp, tcp://host:port, grpc[:SERVICE], grpc://host:port[/SERVICE] or unix:/socket[:/path]";

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/path?query` on the primary port, plain HTTP.
    Path(String),
    /// `http://…` or `https://…`, as typed; checked to have a host and a valid port.
    Url(String),
    /// `tcp`: connect to the primary port.
    Tcp,
    /// `tcp://host:port`; IPv6 without its brackets.
    TcpAt(String, u16),
    /// `grpc` or `grpc:SERVICE`: gRPC's health checking protocol on the primary port; the empty service is the server as a whole.
    Grpc(String),
    /// `grpc://host:port[/SERVICE]`, likewise; IPv6 without its brackets.
    GrpcAt(String, u16, String),
    /// `unix:/sock`: connect. `unix:/sock:/path`: HTTP over it.
    Unix(PathBuf, Option<String>),
}

impl Target {
    /// Whether it asks the primary port, and so means nothing where no port is known.
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
            Self::GrpcAt(host, port, service) => {
                let slash = if service.is_empty() { "" } else { "/" };
                write!(f, "grpc://{}:{port}{slash}{service}", bracketed(host))
            }
            Self::Unix(socket, None) => write!(f, "unix:{}", socket.display()),
            Self::Unix(socket, Some(path)) => write!(f, "unix:{}:{path}", socket.display()),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    /// The error is the reason with the accepted form.
    fn from_str(text: &str) -> Result<Self, String> {
        let fail = |reason: &str| format!("{reason}; {FORM}");
        if is(text, "tcp") {
            return Ok(Self::Tcp);
        }
        if is(text, "grpc") {
            return Ok(Self::Grpc(String::new()));
        }
        if text.starts_with('/') {
            return path(text).map(Self::Path).map_err(|reason| fail(&reason));
        }
        let (scheme, rest) = text.split_once(':').unwrap_or_default();
        match (scheme.to_ascii_lowercase().as_str(), rest.strip_prefix("//"), rest) {
            ("http", Some(rest), _) => url(text, rest).map_err(|reason| fail(&reason)),
            ("https", Some(_), _) if cfg!(not(feature = "tls")) => Err(fail(
                "this reberth is built without TLS, so it cannot ask https: use http://, or the build with TLS",
            )),
            ("https", Some(rest), _) => url(text, rest).map_err(|reason| fail(&reason)),
            ("tcp", Some(rest), _) => {
                let place = rest.strip_suffix('/').unwrap_or(rest);
                let (host, port) = authority(place).map_err(|reason| fail(&reason))?;
                let port = port.ok_or_else(|| fail("tcp://host needs a port"))?;
                Ok(Self::TcpAt(host.into(), port))
            }
            ("grpc", Some(rest), _) => grpc_at(rest).map_err(|reason| fail(&reason)),
            ("grpc", None, rest) => grpc(rest).map_err(|reason| fail(&reason)),
            ("grpcs", Some(_), _) => Err(fail("gRPC is asked in plaintext only, as the kubelet does it: use grpc://")),
            ("unix", _, rest) => unix(rest).map_err(|reason| fail(&reason)),
            _ => Err(fail(&guess(text))),
        }
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

/// `host`, `host:port`, `[v6]` or `[v6]:port`; the host without brackets.
fn authority(text: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err("after the address comes :port".into()),
        },
        Some(_) => return Err("in brackets goes an IPv6 address".into()),
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("an IPv6 address goes in brackets".into()),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err("it has no valid host".into());
    }
    let number = |port: &str| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        port.parse::<u16>().ok().filter(|port| digits && *port != 0).ok_or("its port is not 1 to 65535")
    };
    Ok((host, port.map(number).transpose()?))
}

fn grpc_at(rest: &str) -> Result<Target, String> {
    let (place, name) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority(place)?;
    let port = port.ok_or("grpc://host needs a port")?;
    Ok(Target::GrpcAt(host.into(), port, service(name)?))
}

/// What follows `grpc:`. A port there would be asked for as a service, and the answer would puzzle.
fn grpc(rest: &str) -> Result<Target, String> {
    match rest {
        "" => Err("after grpc: comes a service (grpc alone asks for the server as a whole)".into()),
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("after grpc: comes a service (did you mean grpc://127.0.0.1:{port}?)"))
        }
        name if name.starts_with('/') => Err("after grpc: comes a service, without a /".into()),
        name => service(name).map(Target::Grpc),
    }
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

/// The kernel's `sun_path` holds 108 bytes with the final zero (unix(7)).
const LONGEST_SOCKET: usize = 107;

fn unix(rest: &str) -> Result<Target, String> {
    let (socket, tail) = match rest.find(":/") {
        Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..)),
        None => (rest, None),
    };
    if !Path::new(socket).is_absolute() || socket.contains('\0') {
        return Err("the socket of unix: is an absolute path".into());
    }
    if socket.len() > LONGEST_SOCKET {
        return Err(format!("a socket's path has at most {LONGEST_SOCKET} bytes"));
    }
    Ok(Target::Unix(socket.into(), tail.map(path).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let tcp = |host: &str, port| Target::TcpAt(host.into(), port);
        let unix = |socket: &str, path: Option<&str>| Target::Unix(socket.into(), path.map(Into::into));
        for (text, want) in [
            ("/", Target::Path("/".into())),
            ("/healthz?full=1", Target::Path("/healthz?full=1".into())),
            ("tcp", Target::Tcp),
            ("tcp://db:5432", tcp("db", 5432)),
            ("tcp://[::1]:80", tcp("::1", 80)),
            ("tcp://my_db.svc:80", tcp("my_db.svc", 80)),
            ("unix:/run/app.sock", unix("/run/app.sock", None)),
            ("unix:/run/app.sock:/health?a=b:/c", unix("/run/app.sock", Some("/health?a=b:/c"))),
            ("grpc", Target::Grpc(String::new())),
            ("grpc:my.pkg.Svc", Target::Grpc("my.pkg.Svc".into())),
            ("grpc:a:1/b?c#d", Target::Grpc("a:1/b?c#d".into())),
            ("grpc://db:5432", Target::GrpcAt("db".into(), 5432, String::new())),
            ("grpc://[::1]:80/a.B/c", Target::GrpcAt("::1".into(), 80, "a.B/c".into())),
        ] {
            assert_eq!(text.parse(), Ok(want.clone()), "{text}");
            assert_eq!(want.to_string(), text);
        }
        assert_eq!("TCP".parse(), Ok(Target::Tcp));
        assert_eq!("Grpc".parse(), Ok(Target::Grpc(String::new())));
        assert_eq!("GRPC://h:1/".parse(), Ok(Target::GrpcAt("h".into(), 1, String::new())));
        assert_eq!("/a#b".parse(), Ok(Target::Path("/a".into())));
        assert_eq!("unix:///run/a.sock".parse(), Ok(unix("///run/a.sock", None)));
        for url in
            ["http://localhost", "http://127.0.0.1:8080/x?y", "HTTP://[::1]:80/", "http://h?x", "http://my_app:1/"]
        {
            assert_eq!(url.parse(), Ok(Target::Url(url.into())), "{url}");
        }
        for (bad, reason) in [
            ("", "no scheme"),
            ("8080", "did you mean http://127.0.0.1:8080?"),
            ("localhost:8080/x", "did you mean http://localhost:8080/x?"),
            ("smtp://h:1", "no scheme that reberth knows"),
            ("grpc:", "grpc alone"),
            ("grpc:8080", "did you mean grpc://127.0.0.1:8080?"),
            ("grpc:/a.B", "without a /"),
            ("grpc:a B", "printable"),
            ("grpc://h", "needs a port"),
            ("grpc://h/a.B", "needs a port"),
            ("grpc://:80", "host"),
            ("grpc://::1:80", "brackets"),
            ("grpc://h:0", "port"),
            ("grpc://h:1/ä", "printable"),
            ("grpcs://h:1", "plaintext"),
            ("http://", "host"),
            ("http:///x", "host"),
            ("http://:80/", "host"),
            ("http://h:0/", "port"),
            ("http://h:/", "port"),
            ("http://h:65536/", "port"),
            ("http://::1/", "brackets"),
            ("http://[::1/", "host"),
            ("http://[x]/", "IPv6"),
            ("http://[::1]x/", ":port"),
            ("http://u:p@h/", "Authorization"),
            ("http://h/a b", "printable"),
            ("http://hö/", "host"),
            ("/a b", "printable"),
            ("/ä", "%C3%A4"),
            ("/a\r\nX: y", "printable"),
            ("tcp:80", "no scheme"),
            ("tcp://h", "needs a port"),
            ("tcp://h:80/x", "port"),
            ("unix:", "absolute"),
            ("unix:run/x", "absolute"),
            ("unix::/x", "absolute"),
            ("unix:/a:/b c", "printable"),
        ] {
            let got = bad.parse::<Target>();
            assert!(
                got.as_ref().is_err_and(|got| got.contains(reason) && got.contains("a target is")),
                "{bad}: {got:?}"
            );
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(long.parse::<Target>().is_err_and(|got| got.contains("107")));
        assert!(format!("grpc:{}", "x".repeat(1025)).parse::<Target>().is_err_and(|got| got.contains("1024")));
    }

    #[test]
    fn https_needs_the_feature() {
        let got = "https://example.org/".parse::<Target>();
        if cfg!(feature = "tls") {
            assert_eq!(got, Ok(Target::Url("https://example.org/".into())));
        } else {
            assert!(got.is_err_and(|got| got.contains("without TLS")));
        }
    }
}
