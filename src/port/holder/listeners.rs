//! Owns the list of listening sockets, and which of them given processes have open. Must not know what it is for.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use super::{processes, sockets};
use crate::port::spec::{Protocol, Spec};
use crate::sys::netlink::{self, Row};
use crate::sys::process;

/// A listening TCP socket, or a UDP one without a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `::` serves IPv4 too unless it is `v6_only`. A dual-stack socket bound to an IPv4 address (as Java does) has
    /// that IPv4 address here.
    pub addr: IpAddr,
    pub port: u16,
    pub inode: u64,
    pub v6_only: bool,
    /// Connections waiting to be accepted.
    pub queue: u32,
    /// The owner of the socket.
    pub uid: u32,
}

impl From<Row> for Listener {
    fn from(row: Row) -> Self {
        Self {
            addr: row.local.to_canonical(),
            port: row.local_port,
            inode: row.inode,
            v6_only: row.v6_only == Some(true),
            queue: row.receive_queue,
            uid: row.uid,
        }
    }
}

impl Listener {
    /// True if connections to `spec`'s address reach it.
    pub fn answers(&self, spec: &Spec) -> bool {
        sockets::overlap(sockets::reach_of(spec), sockets::reach(self.addr, self.v6_only))
    }
}

/// The UDP sockets without a peer on `port`, of any process.
///
/// # Errors
/// Neither netlink nor `/proc/net` can be read.
pub fn bound_udp(port: u16) -> io::Result<Vec<Listener>> {
    let (rows, _) = sockets::list(Protocol::Udp, 1 << 7, port)?;
    Ok(rows.into_iter().map(Listener::from).collect())
}

/// The listening TCP sockets on `port` (0: on any), of any process. Microseconds.
///
/// # Errors
/// Neither netlink nor `/proc/net` can be read.
pub fn listening(port: u16) -> io::Result<Vec<Listener>> {
    let (rows, _) = sockets::list(Protocol::Tcp, netlink::LISTEN, port)?;
    Ok(rows.into_iter().map(Listener::from).collect())
}

/// The listening TCP sockets that any of `pids` has open. A process whose descriptors we may not read counts as having
/// none.
///
/// # Errors
/// Neither netlink nor `/proc/net` can be read.
pub fn listeners(pids: &[i32]) -> io::Result<Vec<Listener>> {
    Ok(had_by(pids, listening(0)?))
}

/// Those of `all` that any of `pids` has open.
pub fn had_by(pids: &[i32], all: Vec<Listener>) -> Vec<Listener> {
    if all.is_empty() {
        return all;
    }
    let wanted: HashSet<u64> = all.iter().map(|listener| listener.inode).collect();
    let of =
        |pid: &i32| processes::sockets_of(*pid, &wanted, usize::MAX).map(|(sockets, _)| sockets).unwrap_or_default();
    let sockets: HashSet<u64> = pids.iter().flat_map(of).collect();
    all.into_iter().filter(|listener| sockets.contains(&listener.inode)).collect()
}

/// False if /proc is missing or shows another PID namespace: the kernel then lists sockets, but not their processes.
pub fn can_see_programs() -> bool {
    process::proc_is_ours()
}

/// The users of those of `pids` whose descriptors we may not read: an app that has changed its user, in a container
/// without CAP_SYS_PTRACE. Their sockets can be attributed by user only.
pub fn hidden_users(pids: &[i32]) -> Vec<u32> {
    let refused = |pid: &&i32| processes::is_hidden(**pid);
    pids.iter().filter(refused).filter_map(|pid| processes::facts(*pid).uid).collect()
}

/// How many connections wait to be accepted on the listening socket `inode`; `None`: it is not listening.
pub fn accept_queue(port: u16, inode: u64) -> Option<u32> {
    listening(port).ok()?.into_iter().find(|listener| listener.inode == inode).map(|listener| listener.queue)
}
