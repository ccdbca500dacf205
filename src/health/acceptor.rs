//! Owns which instance accepted a connection if several share a port (`--share`): netlink gives the server socket's inode, /proc tells
//! whether a process of the app holds it. Must not know what is sent over the connection.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::port::holder::processes;
use crate::sys::netlink::{self, Transport};
use crate::sys::process;

/// TCP states in which a server may still hold the socket: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
const OPEN: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Who accepted a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptor {
    /// It is still in the backlog.
    NotYet,
    Own,
    Other,
    /// Unknown: the app runs as another user, or /proc or netlink is not available.
    Unknown,
}

/// Who accepted the connection from `here` to `there`. `root`: the pid of `run`, whose descendants count as own.
pub fn acceptor(here: SocketAddr, there: SocketAddr, root: i32) -> Acceptor {
    let Ok(rows) = netlink::dump(Transport::Tcp, OPEN, there.port()) else { return Acceptor::Unknown };
    let is_it = |row: &&netlink::Row| row.peer_port == here.port() && plain(row.peer) == plain(here.ip());
    let Some(row) = rows.iter().find(is_it) else { return Acceptor::NotYet };
    if row.inode == 0 {
        return Acceptor::NotYet;
    }
    let wanted = HashSet::from([row.inode]);
    let mut hidden = false;
    for pid in process::below(root) {
        match processes::sockets_of(pid, &wanted, usize::MAX) {
            Ok((found, _)) if !found.is_empty() => return Acceptor::Own,
            Ok(_) => {}
            Err(error) => hidden |= error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }
    if hidden || !process::can_list() { Acceptor::Unknown } else { Acceptor::Other }
}

/// Netlink lists an IPv4 client of a dual-stack socket as `::ffff:a.b.c.d`.
fn plain(addr: std::net::IpAddr) -> std::net::IpAddr {
    addr.to_canonical()
}
