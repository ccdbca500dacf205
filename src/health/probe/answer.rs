//! Owns a probe's result: status, outcome, and connections still to be closed. Must not know what was probed.

use std::fmt;
use std::net::SocketAddr;

use super::closing::{Closing, OpenConnection};
use super::deadline::Deadline;
use super::wire::Wire;
use crate::health::target::place::Peer;

/// The peer with the address that answered: `localhost` has two, and a name may have many.
pub fn answered_at(peer: &Peer, address: Option<SocketAddr>) -> Peer {
    match (peer, address) {
        // A zone's interface name tells the user more than the number in the address.
        (Peer::Host(host, _), Some(address)) if !host.contains('%') => {
            Peer::Host(address.ip().to_string(), address.port())
        }
        _ => peer.clone(),
    }
}

/// The status that a server reported, in its protocol's words.
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

/// The result of a probe.
#[derive(Debug)]
pub struct Answer {
    /// The target with the address that answered.
    pub shown: String,
    /// The status, if the server answered.
    pub status: Option<Status>,
    /// Healthy or not, each with its reason.
    pub outcome: Result<String, String>,
    /// Connections to close gracefully after the verdict has been printed.
    pub closing: Closing,
}

impl Answer {
    pub(super) fn unhealthy(shown: String, reason: String) -> Self {
        Self { shown, status: None, outcome: Err(reason), closing: Closing::default() }
    }

    /// The server accepts connections, and nothing else was to be checked.
    pub(super) fn connected(shown: String, wire: Wire, deadline: Deadline) -> Self {
        let closing = Closing::new(vec![OpenConnection::idle(wire)], deadline);
        Self { shown, status: None, outcome: Ok("it accepts connections".to_owned()), closing }
    }
}
