//! Owns a connection, with or without TLS. Must not know which protocol it carries.

use super::deadline::Deadline;
#[cfg(feature = "tls")]
use super::tls;
use super::wire::{Broken, Wire};

/// A connection, with or without TLS.
#[derive(Debug)]
pub enum Connection {
    Plain(Wire),
    #[cfg(feature = "tls")]
    Tls(Box<tls::Session>),
}

impl Connection {
    pub fn send(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Broken> {
        match self {
            Self::Plain(wire) => wire.send(bytes, deadline),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.send(bytes, deadline),
        }
    }

    pub fn receive(&mut self, buffer: &mut [u8], deadline: Deadline) -> Result<usize, Broken> {
        match self {
            Self::Plain(wire) => wire.receive(buffer, deadline),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.receive(buffer, deadline),
        }
    }

    /// Closes the sending side and waits for the peer to close too.
    pub fn close(&mut self, deadline: Deadline) {
        match self {
            Self::Plain(wire) => wire.close(deadline),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.close(deadline),
        }
    }
}
