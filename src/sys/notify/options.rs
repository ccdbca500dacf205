//! Owns the options that a program has set on its socket before the bind, carried over to the one it gets instead. Must not know whose
//! sockets these are.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// What is carried over, as (level, name): all that a listening socket's connections inherit, or that its accepts depend on, and that can be
/// read back as a number.
///
/// Not: SO_REUSEADDR and SO_REUSEPORT, which are the claim's affair; filters (SO_ATTACH_FILTER), which cannot be read; SO_RCVBUF and SO_SNDBUF,
/// see below; what belongs to the bind itself (IP_FREEBIND, IP_TRANSPARENT, IPV6_V6ONLY).
const NUMBERS: [(i32, i32); 20] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_INCOMING_CPU),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
];

/// Longer texts: SO_LINGER is two numbers, SO_BINDTODEVICE and TCP_CONGESTION are names. (level, name)
const TEXTS: [(i32, i32); 3] = [
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
];

/// Sets on `to` what `from` has set and `to` has not. What cannot be read or set is left; none of it keeps an app from serving.
pub fn carry_over(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    for (level, name) in NUMBERS {
        // Ours has it on for all accepted sockets, and an app that has not asked for it loses nothing by it.
        let kept = (level, name) == (libc::IPPROTO_TCP, libc::TCP_NODELAY);
        if let (Some(theirs), Some(ours)) = (number(from, level, name), number(to, level, name))
            && theirs != ours
            && !kept
        {
            set(to, level, name, &theirs.to_ne_bytes());
        }
    }
    for name in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
        if let (Some(theirs), Some(ours)) = (number(from, libc::SOL_SOCKET, name), number(to, libc::SOL_SOCKET, name))
            && theirs != ours
        {
            // The kernel doubles what it is told (socket(7)).
            set(to, libc::SOL_SOCKET, name, &(theirs / 2).to_ne_bytes());
        }
    }
    for (level, name) in TEXTS {
        let (mut theirs, mut ours) = ([0; 32], [0; 32]);
        if let (Some(theirs), Some(ours)) = (read(from, level, name, &mut theirs), read(to, level, name, &mut ours))
            && theirs != ours
        {
            set(to, level, name, theirs);
        }
    }
}

/// The value of IPV6_V6ONLY; `None`: no IPv6 socket.
pub fn v6_only(fd: BorrowedFd<'_>) -> Option<bool> {
    number(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).map(|value| value != 0)
}

fn number(fd: BorrowedFd<'_>, level: i32, name: i32) -> Option<i32> {
    let mut value = [0; 4];
    read(fd, level, name, &mut value).filter(|value| value.len() == 4)?;
    Some(i32::from_ne_bytes(value))
}

fn read<'v>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &'v mut [u8]) -> Option<&'v [u8]> {
    let mut size = libc::socklen_t::try_from(value.len()).ok()?;
    // SAFETY: the value is writable and `size` bytes long, as is said; both outlive the call.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut size) };
    if got == 0 { value.get(..usize::try_from(size).ok()?) } else { None }
}

fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) {
    let Ok(size) = libc::socklen_t::try_from(value.len()) else { return };
    // SAFETY: the value is `size` bytes long and only read.
    unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), size) };
}
