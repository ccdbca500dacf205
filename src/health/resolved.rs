//! Owns a resolved target: protocol, address and path, with the primary port filled in. Must not know how it was chosen or is probed.

use std::path::PathBuf;

use super::host::{bracketed, is_here};
use super::target::place::Peer;
use super::target::{Database, shown_grpc};
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
