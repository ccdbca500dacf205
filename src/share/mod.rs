//! Owns how instances with the same share name come to use one socket: where they connect, the protocol, and which
//! peers they trust. Must not know how a port is claimed, or what a socket is used for.
//!
//! An instance that holds the port listens on an abstract unix socket in its network namespace, the meeting point. A
//! new instance connects there, both authenticate, and the new one receives the listening socket, and the meeting
//! point's own socket too, so that every live instance accepts requests. There is no leader, and no instance is
//! stopped. Any process in the network namespace can connect (CVE-2020-15257 is the warning), so both sides check.

pub mod message;
pub mod newcomer;
pub mod provider;
pub mod request;

use std::path::PathBuf;
use std::time::Duration;

use message::Secret;

/// How long one side of an exchange waits for the other, in total.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The group of instances that share the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// `[a-z][a-z0-9-]{0,30}`
    pub name: String,
    /// A peer proves by its content that it belongs to the group.
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

/// The group, with its secret read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// `None`: running as the same user is sufficient.
    pub secret: Option<Secret>,
    /// Whether UDP ports are shared. Not if the app binds them by itself: our socket would exclude its bind.
    pub datagrams: bool,
}
