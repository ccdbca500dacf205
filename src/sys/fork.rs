//! Owns children of ours that are no program: forked, they do one thing and end. Must not know what for.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
#[cfg(feature = "register")]
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

#[cfg(feature = "register")]
use super::descriptor;
use super::process::{parent, pid};
use super::signal;

/// Makes the calling child end with `parent`, which is whoever has forked it. False: the parent is gone already.
pub(super) fn end_with(parent: i32) -> bool {
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    self::parent() == parent
}

/// Forks a short-lived child that runs `work` and exits with its code; the parent gets the pid at once.
/// One thread only, so the child may do anything; it does not return into the parent's code.
///
/// # Errors
/// Those of `fork(2)`: EAGAIN, ENOMEM.
pub fn fork_off(work: impl FnOnce() -> u8) -> io::Result<i32> {
    let parent = pid();
    // SAFETY: the process has one thread, so the copy is consistent; the child ends in `_exit` below.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            signal::set_plain();
            let code = if end_with(parent) { work() } else { 1 };
            // SAFETY: ends the child without running the parent's exit code.
            unsafe { libc::_exit(c_int::from(code)) }
        }
        child => Ok(child),
    }
}

/// Forks a child that stays beside us: it has none of our descriptors but the standard ones, `own` and `kept`, hears no signal but KILL, so
/// that what is sent to everybody does not end it, and dies with us. The parent gets the pid at once.
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
            signal::set_alone();
            // SAFETY: a constant string; it names the one thread.
            unsafe { libc::prctl(libc::PR_SET_NAME, c"reberth-beside".as_ptr()) };
            let code = if end_with(parent) { work() } else { 1 };
            // SAFETY: ends the child without running the parent's exit code.
            unsafe { libc::_exit(c_int::from(code)) }
        }
        child => Ok(child),
    }
}
