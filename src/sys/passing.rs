//! Owns unix sockets with abstract names, and passing file descriptors through them (`unix(7)`). Must not know what is
//! sent, or what the descriptors are for.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen, socket, sockopt,
};

/// The most descriptors in one message. A sender with more is not reberth.
pub const MAX_DESCRIPTORS: usize = 8;

/// Room for the control message of [`MAX_DESCRIPTORS`] descriptors, aligned as the kernel requires (`cmsg(3)`).
#[repr(C, align(8))]
struct Room([u8; 128]);

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?)
}

/// A socket that listens at the abstract name, in this network namespace.
///
/// # Errors
/// EADDRINUSE: another socket has the name.
pub fn listen_at(name: &[u8]) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
    listen(&socket, Backlog::new(64).unwrap_or(Backlog::MAXCONN))?;
    Ok(socket)
}

/// A connection to the socket that listens at the abstract name.
///
/// # Errors
/// ECONNREFUSED: none listens. EAGAIN: its backlog is full.
pub fn connect_to(name: &[u8]) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
    Ok(socket)
}

/// The next connection; `None`: none is pending.
///
/// # Errors
/// EMFILE, ENFILE; EINVAL if another process has shut the socket down.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
        // SAFETY: the kernel has just created it for us.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ECONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The user id of the peer when it connected or began to listen (`SO_PEERCRED`). The pid is not returned: it is 0 for a
/// peer in another PID namespace.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn peer_uid(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(getsockopt(&fd, sockopt::PeerCredentials)?.uid())
}

/// Sends one message with descriptors, without blocking.
///
/// # Errors
/// EPIPE, ECONNRESET: the peer has closed. EAGAIN.
pub fn send(to: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut room = Room([0; 128]);
    let fds = fds.get(..fds.len().min(MAX_DESCRIPTORS)).unwrap_or_default();
    let size = mem::size_of_val(fds);
    // SAFETY: all-zero is a valid header.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = (&raw const part).cast_mut();
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        header.msg_control = room.0.as_mut_ptr().cast();
        // SAFETY: the buffer has room for MAX_DESCRIPTORS descriptors and their header, and `fds` has no more; all
        // pointers stay inside it.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(size as _) as _;
            let control = libc::CMSG_FIRSTHDR(&raw const header);
            (*control).cmsg_level = libc::SOL_SOCKET;
            (*control).cmsg_type = libc::SCM_RIGHTS;
            (*control).cmsg_len = libc::CMSG_LEN(size as _) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(control), size);
        }
    }
    // SAFETY: the header and all it points to outlive the call.
    let sent = unsafe { libc::sendmsg(to.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one message and all descriptors that came with it, close-on-exec, without blocking; `None`: no message has
/// arrived. A length of 0 is end of file.
///
/// Descriptors that the caller does not want are closed when the result is dropped. The kernel closes those beyond
/// [`MAX_DESCRIPTORS`] (MSG_CTRUNC).
///
/// # Errors
/// Those of `recvmsg(2)`.
// The C libraries disagree on the types of these lengths.
#[allow(clippy::unnecessary_cast)]
pub fn receive(from: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut room = Room([0; 128]);
    // SAFETY: all-zero is a valid header.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = (&raw const part).cast_mut();
    header.msg_iovlen = 1;
    header.msg_control = room.0.as_mut_ptr().cast();
    // SAFETY: only computes a size.
    header.msg_controllen = unsafe { libc::CMSG_SPACE((MAX_DESCRIPTORS * mem::size_of::<RawFd>()) as _) } as _;
    // SAFETY: the header and all it points to are writable and outlive the call.
    let got = unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) };
    let Ok(size) = usize::try_from(got) else {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        };
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled in the control messages as the header says, and the macros stay within them.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(one) = control.as_ref() {
            if one.cmsg_level == libc::SOL_SOCKET && one.cmsg_type == libc::SCM_RIGHTS {
                let bytes = (one.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(control).cast::<RawFd>();
                for position in 0..bytes / mem::size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(position).read_unaligned()));
                }
            }
            control = libc::CMSG_NXTHDR(&raw const header, control);
        }
    }
    Ok(Some((size, fds)))
}

/// The cookie of the socket's network namespace, unique on this machine (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// ENOPROTOOPT on older kernels.
pub fn network_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = mem::size_of::<u64>() as libc::socklen_t;
    // SAFETY: the number is writable and as long as `size` says.
    let got = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut size)
    };
    if got == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// `include/uapi/asm-generic/socket.h`.
const SO_NETNS_COOKIE: i32 = 71;

/// Random bytes from the kernel (`getrandom(2)`).
///
/// # Errors
/// The random pool is not initialized yet, or the call does not exist.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: writable, and as long as the length says. GRND_NONBLOCK: early in a boot the call would block.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, libc::GRND_NONBLOCK) };
    if usize::try_from(got) == Ok(N) { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// Whether the peer has hung up.
pub fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut one = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one structure, as the count says.
    unsafe { libc::poll(&raw mut one, 1, 0) > 0 }
}
