//! Owns what the app is told of a port. Must not know in which form: `templates` and `environment` do.

use std::net::IpAddr;

/// A port that the app is told of; never 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldPort {
    pub name: Option<String>,
    /// `None`: the wildcard.
    pub addr: Option<IpAddr>,
    pub port: u16,
    /// The number of its socket's descriptor in the app, where it is given one.
    pub fd: Option<i32>,
}
