//! Owns processes: reaping, sending signals, and walking our process tree. Must not know why a process is inspected or
//! signalled.
#![allow(unsafe_code)]

use std::io;

pub(super) fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Our own pid.
pub fn pid() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getpid() }
}

/// How a process terminated.
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
    /// Children exist, but none has a status to report.
    Nothing,
    /// No children exist.
    NoChildren,
}

/// Reaps one status of one child, without waiting (`waitpid(2)`). The crate's only reaper: a second one would steal the
/// app's exit code. SIGCHLD coalesces, so call this until it returns `Nothing` or `NoChildren`.
pub fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: `status` is writable and lives through the call. __WALL also reaps children cloned without SIGCHLD.
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

/// Kills a child of ours that never became a program, and reaps it. Blocks until it has died, which takes no longer
/// than the kernel needs. `None`: it is not our child.
pub fn end(pid: i32) -> Option<End> {
    // Zero and below mean process groups, or every process.
    if pid <= 0 {
        return None;
    }
    let _ = send(pid, libc::SIGKILL);
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable and lives through the call.
        let reaped = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
        match reaped {
            -1 if last_errno() == libc::EINTR => {}
            -1 => return None,
            _ if libc::WIFSIGNALED(status) => return Some(End::Signal(libc::WTERMSIG(status))),
            _ => return Some(End::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(255))),
        }
    }
}

/// Sends `signal` to a process; a negative `target` is a process group, -1 every process we may signal (`kill(2)`).
///
/// # Errors
/// ESRCH (gone), EPERM.
pub fn send(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::kill(target, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes orphans in our process tree our children (`PR_SET_CHILD_SUBREAPER`, Linux 3.4).
///
/// # Errors
/// EINVAL on a kernel without it.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Our parent's pid; 0 if it is in another PID namespace.
pub(super) fn parent() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getppid() }
}

/// True if /proc is mounted and shows our own PID namespace. With the /proc of another namespace (`unshare --pid`
/// without --mount-proc), the same pid means a different process.
pub fn proc_is_ours() -> bool {
    // `self` resolves to our pid in that namespace, and `task` lists our one thread (`proc_pid_task(5)`).
    std::path::Path::new(&format!("/proc/self/task/{}", pid())).exists()
}

/// Whether we run in a container: in a PID namespace other than the initial one, whose inode is fixed
/// (`PROC_PID_INIT_INO`).
pub fn is_contained() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() != "pid:[4026531836]")
}

/// Every descendant of ours, children before grandchildren, without `strangers` and their descendants. Empty if /proc
/// cannot be used. This is a snapshot: a process that forks meanwhile is missed, so callers look again after each exit.
pub fn descendants(strangers: &[i32]) -> Vec<i32> {
    descendants_of(pid(), strangers)
}

/// Every descendant of `root`, which may be any process.
pub fn below(root: i32) -> Vec<i32> {
    descendants_of(root, &[])
}

fn descendants_of(root: i32, strangers: &[i32]) -> Vec<i32> {
    if !proc_is_ours() {
        return Vec::new();
    }
    let mut found = children_of(root);
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

/// Sends `signal` to every process that [`descendants`] finds, and returns their pids.
pub fn signal_descendants(strangers: &[i32], signal: i32) -> Vec<i32> {
    let all = descendants(strangers);
    let ours = |parent: i32| parent == pid() || all.contains(&parent);
    for target in &all {
        // If hidepid hides the process, assume that the pid still belongs to the one listed.
        send_if(*target, signal, || stat(*target).is_none_or(|stat| ours(stat.parent)));
    }
    all
}

/// Sends CONT to those of `pids` that a signal stopped (`T` in `proc_pid_stat(5)`; a debugger's stop is `t`).
pub fn continue_stopped(pids: &[i32]) {
    let is_stopped = |target: i32| stat(target).is_some_and(|stat| stat.state == b'T');
    for target in pids.iter().copied().filter(|target| is_stopped(*target)) {
        send_if(target, libc::SIGCONT, || is_stopped(target));
    }
}

/// Sends `signal` to the process `target` if `is_intended` confirms that it is the intended one. A process that is not
/// our child may be reaped at any time and its pid reused. So a pidfd is opened before the check and the signal goes
/// through it (`pidfd_send_signal(2)`, Linux 5.1): a process that gets the pid later receives nothing. Without pidfds,
/// the signal goes to the pid.
fn send_if(target: i32, signal: i32, is_intended: impl FnOnce() -> bool) {
    let held = super::pidfd::open(target);
    if held.as_ref().is_err_and(is_gone) || !is_intended() {
        return;
    }
    if held.and_then(|held| super::pidfd::send(&held, signal)).is_err_and(|error| !is_gone(&error)) {
        let _ = send(target, signal);
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// Every process of our PID namespace except ourselves; `None` if /proc cannot be used.
pub fn everybody() -> Option<Vec<i32>> {
    let entries = std::fs::read_dir("/proc").ok().filter(|_| proc_is_ours())?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Some(pids.filter(|other| *other != pid()).collect())
}

struct Stat {
    state: u8,
    parent: i32,
}

fn stat(target: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{target}/stat")).ok()?;
    // The name is in parentheses and may contain any byte, parentheses and spaces included.
    let after = text.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(text.get(after + 1..)?).ok()?;
    let mut words = fields.split_ascii_whitespace();
    let state = *words.next()?.as_bytes().first()?;
    Some(Stat { state, parent: words.next()?.parse().ok()? })
}

/// False if /proc is missing, shows another namespace, or lists no children (CONFIG_PROC_CHILDREN). [`descendants`] is
/// empty then.
pub fn can_list() -> bool {
    std::fs::File::open(format!("/proc/self/task/{}/children", pid())).is_ok()
}

/// Children that this process had before its own exec, as in `exec reberth run -- app > >(logger)`. There are rarely
/// any, and then this costs one system call.
pub fn inherited_children() -> Vec<i32> {
    // SAFETY: all-zero is a valid siginfo_t, to be overwritten.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable and lives through the call. WNOWAIT leaves an exited child to the reaper.
    let asked = unsafe { libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
    if asked == 0 && proc_is_ours() { children_of(pid()) } else { Vec::new() }
}

/// The children of all threads of a process: a child belongs to the thread that forked it
/// (`proc_pid_task_tid_children(5)`).
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

/// Whether a process is stopped, by a signal or a tracer (`proc_pid_stat(5)`); false if that cannot be read.
pub fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may contain any byte, a closing parenthesis included.
    let after_name = stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at + 2));
    proc_is_ours() && matches!(after_name, Some(b'T' | b't'))
}
