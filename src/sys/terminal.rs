//! Owns the terminal's foreground: who has it, giving it away and taking it back. Must not know when that is due.

use std::os::fd::{BorrowedFd, RawFd};

use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// A controlling terminal on one of our standard descriptors, with our own process group in its foreground.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    fd: RawFd,
    ours: Pid,
}

impl Terminal {
    /// The terminal, if we are in its foreground: a background job must not grab it (`tty_ioctl(4)`, POSIX job control).
    /// ENOTTY, ENXIO and EBADF are the normal answers of a container without one.
    pub fn in_foreground() -> Option<Self> {
        let ours = getpgrp();
        [0, 1, 2].into_iter().find(|fd| tcgetpgrp(borrow(*fd)) == Ok(ours)).map(|fd| Self { fd, ours })
    }

    /// The descriptor, for the child that takes the foreground before its exec.
    pub fn raw_fd(&self) -> RawFd {
        self.fd
    }

    /// True if our own group is in the foreground now.
    pub fn is_ours(&self) -> bool {
        tcgetpgrp(borrow(self.fd)) == Ok(self.ours)
    }

    /// Puts the process group of `app` into the foreground. SIGTTOU must be blocked, or a background caller would be stopped.
    /// Failure is normal (the group or the terminal is gone) and has no remedy.
    pub fn give_to(&self, app: i32) {
        let _ = tcsetpgrp(borrow(self.fd), Pid::from_raw(app));
    }

    /// Takes the foreground back for our own group.
    pub fn take_back(&self) {
        let _ = tcsetpgrp(borrow(self.fd), self.ours);
    }
}

/// Standard descriptors live as long as the process: nothing in this crate closes 0, 1 or 2.
#[allow(unsafe_code)]
fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: 0, 1 and 2 are never closed here; one that was closed by our starter gives EBADF, which callers take as "no terminal".
    unsafe { BorrowedFd::borrow_raw(fd) }
}
