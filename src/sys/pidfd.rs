//! Owns pidfds: a descriptor that becomes readable when another program ends. Must not know whose it is.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A close-on-exec descriptor that `poll(2)` reports readable once `pid` has ended (`pidfd_open(2)`, Linux 5.3).
/// Works for every pid that is visible, whoever owns it.
///
/// # Errors
/// `ESRCH`: no such pid. `ENOSYS`, `EPERM`: an old kernel or a seccomp filter; live without.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: `pidfd_open` takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
