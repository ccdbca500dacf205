//! Owns processes: reaping, signals sent, and the tree below us. Must not know why one is looked at or ended.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;

pub(super) fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Our own pid.
pub fn pid() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getpid() }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Code(u8),
    Signal(i32),
}

/// What one call of [`reap`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    Ended(i32, End),
    /// A child was stopped by this signal.
    Stopped(i32, i32),
    /// Children are left, and none has anything to report.
    Nothing,
    /// No child is left.
    NoChildren,
}

/// Takes one report of one child, without waiting (`waitpid(2)`). The crate's only reaper: a second one would steal the app's code.
/// SIGCHLD coalesces, so call it until it says `Nothing` or `NoChildren`.
pub fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: `status` is writable and lives through the call. __WALL also takes children that were cloned without SIGCHLD.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED | libc::__WALL) };
    match pid {
        0 => Reaped::Nothing,
        -1 if last_errno() == libc::EINTR => Reaped::Nothing,
        -1 => Reaped::NoChildren,
        _ if libc::WIFSTOPPED(status) => Reaped::Stopped(pid, libc::WSTOPSIG(status)),
        _ if libc::WIFSIGNALED(status) => Reaped::Ended(pid, End::Signal(libc::WTERMSIG(status))),
        _ => Reaped::Ended(pid, End::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(255))),
    }
}

/// Sends `signal` to one process, or with a negative `target` to a group, or with -1 to everyone we may (`kill(2)`).
///
/// # Errors
/// ESRCH (gone), EPERM.
pub fn send(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::kill(target, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes orphans of our tree our children (`PR_SET_CHILD_SUBREAPER`, Linux 3.4).
///
/// # Errors
/// EINVAL on a kernel without it.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for `signal` when our parent dies (`PR_SET_PDEATHSIG`).
///
/// # Errors
/// EINVAL for a number that is no signal.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Every process below us but `strangers` and what is below those, children before grandchildren; empty where /proc does not say.
/// A look, not a lock: what forks meanwhile is missed, so callers look again after each end.
pub fn descendants(strangers: &[i32]) -> Vec<i32> {
    let mut found = children_of(pid());
    found.retain(|child| !strangers.contains(child));
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        for child in children_of(parent) {
            if !found.contains(&child) {
                found.push(child);
            }
        }
    }
    found
}

/// False where /proc is missing or hides us: then [`descendants`] says nothing.
pub fn can_list() -> bool {
    std::path::Path::new("/proc/self/task").exists()
}

/// The children this process has already, which it can only have from before its own exec: `exec reberth run -- app > >(logger)`.
/// Nearly always there are none, which costs one system call.
pub fn inherited_children() -> Vec<i32> {
    // SAFETY: all-zero is a valid siginfo_t, to be overwritten.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable and lives through the call. WNOWAIT leaves whoever has ended to the reaper.
    let asked = unsafe { libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
    if asked == 0 { children_of(pid()) } else { Vec::new() }
}

/// The children of one process: of all its threads, since a child belongs to the thread that forked it (`proc_pid_task_tid_children(5)`).
fn children_of(parent: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let mut children = Vec::new();
    for thread in threads.flatten() {
        if let Ok(text) = std::fs::read_to_string(thread.path().join("children")) {
            children.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        }
    }
    children
}

/// Forks a short-lived child that runs `work` and exits with its code; the parent gets the pid at once.
/// One thread only, so the child may do anything; it does not return into the parent's code.
///
/// # Errors
/// Those of `fork(2)`: EAGAIN, ENOMEM.
pub fn fork_off(work: impl FnOnce() -> u8) -> io::Result<i32> {
    // SAFETY: the process has one thread, so the copy is consistent; the child ends in `_exit` below.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: integer argument.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            super::signal::set_plain();
            let code = work();
            // SAFETY: ends the child without running the parent's exit code.
            unsafe { libc::_exit(c_int::from(code)) }
        }
        child => Ok(child),
    }
}
