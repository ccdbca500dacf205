//! Owns pidfds: a file descriptor that becomes readable when another process exits. Must not know which process it is,
//! or why.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A close-on-exec descriptor that `poll(2)` reports as readable once `pid` has exited (`pidfd_open(2)`, Linux 5.3).
/// Works for every visible pid, whichever user owns it.
///
/// # Errors
/// `ESRCH`: no such pid. `ENOSYS`, `EPERM`: an old kernel or a seccomp filter; continue without a pidfd.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    open_with(pid, 0)
}

/// `PIDFD_THREAD` of `linux/pidfd.h`.
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;

/// The same for one thread, which need not be a thread group leader (PIDFD_THREAD, Linux 6.9).
///
/// # Errors
/// As [`open`]; EINVAL before Linux 6.9.
pub fn open_thread(tid: i32) -> io::Result<OwnedFd> {
    open_with(tid, PIDFD_THREAD)
}

fn open_with(pid: i32, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `pidfd_open` takes two integers and touches no memory of ours.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })
}

/// A copy of the descriptor `fd` of the process behind `pidfd`, close-on-exec (`pidfd_getfd(2)`, Linux 5.6).
///
/// # Errors
/// EPERM: we may not trace the process (`ptrace(2)`), or a seccomp profile. ESRCH (exited), EBADF, EMFILE, ENFILE,
/// ENOSYS.
pub fn copy(pidfd: &OwnedFd, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `pidfd_getfd` takes three integers and touches no memory of ours.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

/// Takes ownership of the descriptor that a system call returned.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to the process behind `held`, never to one that reused its pid (`pidfd_send_signal(2)`, Linux 5.1).
///
/// # Errors
/// ESRCH (exited), EPERM, ENOSYS.
pub fn send(held: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: integers, and a null pointer, which means siginfo as kill(2) would send it.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, held.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
