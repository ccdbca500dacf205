//! Owns the asking: one question to a server, one answer, within one clock. Must not know whom `run` told what: `health::decide` does.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Healthcheck;
use crate::health::target::place::Peer;
use crate::health::target::{Database, shown_grpc};
use crate::sys::lookup;

pub(crate) mod body;
pub mod clock;
pub(crate) mod database;
pub(crate) mod fcgi;
pub(crate) mod grpc;
pub(crate) mod http;
pub mod parting;
#[cfg(feature = "tls")]
mod tls;
pub mod url;
mod wire;

use clock::Clock;
use parting::{Left, Parting};
use url::{Url, bracketed};
use wire::{Broken, Wire};

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
}

impl Question {
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
        wire::is_here(host).then_some(port)
    }
}

/// What the reason begins with where nobody listens.
pub const REFUSED: &str = "connection refused";

/// The peer as it answered: `localhost` is two addresses, and a name may have many.
fn answered_at(peer: &Peer, address: Option<SocketAddr>) -> Peer {
    match (peer, address) {
        // Of a zone the user knows the name.
        (Peer::Host(host, _), Some(address)) if !host.contains('%') => {
            Peer::Host(address.ip().to_string(), address.port())
        }
        _ => peer.clone(),
    }
}

/// What a server said of itself, in the words of its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Http(u16),
    /// The name of a serving status, or of a `grpc-status` other than OK.
    Grpc(&'static str),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(status) => write!(f, "{status}"),
            Self::Grpc(name) => f.write_str(name),
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Answer {
    /// The question with the address that answered.
    pub shown: String,
    /// The status, if there was an answer.
    pub status: Option<Status>,
    /// Healthy or not, each with its reason.
    pub outcome: Result<String, String>,
    /// The servers that are still to be taken leave of, once the verdict is told.
    pub parting: Parting,
}

impl Answer {
    fn unhealthy(shown: String, reason: String) -> Self {
        Self { shown, status: None, outcome: Err(reason), parting: Parting::default() }
    }

    /// Of a server that takes connections, which is all that was asked.
    fn connected(shown: String, wire: Wire, clock: Clock) -> Self {
        let parting = Parting::new(vec![Left::silent(wire)], clock);
        Self { shown, status: None, outcome: Ok("it accepts connections".to_owned()), parting }
    }
}

/// Asks once. It ends within `timeout`, whatever the server does. `own`: the `run` whose own tree has to answer, where others share its port.
///
/// What most probes do not ask is not in line: its room would be on their stack.
pub fn ask(question: &Question, terms: &Healthcheck, own: Option<i32>, timeout: Duration) -> Answer {
    let clock = Clock::start(timeout);
    let shown = question.shown();
    match question {
        Question::Tcp(host, port) => match Wire::tcp_to(host, *port, clock, own) {
            Ok((wire, address)) => {
                let peer = answered_at(&Peer::Host(host.clone(), *port), Some(address));
                Answer::connected(peer.shown("tcp", ""), wire, clock)
            }
            Err(reason) => Answer::unhealthy(shown, reason),
        },
        Question::Unix(socket) => match Wire::unix(socket, clock) {
            Ok(wire) => Answer::connected(shown, wire, clock),
            Err(reason) => Answer::unhealthy(shown, reason),
        },
        Question::Http(url) => http::ask(url, (None, own), shown, terms, clock),
        Question::Grpc(tls, peer, service) => grpc::ask((*tls, peer), service, terms, clock, own),
        Question::Fcgi(peer, path) => fcgi::ask(peer, path, terms, clock),
        Question::Database(database, peer) => database::ask(*database, peer, clock),
        Question::File(path) => {
            let outcome = match lookup::exists(path, clock.end()) {
                Ok(()) => Ok("it exists".to_owned()),
                Err(lookup::Failed::Error(why)) => Err(why),
                Err(lookup::Failed::Timeout) => Err(format!(
                    "timed out after {}: its file system does not answer (a mount whose server is gone?)",
                    shown_duration(clock.total())
                )),
            };
            Answer { shown, status: None, outcome, parting: Parting::default() }
        }
        Question::Dns(name) => {
            let outcome = wire::resolve(name, clock).map(|found| format!("it resolves to {found}"));
            Answer { shown, status: None, outcome, parting: Parting::default() }
        }
        Question::HttpOverUnix(socket, path) => {
            let url = Url { tls: false, host: "localhost".into(), port: 80, path: path.clone() };
            http::ask(&url, (Some(socket), None), shown, terms, clock)
        }
    }
}

/// A connection that carries a protocol.
#[derive(Debug)]
enum Carrier {
    Plain(Wire),
    #[cfg(feature = "tls")]
    Tls(Box<tls::Session>),
}

impl Carrier {
    fn send(&mut self, bytes: &[u8], clock: Clock) -> Result<(), Broken> {
        match self {
            Self::Plain(wire) => wire.send(bytes, clock),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.send(bytes, clock),
        }
    }

    fn receive(&mut self, buffer: &mut [u8], clock: Clock) -> Result<usize, Broken> {
        match self {
            Self::Plain(wire) => wire.receive(buffer, clock),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.receive(buffer, clock),
        }
    }

    /// Says that nothing more will come from here, and waits for the other side to say so too.
    fn close(&mut self, clock: Clock) {
        match self {
            Self::Plain(wire) => wire.close(clock),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.close(clock),
        }
    }
}

/// `0.4ms`, `900ms`, `1.5s`.
pub fn shown_duration(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..10_000 => format!("{}.{}ms", micros / 1000, micros % 1000 / 100).replace(".0ms", "ms"),
        10_000..1_000_000 => format!("{}ms", micros / 1000),
        _ => format!("{}.{}s", micros / 1_000_000, micros % 1_000_000 / 100_000).replace(".0s", "s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (micros, want) in [
            (0, "0ms"),
            (420, "0.4ms"),
            (1000, "1ms"),
            (1999, "1.9ms"),
            (900_000, "900ms"),
            (1_000_000, "1s"),
            (1_500_000, "1.5s"),
            (90_000_000, "90s"),
        ] {
            assert_eq!(shown_duration(Duration::from_micros(micros)), want);
        }
    }
}
