//! Owns the result of a look at a port: holders, each with its state. Must not know how they are found or described.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::processes::{Engine, Search};
use crate::port::spec::Protocol;
use crate::sys::netlink::Row;

/// The state of a holder's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Listening,
    /// TCP: bound but not listening. UDP: unconnected.
    Bound,
    /// An outgoing connection that the kernel assigned this port.
    Client,
    /// A connection that a server left behind, or a connected UDP socket.
    Established,
    FinWait,
    CloseWait,
    TimeWait,
}

impl State {
    /// The kernel's name, in capitals, for the state of a connection.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Bound => "bound",
            Self::Client => "client connection",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::TimeWait => "TIME_WAIT",
        }
    }

    /// `None` for an unfinished handshake, which belongs to its listener.
    pub fn of(row: &Row, protocol: Protocol) -> Option<Self> {
        match (protocol, row.state) {
            (_, 7 | 13) => Some(Self::Bound),
            (Protocol::Udp, _) => Some(Self::Established),
            (_, 1) => Some(Self::Established),
            (_, 2) => Some(Self::Client),
            (_, 4 | 5 | 11) => Some(Self::FinWait),
            (_, 6) => Some(Self::TimeWait),
            (_, 8 | 9) => Some(Self::CloseWait),
            (_, 10) => Some(Self::Listening),
            _ => None,
        }
    }

    /// Whether the socket has no peer.
    pub fn has_no_peer(self) -> bool {
        matches!(self, Self::Listening | Self::Bound)
    }
}

/// One process (or none) that has a port, with all its sockets there in the same state. `None` is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub port: u16,
    pub protocol: Protocol,
    pub pid: Option<i32>,
    pub command: Option<String>,
    pub uid: Option<u32>,
    pub user: Option<String>,
    /// The container's id, 64 hexadecimal digits, and its engine.
    pub container: Option<(String, Engine)>,
    pub state: State,
    /// The local address the socket is bound to.
    pub address: IpAddr,
    /// How many sockets, at least 1.
    pub sockets: usize,
    /// Start of the process, in seconds since 1970.
    pub since: Option<u64>,
    /// The longest remaining time, for TIME_WAIT and for FIN_WAIT_2 connections that their process has closed, if all
    /// have a timer.
    pub left: Option<Duration>,
    /// Why the pid is unknown.
    pub hidden: Option<Hidden>,
    /// SO_REUSEPORT is set: other processes of its user may share the port unnoticed. Known if we may inspect the
    /// socket (`processes::shares`), else for listeners of our own user.
    pub reuse_port: Option<bool>,
}

impl Holder {
    /// docker-proxy: Docker runs one on the host for each port that a container publishes.
    pub fn is_docker_proxy(&self) -> bool {
        let program = self.command.as_deref().and_then(|command| command.split(' ').next());
        program.and_then(|path| path.rsplit('/').next()) == Some("docker-proxy")
    }

    /// In how many seconds it expires by itself.
    pub fn seconds_left(&self) -> Option<u64> {
        self.left.map(|left| left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
    }
}

/// The result of a look at a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Listeners; if there are none, everything else that has the port.
    pub holders: Vec<Holder>,
    /// Why the result may be incomplete, as text.
    pub incomplete: Option<&'static str>,
}

impl Look {
    /// The known pids, each once.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.holders.iter().filter_map(|holder| holder.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// No socket listens or is bound without a peer: only connections are left.
    pub fn only_connections(&self) -> bool {
        !self.holders.is_empty() && self.holders.iter().all(|holder| !holder.state.has_no_peer())
    }

    /// When the last TIME_WAIT expires, if nothing else holds the port: its expiry causes no event, so it must be
    /// timed.
    pub fn time_wait(&self) -> Option<Duration> {
        let all = !self.holders.is_empty() && self.holders.iter().all(|holder| holder.left.is_some());
        self.holders.iter().filter_map(|holder| holder.left).max().filter(|_| all)
    }
}

/// Why the pid of an open socket is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    Kernel,
    Closed,
    NoProc,
    /// Of our own user: several reasons are possible.
    Refused,
    User,
    Namespace,
}

impl Hidden {
    /// `None` if the pid is known, or no process has the socket.
    pub fn why(pid: Option<i32>, row: &Row, state: State, search: &Search, own: u32) -> Option<Self> {
        if pid.is_some() || state == State::TimeWait {
            return None;
        }
        Some(match row.inode {
            0 if state.has_no_peer() => Self::Kernel,
            0 => Self::Closed,
            _ if !search.looked => Self::NoProc,
            _ if search.refused.contains(&row.uid) && row.uid == own => Self::Refused,
            _ if search.refused.contains(&row.uid) || (row.uid != own && !search.refused.is_empty()) => Self::User,
            _ => Self::Namespace,
        })
    }

    /// The word in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Closed => "closed",
            Self::NoProc => "no-proc",
            Self::Refused => "refused",
            Self::User => "user",
            Self::Namespace => "namespace",
        }
    }
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "a socket of the kernel itself, or of a file system",
            Self::Closed => "closed by its program, but the kernel has not finished the connection",
            Self::NoProc => "pid unknown: /proc was not searched",
            Self::Refused => {
                "pid hidden: a program of this user that reberth may not inspect, or in another PID namespace or container"
            }
            Self::User => "pid hidden: another user",
            Self::Namespace => "in another PID namespace or container",
        })
    }
}
