//! Owns descriptors as such: which were inherited, closing them, waiting on several. Must not know what is behind one.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::poll::PollFd;
use nix::sys::time::TimeSpec;

/// Closes every descriptor from 3 up that was inherited, so that reberth pins no file, pipe or socket of its starter.
///
/// Inherited is what lacks close-on-exec: a descriptor with it would not have survived our own exec, and all of ours have it.
/// Without /proc the first 1024 are looked at.
pub fn close_inherited() {
    let listed: Option<Vec<RawFd>> = std::fs::read_dir("/proc/self/fd")
        .ok()
        .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect());
    for fd in listed.unwrap_or_else(|| (3..1024).collect()) {
        if fd > 2 && is_inherited(fd) {
            // SAFETY: no object of ours owns a descriptor without close-on-exec, so nobody is left with a dangling one.
            unsafe { libc::close(fd) };
        }
    }
}

/// True if `fd` is open and would survive an exec.
fn is_inherited(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer; a closed descriptor gives EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// True if `fd` is open.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer; a closed descriptor gives EBADF.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// A second descriptor for `fd`, close-on-exec, numbered `from` or higher.
///
/// # Errors
/// EBADF, EMFILE (`fcntl(2)`, F_DUPFD_CLOEXEC).
pub fn duplicate_from(fd: RawFd, from: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer and gives a descriptor of its own.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, from) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Sleeps until one of `fds` is readable or `deadline` has come (`ppoll(2)`, nanoseconds). An interruption counts as a wake-up: every
/// caller looks again anyway.
pub fn wait_readable(fds: &mut [PollFd<'_>], deadline: Option<Instant>) {
    let left = deadline.map(|at| TimeSpec::from_duration(at.saturating_duration_since(Instant::now()).min(LONGEST)));
    let _ = nix::poll::ppoll(fds, left, None);
}

/// A timeout that every kernel takes: longer ones are slept in parts, since all callers loop.
const LONGEST: Duration = Duration::from_secs(86_400);

/// True if `fd` is readable at once.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut one = [PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut one, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// A pipe, both ends close-on-exec: (read, write).
///
/// # Errors
/// EMFILE, ENFILE.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// The inode behind `fd`, which is the number in `socket:[N]` and in the kernel's socket tables.
pub fn inode(fd: &OwnedFd) -> Option<u64> {
    nix::sys::stat::fstat(fd).ok().map(|stat| stat.st_ino)
}
