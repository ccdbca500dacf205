//! Owns what is read from a thread that is blocked in a call: its memory, its descriptors, a copy of one. Must not know
//! what it is for.
//!
//! Everything is read by thread id, which may have been reused by then: trust it only if [`super::Listener::is_valid`]
//! is true afterwards. The kernel allows this if the thread has our user id and is dumpable, or if we have
//! CAP_SYS_PTRACE (`ptrace(2)`, "Ptrace access mode checking"). It refuses it, with EACCES or EPERM, for a program that
//! has changed its user, or whose file is not readable.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::sys::{listing, pidfd};

/// Reads from address `at` in the memory of the thread `tid` into `into`, and returns how many bytes were read.
///
/// `process_vm_readv(2)` needs no descriptor, but Docker 20.10's default profile refuses it. The fallback,
/// `/proc/TID/mem`, needs a descriptor, and the same permissions.
///
/// # Errors
/// EFAULT: no such memory, and the kernel will tell the caller the same. ESRCH: the thread has exited. EPERM, EACCES:
/// see above, or there is no `/proc` for the fallback. EMFILE, ENFILE: no descriptor is free for the fallback.
pub fn read_memory(tid: i32, at: u64, into: &mut [u8]) -> io::Result<usize> {
    let base = usize::try_from(at).map_err(|_| Errno::EFAULT)?;
    let remote = [RemoteIoVec { base, len: into.len() }];
    let refused = match process_vm_readv(Pid::from_raw(tid), &mut [IoSliceMut::new(into)], &remote) {
        Ok(read) => return Ok(read),
        Err(error @ (Errno::EFAULT | Errno::ESRCH)) => return Err(error.into()),
        // EPERM or ENOSYS: a seccomp profile, a kernel without the call, or no permission.
        Err(error) => error,
    };
    File::open(format!("/proc/{tid}/mem")).and_then(|memory| memory.read_at(into, at)).map_err(|error| {
        match (error.kind(), error.raw_os_error()) {
            // Corresponds to EFAULT above.
            (_, Some(libc::EIO)) => Errno::EFAULT.into(),
            // No /proc: the first error is the one to report.
            (io::ErrorKind::NotFound, _) if refused == Errno::EPERM => refused.into(),
            _ => error,
        }
    })
}

/// The protocol of a socket, as far as a bind on it can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP and MPTCP (Go's default), over IPv4.
    Tcp4,
    Tcp6,
    Other,
}

/// A socket of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// The number in the kernel's socket tables.
    pub inode: u64,
    pub kind: Kind,
    /// O_NONBLOCK, a flag of the open file description: shared by all descriptors of the socket.
    pub nonblocking: bool,
    /// FD_CLOEXEC, a flag of the descriptor.
    pub cloexec: bool,
}

/// Inspects the descriptor `fd` of the thread `tid` (`proc_pid_fd(5)`, `proc_pid_fdinfo(5)`, the attribute
/// `system.sockprotoname`). The table is the thread's, because threads can have separate ones.
///
/// # Errors
/// Those of [`inode_of`]. EMFILE, ENFILE: reading the flags takes a free descriptor.
pub fn socket_of(tid: i32, fd: RawFd) -> io::Result<Socket> {
    let inode = inode_of(tid, fd)?;
    let flags = parse_flags(&fs::read(format!("/proc/{tid}/fdinfo/{fd}"))?).ok_or(io::ErrorKind::InvalidData)?;
    if flags & libc::O_PATH != 0 {
        // An O_PATH descriptor of a socket: only fstat(2) and similar calls work on it.
        return Err(Errno::EBADF.into());
    }
    let kind = kind(&protocol_name(tid, fd)?);
    Ok(Socket { inode, kind, nonblocking: flags & libc::O_NONBLOCK != 0, cloexec: flags & libc::O_CLOEXEC != 0 })
}

/// The inode behind the descriptor `fd` of the thread `tid`. Needs no free descriptor.
///
/// # Errors
/// EBADF: not open. ENOTSOCK: not a socket. The kernel will tell the caller the same. ENOENT: the thread has exited, or
/// `/proc` is missing or hides it (hidepid). EACCES: no permission.
pub fn inode_of(tid: i32, fd: RawFd) -> io::Result<u64> {
    let target = match fs::read_link(format!("/proc/{tid}/fd/{fd}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::exists(format!("/proc/{tid}/fd"))? => {
            return Err(Errno::EBADF.into());
        }
        read => read?,
    };
    listing::inode(target.as_os_str().as_bytes()).ok_or_else(|| Errno::ENOTSOCK.into())
}

/// Whether the thread is in another network namespace, where our claim does not apply (`proc_pid_ns(5)`). False if that
/// cannot be read, because nearly every thread is in ours.
pub fn is_elsewhere(tid: i32) -> bool {
    let network = |whose: &str| fs::read_link(format!("/proc/{whose}/ns/net"));
    match (network(&tid.to_string()), network("self")) {
        (Ok(theirs), Ok(ours)) => theirs != ours,
        _ => false,
    }
}

/// The flags in a `/proc/PID/fdinfo/FD`, which are octal; FD_CLOEXEC appears as O_CLOEXEC (`proc_pid_fdinfo(5)`).
pub(crate) fn parse_flags(text: &[u8]) -> Option<i32> {
    let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"flags:"))?;
    i32::from_str_radix(std::str::from_utf8(line).ok()?.trim(), 8).ok()
}

/// The socket's protocol name in `struct proto` (`net/sock.h`), which every socket has as an extended attribute.
fn protocol_name(tid: i32, fd: RawFd) -> io::Result<Vec<u8>> {
    let path = CString::new(format!("/proc/{tid}/fd/{fd}")).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The longest is 32 bytes with its NUL (`struct proto`).
    let mut name = vec![0_u8; 64];
    let attribute = c"system.sockprotoname".as_ptr();
    // SAFETY: both strings are NUL-terminated, the buffer is as long as its length says, and all of them outlive the
    // call.
    let size = unsafe { libc::getxattr(path.as_ptr(), attribute, name.as_mut_ptr().cast(), name.len()) };
    name.truncate(usize::try_from(size).map_err(|_| io::Error::last_os_error())?);
    Ok(name)
}

fn kind(name: &[u8]) -> Kind {
    match name.strip_suffix(b"\0").unwrap_or(name) {
        b"TCP" | b"MPTCP" => Kind::Tcp4,
        b"TCPv6" | b"MPTCPv6" => Kind::Tcp6,
        _ => Kind::Other,
    }
}

/// A close-on-exec copy of the caller's descriptor `fd`, for reading the socket's options. Close it before answering
/// the call, because a socket lives as long as any copy (`pidfd_getfd(2)`, Linux 5.6).
///
/// # Errors
/// EPERM: see above; Docker's default profile requires CAP_SYS_PTRACE. ENOSYS: an older kernel. ESRCH, EBADF: the
/// thread has exited or closed it. EMFILE, ENFILE: this takes two free descriptors.
pub fn copy_of(tid: i32, fd: RawFd) -> io::Result<OwnedFd> {
    pidfd::copy(&handle(tid)?, fd)
}

/// A pidfd from which the thread's descriptors can be copied.
fn handle(tid: i32) -> io::Result<OwnedFd> {
    // A thread can have a separate table, and the group's leader may have exited; but before Linux 6.9 there are only
    // pidfds of groups.
    match pidfd::open_thread(tid) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => pidfd::open(group(tid)?),
        opened => opened,
    }
}

/// The thread group of `tid`; for its leader, `tid` itself (`proc_pid_status(5)`).
fn group(tid: i32) -> io::Result<i32> {
    let status = fs::read(format!("/proc/{tid}/status"))?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"));
    let number = line.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether [`copy_of`] works here at all: a seccomp profile or an old kernel refuses it for any thread.
/// Async-signal-safe.
pub fn can_copy() -> bool {
    // SAFETY: integers only; no such pid and descriptor exist.
    let opened = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, -1, 0) });
    // SAFETY: as above.
    let copied = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, -1, -1, 0) });
    (opened, copied) == (Err(Errno::EINVAL), Err(Errno::EBADF))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::sys::descriptor;

    fn tid() -> i32 {
        nix::unistd::gettid().as_raw()
    }

    #[test]
    fn memory_is_read_or_the_error_returned() {
        let text = *b"sixteen bytes...";
        let at = text.as_ptr() as u64;
        let mut read = [0; 16];
        assert_eq!(read_memory(tid(), at, &mut read).unwrap(), 16);
        assert_eq!(read, text);
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64;
        let error = |tid, at| read_memory(tid, at, &mut [0; 16]).unwrap_err().raw_os_error();
        assert_eq!(error(tid(), 0), Some(libc::EFAULT));
        assert_eq!(error(tid(), u64::MAX - page), Some(libc::EFAULT));
        assert_eq!(error(i32::MAX, at), Some(libc::ESRCH));
    }

    #[test]
    fn sockets_are_returned_with_their_kind_and_flags() {
        let new = |domain, kind| socket2::Socket::new(domain, kind, None).unwrap();
        let (v4, v6) = (socket2::Domain::IPV4, socket2::Domain::IPV6);
        let (stream, datagram) = (socket2::Type::STREAM, socket2::Type::DGRAM);
        for (socket, kind) in [
            (new(v4, stream), Kind::Tcp4),
            (new(v6, stream), Kind::Tcp6),
            (new(v4, datagram), Kind::Other),
            (new(v6, datagram), Kind::Other),
            (new(socket2::Domain::UNIX, stream), Kind::Other),
        ] {
            for (nonblocking, cloexec) in [(false, true), (true, false), (true, true), (false, false)] {
                socket.set_nonblocking(nonblocking).unwrap();
                socket.set_cloexec(cloexec).unwrap();
                let inode = descriptor::inode_at(socket.as_raw_fd()).unwrap();
                let expected = Socket { inode, kind, nonblocking, cloexec };
                assert_eq!(socket_of(tid(), socket.as_raw_fd()).unwrap(), expected);
                assert_eq!(inode_of(tid(), socket.as_raw_fd()).unwrap(), inode);
            }
        }
        for (name, expected) in
            [(&b"MPTCP\0"[..], Kind::Tcp4), (b"MPTCPv6\0", Kind::Tcp6), (b"TCPx", Kind::Other), (b"", Kind::Other)]
        {
            assert_eq!(kind(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn not_a_socket_differs_from_not_visible() {
        let error = |tid, fd| socket_of(tid, fd).unwrap_err().raw_os_error();
        let file = File::open("/proc/self/exe").unwrap();
        assert_eq!(error(tid(), file.as_raw_fd()), Some(libc::ENOTSOCK));
        assert_eq!(error(tid(), i32::MAX), Some(libc::EBADF));
        assert_eq!(error(tid(), -1), Some(libc::EBADF));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let named = nix::fcntl::open(&*path, nix::fcntl::OFlag::O_PATH, nix::sys::stat::Mode::empty()).unwrap();
        assert_eq!(error(tid(), named.as_raw_fd()), Some(libc::EBADF));
        assert_eq!(error(i32::MAX, 0), Some(libc::ENOENT));
    }

    #[test]
    fn any_thread_copies_the_same_socket() {
        if !can_copy() {
            assert!(copy_of(tid(), 0).is_err());
            return;
        }
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let copy = copy_of(tid(), socket.as_raw_fd()).unwrap();
        assert_eq!(descriptor::inode(&copy), descriptor::inode_at(socket.as_raw_fd()));
        assert!(nix::fcntl::fcntl(copy.as_fd(), nix::fcntl::FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0);
        assert_eq!(copy_of(tid(), i32::MAX).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(group(tid()).unwrap(), std::process::id().cast_signed());
        assert!(copy_of(i32::MAX, 0).is_err());
    }

    #[test]
    fn flags_are_octal() {
        for (text, expected) in [
            (&b"pos:\t0\nflags:\t02004002\nmnt_id:\t9\n"[..], Some(0o2004002)),
            (b"flags:\t0\n", Some(0)),
            (b"flags:\t9\n", None),
            (b"flags:\t77777777777777\n", None),
            (b"pos:\t0\n", None),
            (b"", None),
        ] {
            assert_eq!(parse_flags(text), expected, "{}", text.escape_ascii());
        }
    }
}
