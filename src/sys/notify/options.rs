//! Owns which socket options are copied when the app's socket is replaced with ours. Must not know why it is replaced.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use libc::c_int;

/// How an option is set from the value that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// With the same bytes.
    Same,
    /// Halved: the kernel doubles the value it is given (`socket(7)`, SO_RCVBUF).
    Halved,
    /// Set, never cleared: ours has it set for all accepted connections, which does no harm to a program that did not
    /// set it.
    On,
    /// An unset option reads as 536. Writing 536 would set it, writing 0 unsets it.
    Segment,
}

/// `SO_BUF_LOCK` of `asm-generic/socket.h` (Linux 5.14): whether the buffer sizes are fixed or adjusted automatically.
const SO_BUF_LOCK: c_int = 72;
/// `SO_MAX_PACING_RATE` of `asm-generic/socket.h`.
const SO_MAX_PACING_RATE: c_int = 47;
/// `TCP_MSS_DEFAULT` of `linux/tcp.h`.
const DEFAULT_SEGMENT: [u8; 4] = 536_u32.to_ne_bytes();

/// In the order in which they are set: SO_BUF_LOCK after the sizes, because setting a size locks it.
#[rustfmt::skip]
const OPTIONS: &[(&str, c_int, c_int, Rule)] = &[
    // socket(7)
    ("SO_KEEPALIVE", libc::SOL_SOCKET, libc::SO_KEEPALIVE, Rule::Same),
    ("SO_RCVBUF", libc::SOL_SOCKET, libc::SO_RCVBUF, Rule::Halved),
    ("SO_SNDBUF", libc::SOL_SOCKET, libc::SO_SNDBUF, Rule::Halved),
    ("SO_BUF_LOCK", libc::SOL_SOCKET, SO_BUF_LOCK, Rule::Same),
    ("SO_LINGER", libc::SOL_SOCKET, libc::SO_LINGER, Rule::Same),
    ("SO_RCVTIMEO", libc::SOL_SOCKET, libc::SO_RCVTIMEO, Rule::Same),
    ("SO_SNDTIMEO", libc::SOL_SOCKET, libc::SO_SNDTIMEO, Rule::Same),
    ("SO_RCVLOWAT", libc::SOL_SOCKET, libc::SO_RCVLOWAT, Rule::Same),
    ("SO_PRIORITY", libc::SOL_SOCKET, libc::SO_PRIORITY, Rule::Same),
    ("SO_MARK", libc::SOL_SOCKET, libc::SO_MARK, Rule::Same),
    ("SO_OOBINLINE", libc::SOL_SOCKET, libc::SO_OOBINLINE, Rule::Same),
    ("SO_DONTROUTE", libc::SOL_SOCKET, libc::SO_DONTROUTE, Rule::Same),
    ("SO_BROADCAST", libc::SOL_SOCKET, libc::SO_BROADCAST, Rule::Same),
    ("SO_BUSY_POLL", libc::SOL_SOCKET, libc::SO_BUSY_POLL, Rule::Same),
    ("SO_ZEROCOPY", libc::SOL_SOCKET, libc::SO_ZEROCOPY, Rule::Same),
    ("SO_MAX_PACING_RATE", libc::SOL_SOCKET, SO_MAX_PACING_RATE, Rule::Same),
    ("SO_TIMESTAMP", libc::SOL_SOCKET, libc::SO_TIMESTAMP, Rule::Same),
    ("SO_TIMESTAMPNS", libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, Rule::Same),
    ("SO_RXQ_OVFL", libc::SOL_SOCKET, libc::SO_RXQ_OVFL, Rule::Same),
    ("SO_BINDTODEVICE", libc::SOL_SOCKET, libc::SO_BINDTODEVICE, Rule::Same),
    // tcp(7)
    ("TCP_NODELAY", libc::IPPROTO_TCP, libc::TCP_NODELAY, Rule::On),
    ("TCP_KEEPIDLE", libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, Rule::Same),
    ("TCP_KEEPINTVL", libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, Rule::Same),
    ("TCP_KEEPCNT", libc::IPPROTO_TCP, libc::TCP_KEEPCNT, Rule::Same),
    ("TCP_USER_TIMEOUT", libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, Rule::Same),
    ("TCP_SYNCNT", libc::IPPROTO_TCP, libc::TCP_SYNCNT, Rule::Same),
    ("TCP_LINGER2", libc::IPPROTO_TCP, libc::TCP_LINGER2, Rule::Same),
    ("TCP_DEFER_ACCEPT", libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, Rule::Same),
    ("TCP_FASTOPEN", libc::IPPROTO_TCP, libc::TCP_FASTOPEN, Rule::Same),
    ("TCP_FASTOPEN_NO_COOKIE", libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE, Rule::Same),
    ("TCP_MAXSEG", libc::IPPROTO_TCP, libc::TCP_MAXSEG, Rule::Segment),
    ("TCP_WINDOW_CLAMP", libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, Rule::Same),
    ("TCP_NOTSENT_LOWAT", libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, Rule::Same),
    ("TCP_SAVE_SYN", libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, Rule::Same),
    ("TCP_CONGESTION", libc::IPPROTO_TCP, libc::TCP_CONGESTION, Rule::Same),
    // udp(7)
    ("UDP_SEGMENT", libc::SOL_UDP, libc::UDP_SEGMENT, Rule::Same),
    ("UDP_GRO", libc::SOL_UDP, libc::UDP_GRO, Rule::Same),
    // ip(7); an IPv6 socket has these too, for its IPv4 clients.
    ("IP_TOS", libc::IPPROTO_IP, libc::IP_TOS, Rule::Same),
    ("IP_TTL", libc::IPPROTO_IP, libc::IP_TTL, Rule::Same),
    ("IP_MINTTL", libc::IPPROTO_IP, libc::IP_MINTTL, Rule::Same),
    ("IP_MTU_DISCOVER", libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, Rule::Same),
    ("IP_TRANSPARENT", libc::IPPROTO_IP, libc::IP_TRANSPARENT, Rule::Same),
    ("IP_PKTINFO", libc::IPPROTO_IP, libc::IP_PKTINFO, Rule::Same),
    ("IP_RECVTOS", libc::IPPROTO_IP, libc::IP_RECVTOS, Rule::Same),
    ("IP_RECVTTL", libc::IPPROTO_IP, libc::IP_RECVTTL, Rule::Same),
    ("IP_RECVERR", libc::IPPROTO_IP, libc::IP_RECVERR, Rule::Same),
    ("IP_MULTICAST_TTL", libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, Rule::Same),
    ("IP_MULTICAST_LOOP", libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, Rule::Same),
    // ipv6(7)
    ("IPV6_TCLASS", libc::IPPROTO_IPV6, libc::IPV6_TCLASS, Rule::Same),
    ("IPV6_UNICAST_HOPS", libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, Rule::Same),
    ("IPV6_MINHOPCOUNT", libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, Rule::Same),
    ("IPV6_MTU_DISCOVER", libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, Rule::Same),
    ("IPV6_RECVPKTINFO", libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, Rule::Same),
    ("IPV6_RECVTCLASS", libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, Rule::Same),
    ("IPV6_RECVHOPLIMIT", libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, Rule::Same),
    ("IPV6_RECVERR", libc::IPPROTO_IPV6, libc::IPV6_RECVERR, Rule::Same),
    ("IPV6_MULTICAST_HOPS", libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, Rule::Same),
    ("IPV6_MULTICAST_LOOP", libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, Rule::Same),
];

/// Sets every option of `to`, a socket of ours, that differs from `from`, a copy of the socket that the program created
/// for its bind and that ours replaces. Returns the names of those that could not be set, because they require a
/// capability; none of them keeps a program from serving.
///
/// An option that one of the two does not have (TCP's options on a UDP socket, a newer kernel's) is skipped. Not copied
/// are SO_REUSEADDR and SO_REUSEPORT, which the claim decides; IPV6_V6ONLY, which a bound socket cannot change;
/// O_NONBLOCK ([`super::set_nonblocking`]). What cannot be read from a socket is lost: filters (SO_ATTACH_BPF), keys
/// (TCP_MD5SIG, TCP_AO, TCP_FASTOPEN_KEY), memberships of multicast groups, IP_OPTIONS and sticky IPv6 headers, the
/// owner for SIGIO, and the old socket's registrations with epoll.
pub fn carry_over(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Vec<&'static str> {
    let mut left = Vec::new();
    for (title, level, name, rule) in OPTIONS {
        let (mut wanted, mut has) = ([0; LONGEST], [0; LONGEST]);
        let wanted = get(from, *level, *name, &mut wanted);
        let has = get(to, *level, *name, &mut has);
        if let (Some(wanted), Some(has)) = (wanted, has)
            && wanted != has
            && !(*rule == Rule::On && wanted.iter().all(|byte| *byte == 0))
            && !set(to.as_raw_fd(), *level, *name, &value(wanted, *rule))
        {
            left.push(*title);
        }
    }
    left
}

/// The value of IPV6_V6ONLY; `None`: not an IPv6 socket.
pub fn v6_only(socket: BorrowedFd<'_>) -> Option<bool> {
    get(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &mut [0; LONGEST])
        .map(|value| value.iter().any(|byte| *byte != 0))
}

/// Room for the longest value: a `struct timeval`, the name of a device or of a congestion control (16 bytes each).
const LONGEST: usize = 32;

/// The value of an option, as long as the kernel returns it (`getsockopt(2)`).
fn get<'a>(socket: BorrowedFd<'_>, level: c_int, name: c_int, into: &'a mut [u8; LONGEST]) -> Option<&'a [u8]> {
    let mut size = libc::socklen_t::try_from(into.len()).ok()?;
    // SAFETY: the buffer is writable and as long as `size` says; both outlive the call.
    let got = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, into.as_mut_ptr().cast(), &raw mut size) };
    if got == 0 { into.get(..usize::try_from(size).ok()?) } else { None }
}

fn set(socket: RawFd, level: c_int, name: c_int, value: &[u8]) -> bool {
    let Ok(size) = libc::socklen_t::try_from(value.len()) else { return false };
    // SAFETY: the value is as long as `size` says, and outlives the call, which reads it.
    unsafe { libc::setsockopt(socket, level, name, value.as_ptr().cast(), size) == 0 }
}

/// The value to set for the option to read as `read`.
fn value(read: &[u8], rule: Rule) -> Vec<u8> {
    match (rule, <[u8; 4]>::try_from(read)) {
        (Rule::Halved, Ok(number)) => (i32::from_ne_bytes(number) / 2).to_ne_bytes().to_vec(),
        (Rule::Segment, Ok(DEFAULT_SEGMENT)) => vec![0; 4],
        _ => read.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

    use super::*;

    fn socket(domain: Domain, kind: Type) -> OwnedFd {
        Socket::new(domain, kind, None).unwrap().into()
    }

    fn listening(domain: Domain) -> OwnedFd {
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        let address = if domain == Domain::IPV4 { "127.0.0.1:0" } else { "[::1]:0" };
        socket.bind(&address.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(16).unwrap();
        socket.into()
    }

    fn all(socket: &OwnedFd) -> Vec<(&'static str, Option<Vec<u8>>)> {
        let read = |level, name| match get(socket.as_fd(), level, name, &mut [0; LONGEST]) {
            // Off, whatever timeout the kernel still remembers.
            Some([0, 0, 0, 0, _, _, _, _]) if name == libc::SO_LINGER => None,
            value => value.map(<[u8]>::to_vec),
        };
        OPTIONS.iter().map(|(title, level, name, _)| (*title, read(*level, *name))).collect()
    }

    #[test]
    fn a_plain_socket_changes_nothing() {
        for (domain, kind) in [(Domain::IPV4, Type::STREAM), (Domain::IPV6, Type::STREAM), (Domain::IPV4, Type::DGRAM)]
        {
            let (from, to) = (socket(domain, kind), socket(domain, kind));
            let before = all(&to);
            assert_eq!(carry_over(from.as_fd(), to.as_fd()), Vec::<&str>::new());
            assert_eq!(all(&to), before);
        }
        let (from, to) = (socket(Domain::IPV6, Type::STREAM), listening(Domain::IPV6));
        let before = all(&to);
        assert_eq!(carry_over(from.as_fd(), to.as_fd()), Vec::<&str>::new());
        assert_eq!(all(&to), before, "what differs on a listening socket was not set by anybody");
    }

    #[test]
    fn every_option_is_copied_and_reset() {
        for domain in [Domain::IPV4, Domain::IPV6] {
            let (from, to, plain) = (socket(domain, Type::STREAM), listening(domain), socket(domain, Type::STREAM));
            let options = SockRef::from(&from);
            let alive = TcpKeepalive::new().with_time(Duration::from_secs(77)).with_interval(Duration::from_secs(7));
            options.set_tcp_keepalive(&alive.with_retries(3)).unwrap();
            options.set_recv_buffer_size(20_000).unwrap();
            options.set_send_buffer_size(30_000).unwrap();
            options.set_linger(Some(Duration::from_secs(5))).unwrap();
            options.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
            options.set_tcp_nodelay(true).unwrap();
            options.set_tcp_user_timeout(Some(Duration::from_secs(9))).unwrap();
            options.set_tcp_mss(1000).unwrap();
            options.set_tcp_congestion(b"reno").unwrap();
            options.bind_device(Some(b"lo")).unwrap();
            let number = |level, name, value: i32| assert!(set(from.as_raw_fd(), level, name, &value.to_ne_bytes()));
            number(libc::SOL_SOCKET, libc::SO_PRIORITY, 4);
            number(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 5);
            number(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 8);
            number(libc::IPPROTO_IP, libc::IP_TOS, 0x10);
            number(libc::IPPROTO_IP, libc::IP_TTL, 33);
            if domain == Domain::IPV6 {
                number(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 0x20);
                number(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 44);
            }
            let changed = all(&from).iter().zip(all(&plain)).filter(|(a, b)| **a != *b).count();
            assert!(changed >= 17, "{changed} options are set");
            assert_eq!(carry_over(from.as_fd(), to.as_fd()), Vec::<&str>::new());
            assert_eq!(all(&to), all(&from));
            assert!(SockRef::from(&to).tcp_nodelay().unwrap());
            // The next program has set nothing: no option of the previous program is left, except the one that is never
            // cleared.
            assert_eq!(carry_over(plain.as_fd(), to.as_fd()), Vec::<&str>::new());
            SockRef::from(&plain).set_tcp_nodelay(true).unwrap();
            assert_eq!(all(&to), all(&plain));
            // The values do not show two things: buffers can grow again, and the segment size is limited by the path
            // only.
            let lock = get(to.as_fd(), libc::SOL_SOCKET, SO_BUF_LOCK, &mut [0; LONGEST]).map(<[u8]>::to_vec);
            assert_eq!(lock, Some(vec![0; 4]));
            let to = std::net::TcpListener::from(to);
            let client = std::net::TcpStream::connect(to.local_addr().unwrap()).unwrap();
            assert!(SockRef::from(&client).tcp_mss().unwrap() > 10_000);
        }
    }

    #[test]
    fn v6_only_is_read() {
        let socket = socket(Domain::IPV6, Type::STREAM);
        for only in [true, false] {
            SockRef::from(&socket).set_only_v6(only).unwrap();
            assert_eq!(v6_only(socket.as_fd()), Some(only));
        }
        assert_eq!(v6_only(self::socket(Domain::IPV4, Type::STREAM).as_fd()), None);
    }

    #[test]
    fn reuse_options_are_not_copied() {
        let (from, to) = (socket(Domain::IPV4, Type::STREAM), listening(Domain::IPV4));
        SockRef::from(&from).set_reuse_port(true).unwrap();
        SockRef::from(&from).set_reuse_address(true).unwrap();
        carry_over(from.as_fd(), to.as_fd());
        assert!(!SockRef::from(&to).reuse_port().unwrap() && !SockRef::from(&to).reuse_address().unwrap());
    }
}
