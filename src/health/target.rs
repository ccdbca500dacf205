//! Owns the health TARGET: its type and its text form. Must not know how it is asked.

use std::path::PathBuf;

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/path?query` on the primary port, plain HTTP.
    Path(String),
    /// `http://…` or `https://…`, as typed; checked to have a host and a valid port.
    Url(String),
    /// `tcp`: connect to the primary port.
    Tcp,
    /// `tcp://host:port`; IPv6 in brackets.
    TcpAt(String, u16),
    /// `unix:/sock`: connect. `unix:/sock:/path`: HTTP over it.
    Unix(PathBuf, Option<String>),
}
