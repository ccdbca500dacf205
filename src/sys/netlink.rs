//! Owns `NETLINK_SOCK_DIAG`: dumping sockets and subscribing to their destruction, as bytes. Must not know what a port
//! is for.
//!
//! Layouts are those of `linux/inet_diag.h` (`inet_diag_req_v2`, `inet_diag_msg`) after a `struct nlmsghdr`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, recv, send};
use socket2::{Domain, SockFilter, Socket, Type};

const HEADER: usize = 16;
const MESSAGE: usize = HEADER + 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCPDIAG_GETSOCK: u16 = 18;
const INET_DIAG_SKV6ONLY: u16 = 11;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
/// `1 << state` of `TCP_LISTEN`.
pub const LISTEN: u32 = 1 << 10;
/// Every state but [`BOUND`].
pub const ALL: u32 = !BOUND;
/// `TCP_BOUND_INACTIVE` (Linux 6.8): bound but not listening. The kernel finds these in a second pass, which takes as
/// long as the one for all other states.
pub const BOUND: u32 = 1 << 13;

/// One socket as the kernel describes it. States are those of `net/tcp_states.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub state: u8,
    pub local: IpAddr,
    pub local_port: u16,
    pub peer: IpAddr,
    pub peer_port: u16,
    /// The remaining time of the running timer; for a TIME_WAIT socket, until it expires.
    pub expires: Duration,
    /// For a listening socket: connections waiting to be accepted.
    pub receive_queue: u32,
    pub uid: u32,
    /// 0: no descriptor refers to it (TIME_WAIT, orphans, sockets of the kernel itself).
    pub inode: u64,
    /// `SO_COOKIE`: identifies the socket for its whole life.
    pub cookie: u64,
    /// Only for listening IPv6 sockets.
    pub v6_only: Option<bool>,
}

/// The result of one read of the subscription.
#[derive(Debug, Default)]
pub struct Received {
    pub rows: Vec<Row>,
    /// The receive queue overflowed: events are missing (`ENOBUFS`).
    pub lost: bool,
}

fn open() -> io::Result<Socket> {
    let protocol = socket2::Protocol::from(libc::NETLINK_SOCK_DIAG);
    Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))
}

/// The protocols with ports that inet_diag supports (`IPPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The bits of `SKNLGRP_INET*_DESTROY` (`linux/sock_diag.h`), v4 and v6: group n is bit n - 1.
    fn groups(self) -> u32 {
        match self {
            Self::Tcp => 0b0101,
            Self::Udp => 0b1010,
        }
    }
}

/// A subscription to socket destruction: one message when the last descriptor of a socket is closed. Any user may
/// subscribe.
#[derive(Debug)]
pub struct Destroyed(Socket);

impl Destroyed {
    /// Subscribes to sockets whose local port is one of `narrow.0`. If `narrow.1` is false, only to sockets without a
    /// peer, so that the connections of a busy server cause no wake-ups. `None`: to every socket on the machine, for
    /// short periods only.
    ///
    /// # Errors
    /// Netlink is refused (seccomp, gVisor, no `sock_diag` in the kernel): fall back to polling.
    pub fn open(transports: &[Transport], narrow: Option<(&[u16], bool)>) -> io::Result<Self> {
        let this = Self(open()?);
        if let Some((ports, peers)) = narrow {
            this.filter(ports, peers)?;
        }
        let groups = transports.iter().fold(0, |bits, transport| bits | transport.groups());
        // An unbound netlink socket joins groups without an error but receives nothing, so the groups are part of the
        // bind.
        bind(this.0.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(this)
    }

    /// Sets or replaces the filter; see [`Destroyed::open`]. Received messages stay in the queue.
    ///
    /// # Errors
    /// Those of `SO_ATTACH_FILTER`.
    pub fn filter(&self, ports: &[u16], peers: bool) -> io::Result<()> {
        self.0.attach_filter(&program(ports, peers))
    }

    /// Everything that has arrived, without blocking.
    ///
    /// # Errors
    /// The subscription is broken and must be closed; lost events are not an error.
    pub fn drain(&self) -> io::Result<Received> {
        let mut received = Received::default();
        // The kernel sends one socket per message, about 500 bytes with its attributes (net/core/sock_diag.c).
        let mut buffer = [0u8; 2048];
        loop {
            // With MSG_TRUNC the length is that of the whole message: one that did not fit is lost.
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
                Ok(length) => match buffer.get(..length) {
                    Some(whole) => messages(whole, None, |_, row| received.rows.extend(row)),
                    None => received.lost = true,
                },
                Err(nix::Error::EAGAIN) => return Ok(received),
                Err(nix::Error::ENOBUFS) => received.lost = true,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl std::os::fd::AsFd for Destroyed {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Classic BPF on the message: the local port at offset 20, the peer's at 22, both big-endian, as `ldh` reads them. If
/// there are more ports than a jump can span (8 bits), the reader filters instead.
fn program(ports: &[u16], peers: bool) -> Vec<SockFilter> {
    const LOAD: u16 = 0x28;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let mut program = Vec::with_capacity(ports.len() + 6);
    if !peers {
        program.push(SockFilter::new(LOAD, 0, 0, 22));
        program.push(SockFilter::new(EQUAL, 1, 0, 0));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    }
    if let Ok(count) = u8::try_from(ports.len()) {
        program.push(SockFilter::new(LOAD, 0, 0, 20));
        for (left, port) in (0..count).rev().zip(ports) {
            program.push(SockFilter::new(EQUAL, left + 1, 0, u32::from(*port)));
        }
        // Each match jumps over the remaining comparisons and over this refusal.
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}

/// All sockets of `transport` in `states` (a mask of `1 << state`) with the local port `port` (0: any), IPv4 and IPv6.
/// The kernel filters, so only matching sockets are copied.
///
/// # Errors
/// Netlink is refused, or this kernel has no `*_diag` module for the protocol (`ENOENT`).
pub fn dump(transport: Transport, states: u32, port: u16) -> io::Result<Vec<Row>> {
    let socket = open()?;
    let mut rows = Vec::new();
    if transport == Transport::Tcp {
        // The older request walks the socket table once for both families, which takes half the time if there are many
        // sockets.
        send(socket.as_raw_fd(), &request_of_both(states, port), MsgFlags::empty())?;
        if collect(&socket, COMPAT_SEQUENCE, &mut rows).is_ok() {
            return Ok(rows);
        }
        rows.clear();
    }
    for (family, sequence) in [(libc::AF_INET, COMPAT_SEQUENCE + 1), (libc::AF_INET6, COMPAT_SEQUENCE + 2)] {
        let family_byte = u8::try_from(family).unwrap_or_default();
        let request = request(family_byte, transport.number(), states, port, sequence);
        send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
        match collect(&socket, sequence, &mut rows) {
            Ok(()) => {}
            // This kernel has no IPv6: the IPv4 half is complete.
            Err(error) if family == libc::AF_INET6 && error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

/// Every request on a socket has its own number (`nlmsg_seq`, `netlink(7)`), so the rest of a failed dump in the queue
/// is not taken for the next request's answer.
const COMPAT_SEQUENCE: u32 = 1;

/// `inet_diag_req` of `linux/inet_diag.h`, with AF_UNSPEC: `inet_diag_dump_compat` in `net/ipv4/inet_diag.c`.
fn request_of_both(states: u32, port: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 60);
    bytes.extend(76u32.to_ne_bytes());
    bytes.extend(TCPDIAG_GETSOCK.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend(COMPAT_SEQUENCE.to_ne_bytes());
    bytes.extend([0; 4]);
    // The family, two unused lengths, and no attributes.
    bytes.extend([0; 4]);
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 2 + 16 + 16 + 4]);
    // INET_DIAG_NOCOOKIE
    bytes.extend([0xff; 8]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}

fn request(family: u8, protocol: u8, states: u32, port: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 56);
    bytes.extend(72u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, protocol, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 2 + 16 + 16 + 4]);
    // INET_DIAG_NOCOOKIE
    bytes.extend([0xff; 8]);
    bytes
}

fn collect(socket: &Socket, sequence: u32, rows: &mut Vec<Row>) -> io::Result<()> {
    let mut buffer = vec![0u8; 32 * 1024];
    let mut end = None;
    while end.is_none() {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(nix::Error::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        // An incomplete dump would report a held port as free.
        let whole = buffer.get(..length).ok_or(io::ErrorKind::InvalidData)?;
        messages(whole, Some(sequence), |kind, row| match kind {
            Kind::Row => rows.extend(row),
            Kind::End(error) => end = Some(error),
        });
    }
    match end {
        Some(error) if error < 0 => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
        _ => Ok(()),
    }
}

pub(crate) enum Kind {
    Row,
    /// The end of the dump; negative: the error.
    End(i32),
}

/// Calls `each` for every message in `bytes`; with a `sequence`, only for those that answer that request.
pub(crate) fn messages(mut bytes: &[u8], sequence: Option<u32>, mut each: impl FnMut(Kind, Option<Row>)) {
    while let Some(length) = u32_at(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = bytes.get(..length).filter(|message| message.len() >= HEADER) else { return };
        let answers = sequence.is_none() || u32_at(message, 8) == sequence;
        match u16_at(message, 4).filter(|_| answers) {
            Some(NLMSG_ERROR | NLMSG_DONE) => {
                let code = u32_at(message, HEADER).map_or(0, |code| i32::from_ne_bytes(code.to_ne_bytes()));
                each(Kind::End(code), None);
            }
            Some(SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK) => each(Kind::Row, row(message)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn row(message: &[u8]) -> Option<Row> {
    let family = *message.get(HEADER)?;
    Some(Row {
        state: *message.get(HEADER + 1)?,
        local_port: u16::from_be_bytes(array(message, 20)?),
        peer_port: u16::from_be_bytes(array(message, 22)?),
        local: address(family, message, 24)?,
        peer: address(family, message, 40)?,
        cookie: u64::from(u32_at(message, 64)?) << 32 | u64::from(u32_at(message, 60)?),
        expires: Duration::from_millis(u32_at(message, 68)?.into()),
        receive_queue: u32_at(message, 72)?,
        uid: u32_at(message, 80)?,
        inode: u32_at(message, 84)?.into(),
        v6_only: attribute(message.get(MESSAGE..)?, INET_DIAG_SKV6ONLY)
            .and_then(|value| value.first().map(|v| *v != 0)),
    })
}

fn address(family: u8, message: &[u8], at: usize) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => array(message, at).map(|bytes: [u8; 4]| Ipv4Addr::from(bytes).into()),
        libc::AF_INET6 => array(message, at).map(|bytes: [u8; 16]| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        if u16_at(bytes, 2)? == wanted {
            return bytes.get(4..length);
        }
        bytes = bytes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One message as the kernel sends it: the header, and for a row what [`row`] reads.
    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    }

    fn listener(sequence: u32, port: u16, padding: usize) -> Vec<u8> {
        let mut body = vec![0; MESSAGE - HEADER];
        body[..2].copy_from_slice(&[u8::try_from(libc::AF_INET).unwrap(), 10]);
        body[4..6].copy_from_slice(&port.to_be_bytes());
        // An unrelated attribute of any size.
        let length = u16::try_from(4 + padding).unwrap();
        body.extend([length.to_ne_bytes(), 0xfff_u16.to_ne_bytes()].concat());
        body.extend(vec![0; padding]);
        message(SOCK_DIAG_BY_FAMILY, sequence, &body)
    }

    fn done(sequence: u32, code: i32) -> Vec<u8> {
        message(if code == 0 { NLMSG_DONE } else { NLMSG_ERROR }, sequence, &code.to_ne_bytes())
    }

    /// The kernel's end and ours; like netlink, the pair preserves message boundaries.
    fn pair() -> (Socket, Socket) {
        Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap()
    }

    fn ports(rows: &[Row]) -> Vec<u16> {
        rows.iter().map(|row| row.local_port).collect()
    }

    #[test]
    fn an_event_that_does_not_fit_is_lost() {
        let (kernel, ours) = pair();
        let destroyed = Destroyed(ours);
        for (padding, lost, heard) in
            [(0, false, vec![80, 82]), (1000, false, vec![80, 81, 82]), (4000, true, vec![80, 82])]
        {
            kernel.send(&listener(0, 80, 0)).unwrap();
            if padding > 0 {
                kernel.send(&listener(0, 81, padding)).unwrap();
            }
            kernel.send(&listener(0, 82, 0)).unwrap();
            let received = destroyed.drain().unwrap();
            assert_eq!((received.lost, ports(&received.rows)), (lost, heard), "{padding}");
            assert!(!destroyed.drain().unwrap().lost);
        }
    }

    #[test]
    fn an_answer_is_not_mixed_with_the_rest_of_an_earlier_one() {
        let (kernel, ours) = pair();
        // The first answer ends with an error, and more of it follows.
        kernel.send(&[listener(1, 80, 0), done(1, -libc::ENOENT)].concat()).unwrap();
        kernel.send(&[listener(1, 81, 0), done(1, 0)].concat()).unwrap();
        kernel.send(&listener(2, 90, 0)).unwrap();
        kernel.send(&[listener(1, 82, 0), listener(2, 91, 0), done(2, 0)].concat()).unwrap();
        let mut rows = Vec::new();
        let failed = collect(&ours, 1, &mut rows).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::ENOENT));
        rows.clear();
        collect(&ours, 2, &mut rows).unwrap();
        assert_eq!(ports(&rows), [90, 91]);
    }

    #[test]
    fn an_incomplete_dump_is_an_error() {
        let (kernel, ours) = pair();
        kernel.send(&listener(1, 80, 40_000)).unwrap();
        kernel.send(&done(1, 0)).unwrap();
        assert_eq!(collect(&ours, 1, &mut Vec::new()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn each_request_has_its_own_number() {
        let numbers = [request_of_both(LISTEN, 80), request(2, 6, LISTEN, 80, 2), request(10, 6, LISTEN, 80, 3)];
        let numbers = numbers.map(|bytes| u32_at(&bytes, 8).unwrap());
        assert_eq!(numbers, [COMPAT_SEQUENCE, 2, 3]);
    }
}
