//! Owns what the app is given to know of a port. Must not know in which form: `templates` and `environment` do.

use std::net::IpAddr;

/// A port as the app is configured with it; never 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPort {
    pub name: Option<String>,
    /// `None`: all addresses.
    pub addr: Option<IpAddr>,
    pub port: u16,
    /// The file descriptor of its socket in the app, if the app is given one.
    pub fd: Option<i32>,
}
