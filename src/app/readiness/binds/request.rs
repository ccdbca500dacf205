//! Owns what a bind(2) of the app asks for, read from its address and its socket. Must not know how it is answered.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use socket2::SockRef;

use crate::port::held::Want;
use crate::sys::notify::{self, Asked, Kind, Socket};

/// How many sockets with an intercepted IPV6_V6ONLY are remembered: an app binds a socket right after it sets the option.
const REMEMBERED: usize = 256;

/// A bind(2), completely read.
pub struct Request {
    pub asked: Asked,
    pub fd: i32,
    pub socket: Socket,
    pub port: u16,
    pub want: Want,
}

/// What a bind asks for, according to its address and its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindTarget {
    /// Not a TCP port: never answered with a claimed socket.
    Other,
    /// A TCP port at this address.
    Port(u16, Want),
}

/// Classifies a bind by its address, as read from the app's memory, and its socket. A pure function of both.
pub fn classify(address: &[u8], socket: &Socket, v6_only: bool) -> BindTarget {
    let Some(place) = notify::parse_address(address) else { return BindTarget::Other };
    let (ip, scope_id) = match (place, socket.kind) {
        (SocketAddr::V4(place), Kind::Tcp4) => (IpAddr::V4(*place.ip()), 0),
        (SocketAddr::V6(place), Kind::Tcp6) => (IpAddr::V6(*place.ip()), place.scope_id()),
        _ => return BindTarget::Other,
    };
    BindTarget::Port(place.port(), Want { ip, scope_id, v6_only: v6_only && ip.is_ipv6() })
}

/// Whether the kernel must answer a bind of a claimed port: in a separate network namespace of the app the port is another one, and on a
/// socket that is already bound the answer is EINVAL.
pub fn is_for_the_kernel(asked: &Asked, fd: i32) -> bool {
    let bound = |copy: OwnedFd| SockRef::from(&copy).local_addr().ok()?.as_socket().map(|place| place.port() != 0);
    notify::is_elsewhere(asked.tid) || notify::copy_of(asked.tid, fd).ok().and_then(bound).unwrap_or(false)
}

/// The IPV6_V6ONLY option that the app has set, by inode of the socket.
#[derive(Default)]
pub struct V6Only(VecDeque<(u64, bool)>);

impl V6Only {
    /// Remembers the option that the app is setting; `value` is its address in the app's memory.
    pub fn remember(&mut self, asked: &Asked, fd: i32, value: u64) {
        let mut bytes = [0; 4];
        let read = notify::read_memory(asked.tid, value, &mut bytes);
        if let (Ok(4), Ok(inode)) = (read, notify::inode_of(asked.tid, fd)) {
            self.0.retain(|(known, _)| *known != inode);
            self.0.push_back((inode, i32::from_ne_bytes(bytes) != 0));
            self.0.drain(..self.0.len().saturating_sub(REMEMBERED));
        }
    }

    /// The option as intercepted; otherwise as read from the socket; otherwise the kernel's default.
    pub fn of(&self, asked: &Asked, fd: i32, socket: &Socket) -> bool {
        if let Some((_, set)) = self.0.iter().find(|(inode, _)| *inode == socket.inode) {
            return *set;
        }
        let read = notify::copy_of(asked.tid, fd).ok().and_then(|copy| notify::v6_only(copy.as_fd()));
        read.unwrap_or_else(|| {
            std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "1")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(kind: Kind) -> Socket {
        Socket { inode: 1, kind, nonblocking: false, cloexec: true }
    }

    fn v4(address: [u8; 4], port: u16) -> Vec<u8> {
        let family = libc::AF_INET as u16;
        [&family.to_ne_bytes()[..], &port.to_be_bytes(), &address, &[0; 8]].concat()
    }

    fn v6(address: &str, port: u16, scope: u32) -> Vec<u8> {
        let family = libc::AF_INET6 as u16;
        let ip: std::net::Ipv6Addr = address.parse().unwrap();
        [&family.to_ne_bytes()[..], &port.to_be_bytes(), &[0; 4], &ip.octets(), &scope.to_ne_bytes()].concat()
    }

    #[test]
    fn what_a_bind_asks_for() {
        let want = |ip: &str, scope_id, v6_only| Want { ip: ip.parse().unwrap(), scope_id, v6_only };
        for (address, kind, v6_only, expected) in [
            (v4([0; 4], 80), Kind::Tcp4, false, BindTarget::Port(80, want("0.0.0.0", 0, false))),
            (v4([0; 4], 80), Kind::Tcp4, true, BindTarget::Port(80, want("0.0.0.0", 0, false))),
            (v4([127, 0, 0, 1], 0), Kind::Tcp4, false, BindTarget::Port(0, want("127.0.0.1", 0, false))),
            (v6("::", 80, 0), Kind::Tcp6, false, BindTarget::Port(80, want("::", 0, false))),
            (v6("::", 80, 0), Kind::Tcp6, true, BindTarget::Port(80, want("::", 0, true))),
            (v6("fe80::1", 80, 3), Kind::Tcp6, false, BindTarget::Port(80, want("fe80::1", 3, false))),
            // A whole sockaddr_storage: what follows the address is ignored.
            (
                [v4([10, 0, 0, 1], 80), vec![0xff; 112]].concat(),
                Kind::Tcp4,
                false,
                BindTarget::Port(80, want("10.0.0.1", 0, false)),
            ),
            // The kernel refuses these, with a better error than reberth could give.
            (v4([0; 4], 80), Kind::Tcp6, false, BindTarget::Other),
            (v6("::", 80, 0), Kind::Tcp4, false, BindTarget::Other),
            (v4([0; 4], 80), Kind::Other, false, BindTarget::Other),
            (v6("::", 80, 0)[..20].to_vec(), Kind::Tcp6, false, BindTarget::Other),
            (v4([0; 4], 80)[..8].to_vec(), Kind::Tcp4, false, BindTarget::Other),
            (vec![1, 0, b'/', b'a'], Kind::Tcp4, false, BindTarget::Other),
            (vec![], Kind::Tcp4, false, BindTarget::Other),
        ] {
            assert_eq!(classify(&address, &socket(kind), v6_only), expected, "{address:?} {kind:?}");
        }
    }
}
