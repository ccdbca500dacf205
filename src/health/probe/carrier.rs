//! Owns the connection that carries a protocol, with or without TLS. Must not know which protocol.

use super::clock::Clock;
#[cfg(feature = "tls")]
use super::tls;
use super::wire::{Broken, Wire};

/// A connection that carries a protocol.
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

    /// Says that nothing more will come from here, and waits for the other side to say so too.
    pub fn close(&mut self, clock: Clock) {
        match self {
            Self::Plain(wire) => wire.close(clock),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.close(clock),
        }
    }
}
