//! Owns the terminal's foreground process group: reading it, giving it to the app and taking it back. Must not know
//! when.

use std::os::fd::{BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// Our controlling terminal, open on one of the standard descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    fd: RawFd,
    ours: Pid,
}

impl Terminal {
    /// The terminal, if there is one (`tty_ioctl(4)`). A container without one answers ENOTTY, ENXIO or EBADF.
    pub fn controlling() -> Option<Self> {
        let fd = [0, 1, 2].into_iter().find(|fd| tcgetpgrp(borrow(*fd)).is_ok())?;
        Some(Self { fd, ours: getpgrp() })
    }

    /// True if the app's group must be in the foreground from the start: our group is, and the terminal is our stdin. A
    /// shell without job control leaves a program started with `&` in its own group, which is in the foreground, and
    /// only redirects its stdin. Putting that app into the foreground would stop the shell at its next `read`.
    pub fn is_for_the_app(&self) -> bool {
        self.fd == 0 && self.is_ours()
    }

    /// The file descriptor, for the child that takes the foreground before its exec.
    pub fn raw_fd(&self) -> RawFd {
        self.fd
    }

    /// True if our own group is in the foreground.
    pub fn is_ours(&self) -> bool {
        tcgetpgrp(borrow(self.fd)) == Ok(self.ours)
    }

    /// True if the process group `group` is in the foreground.
    pub fn is_of(&self, group: i32) -> bool {
        tcgetpgrp(borrow(self.fd)) == Ok(Pid::from_raw(group))
    }

    /// Puts the process group of `app` into the foreground. SIGTTOU must be blocked, or a background caller is stopped.
    /// Failure is normal (the group or the terminal is gone) and has no remedy.
    pub fn give_to(&self, app: i32) {
        let _ = tcsetpgrp(borrow(self.fd), Pid::from_raw(app));
    }

    /// Takes the foreground back for our own group from `app`'s, or from a group without any process left. Any other
    /// group, such as the shell that put us into the background, keeps it.
    pub fn take_back(&self, app: i32) {
        let theirs = |group: Pid| group.as_raw() == app || killpg(group, None) == Err(Errno::ESRCH);
        if tcgetpgrp(borrow(self.fd)).is_ok_and(theirs) {
            let _ = tcsetpgrp(borrow(self.fd), self.ours);
        }
    }
}

/// The width in columns of the terminal on stderr (`tty_ioctl(4)`); `None` if it is not a terminal or reports no width.
#[allow(unsafe_code)]
pub fn columns() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills the struct, which outlives the call, and nothing else.
    let asked = unsafe { libc::ioctl(2, libc::TIOCGWINSZ, &raw mut size) };
    (asked == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Standard descriptors live as long as the process: nothing in this crate closes 0, 1 or 2.
#[allow(unsafe_code)]
fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: 0, 1 and 2 are never closed here. One that our parent closed gives EBADF, which callers take as "no
    // terminal".
    unsafe { BorrowedFd::borrow_raw(fd) }
}
