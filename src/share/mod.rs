//! Owns how instances of one name come to use one socket: where they meet, what they say, whom they believe. Must not know how a port is
//! claimed, or what becomes of a socket.
//!
//! An instance that has the port of a name waits at an abstract unix socket in its network namespace; a newcomer connects there, both prove what
//! they must, and the newcomer gets the listening socket and the meeting point's own socket too, so that every instance that lives answers.
//! Nobody leads, and nobody is ended by it. Whoever is on the same network can connect (CVE-2020-15257 is the warning), so both sides check.

pub mod asking;
pub mod meeting;
pub mod message;
pub mod newcomer;

use std::path::PathBuf;
use std::time::Duration;

use message::Secret;

/// How long one side of an exchange waits for the other, in all.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Whose instances share the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// `[a-z][a-z0-9-]{0,30}`
    pub name: String,
    /// Its content proves that somebody belongs to them.
    pub secret_file: Option<PathBuf>,
}

/// The text form of `--share`: `[a-z][a-z0-9-]{0,30}`
pub fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.len() <= 31 && text.starts_with(|first: char| first.is_ascii_lowercase()) && text.bytes().all(plain) {
        Ok(text.into())
    } else {
        Err("a share name is a lower-case letter and then at most 30 of a-z, 0-9 and -, such as api".into())
    }
}

/// Whose instances are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// `None`: the same user is proof enough.
    pub secret: Option<Secret>,
    /// Whether ports of UDP are shared: not where the app binds them by itself, which no socket of ours lets it do.
    pub datagrams: bool,
}
