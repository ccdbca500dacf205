//! Owns a connection, with or without TLS. Must not know which protocol it carries.

use super::clock::Clock;
#[cfg(feature = "tls")]
use super::tls;
use super::wire::{Broken, Wire};

/// A connection, with or without TLS.
#[derive(Debug)]
pub enum Carrier {
    Plain(Wire),
    #[cfg(feature = "tls")]
    Tls(Box<tls::Session>),
}

impl Carrier {
    pub fn send(&mut self, bytes: &[u8], clock: Clock) -> Result<(), Broken> {
        match self {
            Self::Plain(wire) => wire.send(bytes, clock),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.send(bytes, clock),
        }
    }

    pub fn receive(&mut self, buffer: &mut [u8], clock: Clock) -> Result<usize, Broken> {
        match self {
            Self::Plain(wire) => wire.receive(buffer, clock),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.receive(buffer, clock),
        }
    }

    /// Closes the sending side and waits for the peer to close too.
    pub fn close(&mut self, clock: Clock) {
        match self {
            Self::Plain(wire) => wire.close(clock),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.close(clock),
        }
    }
}
