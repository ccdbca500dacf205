//! Owns a resolved target: protocol, address and path, with the primary port filled in. Must not know how it was chosen or how it is
//! probed.

use std::path::PathBuf;

use super::host::{bracketed, is_here};
use super::target::place::Peer;
use super::target::{Database, Target, shown_grpc};
use super::url::Url;

/// A target with nothing left to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvedTarget {
    /// Connect to a host and port. `localhost` and the wildcards mean 127.0.0.1, then `::1`.
    Tcp(String, u16),
    /// An HTTP request; the same holds for its host.
    Http(Url),
    /// Connect to a Unix socket.
    Unix(PathBuf),
    /// An HTTP request for this path over a Unix socket.
    HttpOverUnix(PathBuf, String),
    /// The gRPC health checking protocol, with TLS (true) or without. The empty service is the server as a whole.
    Grpc(bool, Peer, String),
    /// A request for this path to a FastCGI responder.
    Fcgi(Peer, String),
    /// Whether a server accepts clients, in its own protocol.
    Database(Database, Peer),
    /// The file exists.
    File(PathBuf),
    /// The name resolves.
    Dns(String),
}

impl ResolvedTarget {
    /// Fills in the primary port at `host` and `port`. Without a target, `/` there.
    ///
    /// # Errors
    /// The URL cannot be parsed; the reason.
    pub fn of(target: Option<&Target>, host: String, port: u16) -> Result<Self, &'static str> {
        let on_port = |path: &str, host| Self::Http(Url { tls: false, host, port, path: path.to_owned() });
        Ok(match target {
            None => on_port("/", host),
            Some(Target::Path(path)) => on_port(path, host),
            Some(Target::Tcp) => Self::Tcp(host, port),
            Some(Target::Grpc(service)) => Self::Grpc(false, Peer::Host(host, port), service.clone()),
            Some(Target::GrpcAt(tls, peer, service)) => Self::Grpc(*tls, peer.clone(), service.clone()),
            Some(Target::Fcgi(peer, path)) => Self::Fcgi(peer.clone(), path.clone()),
            Some(Target::Database(database, peer)) => Self::Database(*database, peer.clone()),
            Some(Target::File(path)) => Self::File(path.clone()),
            Some(Target::Dns(name)) => Self::Dns(name.clone()),
            Some(Target::TcpAt(host, port)) => Self::Tcp(host.clone(), *port),
            Some(Target::Unix(socket, None)) => Self::Unix(socket.clone()),
            Some(Target::Unix(socket, Some(path))) => Self::HttpOverUnix(socket.clone(), path.clone()),
            Some(Target::Url(text)) => Self::Http(Url::parse(text)?),
        })
    }

    /// For the verdict. Includes the URL's query, because the user wrote it.
    pub fn shown(&self) -> String {
        match self {
            Self::Tcp(host, port) => format!("tcp://{}:{port}", bracketed(host)),
            Self::Http(url) => url.shown(),
            Self::Unix(socket) => format!("unix:{}", socket.display()),
            Self::HttpOverUnix(socket, path) => format!("unix:{}:{path}", socket.display()),
            Self::Grpc(tls, peer, service) => shown_grpc(*tls, peer, service),
            Self::Fcgi(peer, path) => peer.shown("fcgi", path),
            Self::Database(database, peer) => peer.shown(database.scheme(), ""),
            Self::File(path) => format!("file:{}", path.display()),
            Self::Dns(name) => format!("dns:{name}"),
        }
    }

    /// The port, if the target is on loopback; `None` if it is elsewhere.
    pub fn local_port(&self) -> Option<u16> {
        let (host, port) = match self {
            Self::Tcp(host, port)
            | Self::Grpc(_, Peer::Host(host, port), _)
            | Self::Fcgi(Peer::Host(host, port), _)
            | Self::Database(_, Peer::Host(host, port)) => (host, *port),
            Self::Http(url) => (&url.host, url.port),
            _ => return None,
        };
        is_here(host).then_some(port)
    }
}
