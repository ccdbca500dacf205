//! Owns what a look at a port finds: holders, each with its state. Must not know how they are found, or how they are put into words.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::processes::{Engine, Search};
use crate::port::spec::Protocol;
use crate::sys::netlink::Row;

/// What a holder's socket is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Listening,
    /// Bound, and it does not listen (TCP); every unconnected UDP socket.
    Bound,
    /// An outgoing connection that the kernel gave this port.
    Client,
    /// A connection that a server left behind, or a connected UDP socket.
    Established,
    FinWait,
    CloseWait,
    TimeWait,
}

impl State {
    /// In the kernel's capitals where it is a state of a connection.
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

    /// `None` for a handshake that has not ended: it is its listener's.
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

    /// Whether it waits for peers rather than talks to one.
    pub fn has_no_peer(self) -> bool {
        matches!(self, Self::Listening | Self::Bound)
    }
}

/// One program (or nobody) that has a port, with all its sockets there that are in the same state. Unknown is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub port: u16,
    pub protocol: Protocol,
    pub pid: Option<i32>,
    pub command: Option<String>,
    pub uid: Option<u32>,
    pub user: Option<String>,
    /// The container's id, 64 hexadecimal digits, and whose it is.
    pub container: Option<(String, Engine)>,
    pub state: State,
    /// The local address the socket is bound to.
    pub address: IpAddr,
    /// How many sockets, at least 1.
    pub sockets: usize,
    /// Start of the program, in seconds since 1970.
    pub since: Option<u64>,
    /// TIME_WAIT, and FIN_WAIT_2 of a connection that its program has closed: the longest of them, where all have a timer that ends them.
    pub left: Option<Duration>,
    /// Why there is no pid.
    pub hidden: Option<Hidden>,
    /// It has set SO_REUSEPORT: others of its user may share the port with it, and nobody would notice. Seen where its socket is ours to look
    /// at (`processes::shares`), and else of a listener of our own user.
    pub reuse_port: Option<bool>,
}

impl Holder {
    /// What Docker starts on the host for a port that a container publishes.
    pub fn is_docker_proxy(&self) -> bool {
        let program = self.command.as_deref().and_then(|command| command.split(' ').next());
        program.and_then(|path| path.rsplit('/').next()) == Some("docker-proxy")
    }

    /// After this many seconds it is over by itself.
    pub fn seconds_left(&self) -> Option<u64> {
        self.left.map(|left| left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
    }
}

/// What a look at a port found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Listeners; where there are none, whatever else has the port.
    pub holders: Vec<Holder>,
    /// Why this may not be the whole truth, in words.
    pub incomplete: Option<&'static str>,
}

impl Look {
    /// The pids known, each once.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.holders.iter().filter_map(|holder| holder.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Nobody listens or has it bound: connections are all there is.
    pub fn only_connections(&self) -> bool {
        !self.holders.is_empty() && self.holders.iter().all(|holder| !holder.state.has_no_peer())
    }

    /// How long the last TIME_WAIT takes, where nothing else holds the port: a timed wait, and no event will tell its end.
    pub fn time_wait(&self) -> Option<Duration> {
        let all = !self.holders.is_empty() && self.holders.iter().all(|holder| holder.left.is_some());
        self.holders.iter().filter_map(|holder| holder.left).max().filter(|_| all)
    }
}

/// Why no pid is known for a socket that somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    Kernel,
    Closed,
    NoProc,
    /// Of our own user: more than one reason is possible.
    Refused,
    User,
    Namespace,
}

impl Hidden {
    /// `None` where the pid is known, or where there can be none.
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

    /// The word for machines.
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
            Self::Closed => "closed by its program, the kernel still ends the connection",
            Self::NoProc => "pid unknown: /proc was not searched",
            Self::Refused => {
                "pid hidden: a program of this user that we may not look into, or in another PID namespace or container"
            }
            Self::User => "pid hidden: another user",
            Self::Namespace => "in another PID namespace or container",
        })
    }
}
