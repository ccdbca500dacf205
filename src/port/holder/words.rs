//! Owns the text that describes a holder. Must not know how it was found.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use super::found::{Holder, Look, State};
use crate::port::spec::Protocol;

/// Longest part of a command line in a log line.
const COMMAND: usize = 160;

/// A command line, truncated for a log line.
pub fn short(command: &str) -> String {
    let mut short: String = command.chars().take(COMMAND).collect();
    if short.len() < command.len() {
        short.push('…');
    }
    short
}

impl fmt::Display for Holder {
    /// One line: process, user, container, state and address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.state) {
            (Some(pid), _) => write!(f, "pid {pid}")?,
            (None, State::TimeWait) => return self.doing(f),
            (None, _) => match self.hidden {
                Some(why) => write!(f, "no visible pid ({why})")?,
                None => write!(f, "no visible pid")?,
            },
        }
        if let Some(command) = &self.command {
            write!(f, " `{}`", short(command))?;
        }
        match (&self.user, self.uid) {
            (Some(user), Some(uid)) => write!(f, ", uid {uid} ({user})")?,
            (None, Some(uid)) => write!(f, ", uid {uid}")?,
            _ => {}
        }
        if let Some((container, _)) = &self.container {
            write!(f, ", container {}", container.get(..12).unwrap_or(container))?;
        }
        write!(f, ", ")?;
        self.doing(f)
    }
}

impl Holder {
    fn doing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.sockets == 1 { "a connection".to_owned() } else { format!("{} connections", self.sockets) };
        let shares = if self.reuse_port == Some(true) { " with SO_REUSEPORT" } else { "" };
        match (self.state, self.protocol) {
            (State::Listening, _) => write!(f, "listening on {}{shares}", self.at()),
            (State::Bound, Protocol::Tcp) => write!(f, "bound to {}{shares}, not listening", self.at()),
            (State::Bound, Protocol::Udp) => write!(f, "bound to {}{shares}", self.at()),
            (State::Client, _) => {
                write!(f, "a client connection: the kernel assigned this port to ")?;
                match self.sockets {
                    1 => write!(f, "an outgoing connection"),
                    many => write!(f, "{many} outgoing connections"),
                }
            }
            (State::TimeWait, _) => {
                let left = self.seconds_left().unwrap_or_default();
                write!(f, "nobody: TIME_WAIT, {left}s left, {many} of a server that has exited")
            }
            (State::Established | State::CloseWait | State::FinWait, _) => {
                write!(f, "{}", self.state.name())?;
                if let Some(left) = self.seconds_left() {
                    write!(f, ", {left}s left")?;
                }
                write!(f, ": {many} left by a server that no longer listens")
            }
        }
    }

    fn at(&self) -> std::net::SocketAddr {
        std::net::SocketAddr::new(self.address, self.port)
    }
}

impl fmt::Display for Look {
    /// All holders, in one log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.holders.is_empty() {
            return f.write_str(self.incomplete.unwrap_or("a holder that is not visible from here"));
        }
        for (position, holder) in self.holders.iter().take(4).enumerate() {
            write!(f, "{}{holder}", if position == 0 { "" } else { "; " })?;
        }
        match self.holders.len() {
            0..=4 => Ok(()),
            more => write!(f, "; and {} more", more - 4),
        }
    }
}

/// RFC 3339 in UTC, from seconds since 1970.
pub fn timestamp(seconds: u64) -> String {
    // Later years have five digits, which RFC 3339 does not allow.
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The last second of the year 9999, since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn timestamps() {
        let table = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ];
        for (seconds, expected) in table {
            assert_eq!(timestamp(seconds), expected);
        }
    }
}
