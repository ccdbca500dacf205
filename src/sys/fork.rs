//! Owns forked children that never exec: they do one thing and exit. Must not know what it is.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
#[cfg(feature = "register")]
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

#[cfg(feature = "register")]
use super::descriptor;
use super::process::{parent, pid};
use super::signal;

/// Makes the calling child die with `parent`, which is the process that forked it. False: the parent has exited
/// already.
pub(super) fn end_with(parent: i32) -> bool {
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    self::parent() == parent
}

/// Forks a short-lived child that runs `work` and exits with the code it returns. The parent gets the pid immediately.
/// The child may do anything, because the process has only one thread; it never returns into the parent's code.
///
/// # Errors
/// Those of `fork(2)`: EAGAIN, ENOMEM.
pub fn fork_off(work: impl FnOnce() -> u8) -> io::Result<i32> {
    let parent = pid();
    // SAFETY: the process has one thread, so the copy is consistent; the child ends in `_exit` below.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            signal::unblock_all();
            let code = if end_with(parent) { work() } else { 1 };
            // SAFETY: ends the child without running the parent's exit code.
            unsafe { libc::_exit(c_int::from(code)) }
        }
        child => Ok(child),
    }
}

/// Forks a child that stays beside us and dies with us. It keeps only the standard descriptors, `own` and `kept`. It
/// blocks every signal but KILL, so a signal sent to all processes does not stop it. The parent gets the pid
/// immediately.
///
/// # Errors
/// Those of `fork(2)`: EAGAIN, ENOMEM.
#[cfg(feature = "register")]
pub fn fork_beside(own: &OwnedFd, kept: &[BorrowedFd<'_>], work: impl FnOnce() -> u8) -> io::Result<i32> {
    let parent = pid();
    // SAFETY: the process has one thread, so the copy is consistent; the child ends in `_exit` below.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let mut ours: Vec<_> = kept.iter().map(AsRawFd::as_raw_fd).collect();
            ours.push(own.as_raw_fd());
            descriptor::close_all_but(&mut ours);
            signal::block_all();
            // SAFETY: a constant string; the call names the only thread.
            unsafe { libc::prctl(libc::PR_SET_NAME, c"reberth-beside".as_ptr()) };
            let code = if end_with(parent) { work() } else { 1 };
            // SAFETY: ends the child without running the parent's exit code.
            unsafe { libc::_exit(c_int::from(code)) }
        }
        child => Ok(child),
    }
}
