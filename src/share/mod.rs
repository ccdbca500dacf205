//! Owns how instances of one name come to use one socket: where they meet, what they say, whom they believe. Must not know how a port is
//! claimed, or what becomes of a socket.
//!
//! An instance that has the port of a name waits at an abstract unix socket in its network namespace; a newcomer connects there, both prove what
//! they must, and the newcomer gets the listening socket and the meeting point's own socket too, so that every instance that lives answers.
//! Nobody leads, and nobody is ended by it. Whoever is on the same network can connect (CVE-2020-15257 is the warning), so both sides check.

pub mod asking;
pub mod meeting;
pub mod message;

use std::time::Duration;

use message::Secret;

use crate::port::spec::{Protocol, Spec};

/// How long one side of an exchange waits for the other, in all.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Whose instances are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// `None`: the same user is proof enough.
    pub secret: Option<Secret>,
}

/// The abstract name at which those of a group who have this port are met: one for each port, so that instances with unlike ports find each
/// other.
pub fn place(name: &str, spec: &Spec) -> Vec<u8> {
    let protocol = match spec.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("reberth/share/{name}/{protocol}/{}", spec.port).into_bytes()
}
