//! Owns descriptors as such: which were inherited, closing them, waiting on several. Must not know what is behind one.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::poll::PollFd;
use nix::sys::time::TimeSpec;

/// Puts something harmless in the place of a standard descriptor that our starter left closed, so that none of our files ever gets its
/// number. Rust's own start-up would open `/dev/null` there, which the app would then inherit, and where an image has none it aborts.
/// The root directory can be neither written nor read, and close-on-exec leaves the app what it would have had.
///
/// For `.init_array`: system calls only.
pub fn fill_standard() {
    for fd in 0..=2 {
        // SAFETY: F_GETFD takes no pointer; a closed descriptor gives EBADF.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            // SAFETY: a constant string. The lowest free number is `fd`, since those below it are open; it is never closed.
            unsafe { libc::open(c"/".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) };
        }
    }
}

/// Closes every descriptor from 3 up that was inherited, so that reberth pins no file, pipe or socket of its starter.
///
/// Inherited is what lacks close-on-exec: a descriptor with it would not have survived our own exec, and all of ours have it.
/// Without /proc the first 1024 are looked at.
pub fn close_inherited() {
    for fd in open_descriptors().unwrap_or_else(|| (3..1024).collect()) {
        if fd > 2 && is_inherited(fd) {
            // SAFETY: no object of ours owns a descriptor without close-on-exec, so nobody is left with a dangling one.
            unsafe { libc::close(fd) };
        }
    }
}

/// What /proc/self/fd lists. Read without `opendir`, whose buffers would be the only ones that the C library keeps for a whole `run`.
fn open_descriptors() -> Option<Vec<RawFd>> {
    /// Where a record's length and name stand in `struct linux_dirent64` (`getdents(2)`).
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let folder = std::fs::File::open("/proc/self/fd").ok()?;
    let mut listed = Vec::new();
    let mut buffer = [0_u8; 1024];
    loop {
        // SAFETY: the buffer is writable, as long as is said, and outlives the call.
        let size =
            unsafe { libc::syscall(libc::SYS_getdents64, folder.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
        let mut rest = buffer.get(..usize::try_from(size).ok()?)?;
        if rest.is_empty() {
            return Some(listed);
        }
        while let Some(length) = rest.get(LENGTH..LENGTH + 2) {
            let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
            let name = rest.get(NAME..length)?.split(|byte| *byte == 0).next()?;
            listed.extend(std::str::from_utf8(name).ok().and_then(|name| name.parse::<RawFd>().ok()));
            rest = rest.get(length..)?;
        }
    }
}

/// True if `fd` is open and would survive an exec.
fn is_inherited(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer; a closed descriptor gives EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_open_descriptor_is_listed() {
        // More than one buffer full, which is about 40 records.
        let held: Vec<OwnedFd> = (0..150).map(|_| duplicate_from(2, 3).unwrap()).collect();
        let listed = open_descriptors().unwrap();
        assert!(held.iter().all(|fd| listed.contains(&fd.as_raw_fd())), "{listed:?}");
    }
}
