//! Owns pseudo-terminals. Must not know how they are used.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::launch;

/// A new terminal: the test's side and the program's side. Neither is inherited by accident, which `openpty(3)` cannot guarantee if other
/// threads fork.
#[track_caller]
pub fn pair() -> (OwnedFd, OwnedFd) {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = launch::open("/dev/ptmx", flags);
    let mut name = [0; 64];
    // SAFETY: `master` is an open terminal master; `name` has the length passed and ends in a zero byte on success.
    let name = unsafe {
        assert_eq!(libc::unlockpt(master.as_raw_fd()), 0, "unlockpt: {}", std::io::Error::last_os_error());
        assert_eq!(libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len()), 0, "ptsname");
        CStr::from_ptr(name.as_ptr()).to_str().unwrap()
    };
    let slave = launch::open(name, flags);
    (master, slave)
}

/// The foreground process group, as seen from the master side; 0 if no session has the terminal.
pub fn foreground(master: &OwnedFd) -> i32 {
    let mut group = 0;
    // SAFETY: `group` is valid for writing, which is all TIOCGPGRP does.
    unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPGRP, &mut group) };
    group
}

/// Duplicates a descriptor.
#[track_caller]
pub fn copy(fd: &OwnedFd) -> OwnedFd {
    // SAFETY: the descriptor returned is new, and this code owns it.
    unsafe {
        let copy = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3);
        assert!(copy >= 0, "dup: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(copy)
    }
}
