//! Owns what came of a question: the status, the outcome, and the servers that are still to be left. Must not know what was asked.

use std::fmt;
use std::net::SocketAddr;

use super::clock::Clock;
use super::parting::{Left, Parting};
use super::wire::Wire;
use crate::health::target::place::Peer;

/// The peer as it answered: `localhost` is two addresses, and a name may have many.
pub fn answered_at(peer: &Peer, address: Option<SocketAddr>) -> Peer {
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
    pub(super) fn unhealthy(shown: String, reason: String) -> Self {
        Self { shown, status: None, outcome: Err(reason), parting: Parting::default() }
    }

    /// Of a server that takes connections, which is all that was asked.
    pub(super) fn connected(shown: String, wire: Wire, clock: Clock) -> Self {
        let parting = Parting::new(vec![Left::silent(wire)], clock);
        Self { shown, status: None, outcome: Ok("it accepts connections".to_owned()), parting }
    }
}
