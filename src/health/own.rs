//! Owns whose answer an answer is, where instances share a port (`--share`): the kernel's table tells which socket the server's end of a
//! connection is, and /proc whether the app's tree has it. Must not know what is asked.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::port::holder::processes;
use crate::sys::netlink::{self, Transport};
use crate::sys::process;

/// The states of a connection that a server may still have open: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
const OPEN: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Whose the server's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Nobody has accepted it yet.
    Nobodys,
    Own,
    Anothers,
    /// It cannot be told: the app runs as another user, or there is no /proc or no netlink.
    Unseen,
}

/// Whose the other end of a connection from `here` to `there` is. `root`: the `run` whose tree is the own one.
pub fn whose(here: SocketAddr, there: SocketAddr, root: i32) -> Whose {
    let Ok(rows) = netlink::dump(Transport::Tcp, OPEN, there.port()) else { return Whose::Unseen };
    let is_it = |row: &&netlink::Row| row.peer_port == here.port() && plain(row.peer) == plain(here.ip());
    let Some(row) = rows.iter().find(is_it) else { return Whose::Nobodys };
    if row.inode == 0 {
        return Whose::Nobodys;
    }
    let wanted = HashSet::from([row.inode]);
    let mut hidden = false;
    for pid in process::below(root) {
        match processes::sockets_of(pid, &wanted, usize::MAX) {
            Ok((found, _)) if !found.is_empty() => return Whose::Own,
            Ok(_) => {}
            Err(error) => hidden |= error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }
    if hidden || !process::can_list() { Whose::Unseen } else { Whose::Anothers }
}

/// An IPv4 client of a socket for both families is `::ffff:a.b.c.d` in the table.
fn plain(addr: std::net::IpAddr) -> std::net::IpAddr {
    addr.to_canonical()
}
