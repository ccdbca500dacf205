//! Owns the terminal's foreground: who has it, giving it away and taking it back. Must not know when that is due.

use std::os::fd::{BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// Our controlling terminal, on one of the standard descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    fd: RawFd,
    ours: Pid,
}

impl Terminal {
    /// The terminal, if there is one (`tty_ioctl(4)`). ENOTTY, ENXIO and EBADF are the normal answers of a container without one.
    pub fn controlling() -> Option<Self> {
        let fd = [0, 1, 2].into_iter().find(|fd| tcgetpgrp(borrow(*fd)).is_ok())?;
        Some(Self { fd, ours: getpgrp() })
    }

    /// True if the app is to have it from its start: our group is in the foreground, and it is our stdin. A shell without job control
    /// leaves what it starts with `&` in its own group, which is in the foreground, and takes only its stdin away; to put that app
    /// into the foreground would stop the shell at its next `read`.
    pub fn is_for_the_app(&self) -> bool {
        self.fd == 0 && self.is_ours()
    }

    /// The descriptor, for the child that takes the foreground before its exec.
    pub fn raw_fd(&self) -> RawFd {
        self.fd
    }

    /// True if our own group is in the foreground now.
    pub fn is_ours(&self) -> bool {
        tcgetpgrp(borrow(self.fd)) == Ok(self.ours)
    }

    /// True if the process group `group` is in the foreground now.
    pub fn is_of(&self, group: i32) -> bool {
        tcgetpgrp(borrow(self.fd)) == Ok(Pid::from_raw(group))
    }

    /// Puts the process group of `app` into the foreground. SIGTTOU must be blocked, or a background caller would be stopped.
    /// Failure is normal (the group or the terminal is gone) and has no remedy.
    pub fn give_to(&self, app: i32) {
        let _ = tcsetpgrp(borrow(self.fd), Pid::from_raw(app));
    }

    /// Takes the foreground back for our own group from `app`'s, or from one whose last process is gone. Anybody else who has it by now,
    /// such as the shell that put us into the background, keeps it.
    pub fn take_back(&self, app: i32) {
        let theirs = |group: Pid| group.as_raw() == app || killpg(group, None) == Err(Errno::ESRCH);
        if tcgetpgrp(borrow(self.fd)).is_ok_and(theirs) {
            let _ = tcsetpgrp(borrow(self.fd), self.ours);
        }
    }
}

/// How many letters a line of the terminal behind standard error has (`tty_ioctl(4)`); `None`: it is none, or does not say.
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
    // SAFETY: 0, 1 and 2 are never closed here; one that was closed by our starter gives EBADF, which callers take as "no terminal".
    unsafe { BorrowedFd::borrow_raw(fd) }
}
