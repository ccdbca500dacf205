//! Owns what all database protocols share: a decided answer, and how the connection is closed. Must not know any of them.

use crate::health::probe::grpc::exchange::shortened;

/// A decided answer: why the server is healthy, and how the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Healthy {
    pub reason: String,
    pub ending: Ending,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing has to be sent.
    Silent,
    /// Send these bytes. The server still works before it closes.
    Sending(&'static [u8]),
    /// Complete a login, whose first bytes these are.
    Login(Vec<u8>),
}

/// The bytes so far, parsed. `None`: more are needed.
pub(crate) type Read = Result<Option<Healthy>, String>;

/// Text from a server, for a reason; empty if there is none.
pub fn quoted(words: &[u8]) -> String {
    let words = words.trim_ascii();
    if words.is_empty() { String::new() } else { format!(": {}", shortened(words)) }
}
