//! Owns the calls that need `unsafe`. Must not know why they are made.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int, c_long, c_short};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI64, Ordering};

use nix::errno::Errno;
use nix::sched::{CloneFlags, clone};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid, fork};

use crate::clock::now;

/// The resources a program used, as the kernel reports them to `wait4`.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time, its children's included, in microseconds.
    pub cpu: i64,
    pub max_rss_kib: i64,
    pub page_faults: i64,
}

/// How a program exited: its code, or the signal that killed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

/// Creates a process, and runs `child` in it; `Ok` is its pid.
///
/// # Errors
/// EAGAIN, ENOMEM.
pub fn forked(child: impl FnOnce() -> c_int) -> nix::Result<Pid> {
    // SAFETY: this program has one thread, so no lock is held by a thread that does not exist in the child. Its tests have more: the C
    // library makes the allocator's locks usable again, and the children there take no others.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        // SAFETY: an integer only. Not `exit`: buffered output is the parent's to write.
        ForkResult::Child => unsafe { libc::_exit(child()) },
    }
}

/// Closes inherited descriptors other than the three streams: every program started from here would inherit them (`close_range(2)`).
pub fn close_inherited() {
    // SAFETY: integers only. This program has opened nothing yet. A kernel that does not know the call leaves them open.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
    }
}

/// Returns free memory to the kernel, so that a forked process does not start with it.
pub fn give_back_memory() {
    // musl does that by itself.
    #[cfg(target_env = "gnu")]
    // SAFETY: an integer only; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Starts a program with these streams, like `vfork(2)`: the child runs in this process's memory until its exec, so that the size of this
/// process costs nothing. Not `posix_spawn(3)`: glibc's maps a stack for each child and queries the disposition of every signal, a fifth of
/// what a no-op takes.
///
/// # Errors
/// Those of `clone(2)` and `execve(2)`.
pub fn vfork_exec(
    file: &CStr,
    words: &[CString],
    environment: &[CString],
    streams: [BorrowedFd<'_>; 3],
) -> nix::Result<Pid> {
    let pointers =
        |words: &[CString]| -> Vec<_> { words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect() };
    let (words, environment) = (pointers(words), pointers(environment));
    let mut refused = None;
    let mut stack = [0; 8 << 10];
    let child = Box::new(|| {
        for (to, from) in (0..).zip(streams) {
            // SAFETY: integers only.
            unsafe { libc::dup2(from.as_raw_fd(), to) };
        }
        // SAFETY: both lists end with a null, and they and what they point to live until the parent continues, which is after the exec.
        unsafe { libc::execve(file.as_ptr(), words.as_ptr(), environment.as_ptr()) };
        refused = Some(Errno::last());
        127
    });
    // SAFETY: the child shares this process's memory while the process is suspended (CLONE_VFORK). It calls nothing but dup2 and execve,
    // which need little of the stack, allocates nothing, and no signal handler can run in it: a process that starts programs has installed
    // none.
    let pid = unsafe { clone(child, &mut stack, CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK, Some(libc::SIGCHLD)) }?;
    match refused {
        None => Ok(pid),
        Some(error) => wait4(pid, true).and(Err(error)),
    }
}

/// Reaps this child (`wait4(2)`); `None`: it has not exited, which is returned only without `block`.
///
/// # Errors
/// ECHILD.
pub fn wait4(pid: Pid, block: bool) -> nix::Result<Option<(End, Usage)>> {
    let mut status = 0;
    // SAFETY: all zeros is a value of this structure of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let options = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: both are writable and live through the call.
        let found = unsafe { libc::wait4(pid.as_raw(), &raw mut status, options, &raw mut usage) };
        match Errno::result(found) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    let end = if libc::WIFSIGNALED(status) {
        End::Signal(libc::WTERMSIG(status))
    } else {
        End::Code(libc::WEXITSTATUS(status))
    };
    let micro = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    let cpu = micro(usage.ru_utime) + micro(usage.ru_stime);
    Ok(Some((end, Usage { cpu, max_rss_kib: usage.ru_maxrss, page_faults: usage.ru_minflt })))
}

/// Brings up the loopback interface of this network namespace (`netdevice(7)`).
///
/// # Errors
/// EPERM.
pub fn bring_up_loopback(socket: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: all zeros is a value of this structure: an empty name, no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives through the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

/// Makes `fd` this process's descriptor 3, open across an exec.
///
/// # Errors
/// EBADF.
pub fn pass_as_3(fd: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: integers only. The caller has no other use for descriptor 3: it executes a program that expects it there.
    let result =
        unsafe { if fd.as_raw_fd() == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(fd.as_raw_fd(), 3) } };
    Errno::result(result).map(drop)
}

static HEARD: AtomicI64 = AtomicI64::new(0);

extern "C" fn hear(_: c_int) {
    HEARD.store(now(), Ordering::Relaxed);
}

/// Handles USR1 with a handler from now on.
///
/// # Errors
/// None that is known.
pub fn catch_usr1() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(hear), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler reads the clock and stores an integer; both are allowed in one (`signal-safety(7)`).
    unsafe { sigaction(Signal::SIGUSR1, &action) }.map(drop)
}

/// When the handler last ran.
pub fn last_usr1() -> i64 {
    HEARD.load(Ordering::Relaxed)
}

/// Installs a filter on this process and all its descendants that allows every call, as a container has a profile (`seccomp(2)`).
///
/// # Errors
/// A kernel without seccomp.
pub fn allow_everything() -> nix::Result<()> {
    // `ret ALLOW`.
    let mut all = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
    let program = libc::sock_fprog { len: 1, filter: all.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the kernel copies the program, whose one instruction lives through the call.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }).map(drop)
}

/// The cheapest system call.
pub fn getppid() -> c_long {
    // SAFETY: no arguments, cannot fail. Not `libc::getppid`, which a C library may answer from a cache.
    unsafe { libc::syscall(libc::SYS_getppid) }
}
