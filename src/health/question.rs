//! Owns what a probe asks, with everything known that it needs: which protocol, where, and for what. Must not know who decided it, or how
//! it is asked.

use std::path::PathBuf;

use super::host::{bracketed, is_here};
use super::target::place::Peer;
use super::target::{Database, shown_grpc};
use super::url::Url;

/// What is asked, all of it known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A connection to a host and port; `localhost` and the wildcards mean 127.0.0.1, then `::1`.
    Tcp(String, u16),
    /// An answer to a request; the same holds for its host.
    Http(Url),
    /// A connection to a Unix socket.
    Unix(PathBuf),
    /// An answer to a request for this path over a Unix socket.
    HttpOverUnix(PathBuf, String),
    /// A service's health, of gRPC's health checking protocol, over TLS or not; the empty service is the server as a whole.
    Grpc(bool, Peer, String),
    /// A FastCGI responder's answer to a request for this path.
    Fcgi(Peer, String),
    /// Whether a server takes clients, in its own protocol.
    Database(Database, Peer),
    /// Whether a file exists.
    File(PathBuf),
    /// Whether a name resolves.
    Dns(String),
}

impl Question {
    /// For the verdict, with the query: the user wrote it.
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

    /// The port it asks on this machine's loopback; `None`: it asks elsewhere.
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
