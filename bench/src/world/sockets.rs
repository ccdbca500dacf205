//! Owns sockets: the plain listener of a holder, and the query to the kernel which socket listens. Must not know what the answer is for.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use socket2::{Domain, Socket, Type};

use crate::fail::{Context, Outcome};

/// A listener on an IPv4 port of all addresses, as most servers create it.
///
/// # Errors
/// The port is taken.
pub fn listen_on(port: u16, backlog: i32) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

const HEADER: usize = 16;
const QUESTION: usize = HEADER + 56;
const ANSWER: usize = HEADER + 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const TCP_LISTEN: u8 = 10;

/// The kernel's table of sockets, queried for one exact port: 3 µs, and no trace left in it (`sock_diag(7)`).
pub struct Table(OwnedFd);

impl Table {
    /// # Errors
    /// A kernel without `sock_diag`.
    pub fn open() -> Outcome<Self> {
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
            .context("sock_diag")
            .map(Self)
    }

    /// Whether a socket listens on the port whose inode is not `holder`. A wildcard may be one socket for both families, or one of either.
    ///
    /// # Errors
    /// The kernel did not answer.
    pub fn is_taken(&self, port: u16, holder: u32) -> Outcome<bool> {
        for family in [libc::AF_INET6, libc::AF_INET] {
            let family = u8::try_from(family).unwrap_or_default();
            let mut answer = [0; 2048];
            let asked = send(self.0.as_raw_fd(), &question(family, port), MsgFlags::empty())
                .and_then(|_| recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty()));
            let size = asked.context("sock_diag")?;
            if let Some(inode) = listener_in(&answer[..size], family, port) {
                return Ok(inode != holder);
            }
        }
        Ok(false)
    }
}

/// `nlmsghdr` and `inet_diag_req_v2`: the sockets with this port, in any state.
fn question(family: u8, port: u16) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &(QUESTION as u32).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    put(HEADER, &[family, libc::IPPROTO_TCP as u8]);
    put(HEADER + 4, &u32::MAX.to_ne_bytes());
    put(HEADER + 8, &port.to_be_bytes());
    // No cookie.
    put(HEADER + 48, &[0xff; 8]);
    bytes
}

/// The inode of the listener that an answer (`inet_diag_msg`) describes.
fn listener_in(answer: &[u8], family: u8, port: u16) -> Option<u32> {
    if answer.len() < ANSWER || answer[4..6] == NLMSG_ERROR.to_ne_bytes() {
        return None;
    }
    let found = &answer[HEADER..];
    let fits = found[..2] == [family, TCP_LISTEN] && found[4..6] == port.to_be_bytes();
    let inode = u32::from_ne_bytes([found[68], found[69], found[70], found[71]]);
    (fits && inode != 0).then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_kernel_tells_who_listens() {
        let listener = listen_on(0, 1).unwrap();
        let port = listener.local_addr().unwrap().port();
        let inode = std::fs::metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap().ino();
        let (inode, table) = (u32::try_from(inode).unwrap(), Table::open().unwrap());
        assert!(!table.is_taken(port, inode).unwrap(), "its holder does not count");
        assert!(table.is_taken(port, inode + 1).unwrap(), "anybody else does");
        drop(listener);
        assert!(!table.is_taken(port, 0).unwrap(), "nobody listens any more");
    }

    #[test]
    fn what_is_no_listener_on_this_port_is_none() {
        let mut answer = [0; ANSWER];
        answer[HEADER..HEADER + 6].copy_from_slice(&[2, TCP_LISTEN, 0, 0, 0x1f, 0x90]);
        answer[ANSWER - 4..].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(listener_in(&answer, 2, 8080), Some(7));
        assert_eq!(listener_in(&answer, 10, 8080), None, "another family");
        assert_eq!(listener_in(&answer, 2, 8081), None, "another port");
        assert_eq!(listener_in(&answer[..ANSWER - 1], 2, 8080), None, "cut off");
        answer[HEADER + 1] = 1;
        assert_eq!(listener_in(&answer, 2, 8080), None, "a connection");
    }
}
