//! Owns the calls that only `unsafe` reaches. Must not know why they are made.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int, c_long, c_short};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI64, Ordering};

use nix::errno::Errno;
use nix::sched::{CloneFlags, clone};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid, fork};

use crate::clock::now;

/// What a program took, as the kernel counted it for its waiter.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time, its children's included, in microseconds.
    pub cpu: i64,
    pub max_rss_kib: i64,
    pub page_faults: i64,
}

/// How a program ended: its code, or the signal that ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

/// Makes a process, and runs `child` in it; `Ok` is its pid.
///
/// # Errors
/// EAGAIN, ENOMEM.
pub fn forked(child: impl FnOnce() -> c_int) -> nix::Result<Pid> {
    // SAFETY: there is one thread in this program, so that no lock is held by a thread that the child does not have. Its tests have more:
    // the allocator's locks are put right by the C library, and the children there take no others.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        // SAFETY: an integer only. Not `exit`: what stands in buffers is the parent's to write.
        ForkResult::Child => unsafe { libc::_exit(child()) },
    }
}

/// Closes what this program was started with besides its three streams: it would be everybody's whom it starts (`close_range(2)`).
pub fn close_inherited() {
    // SAFETY: integers only. Nothing is open yet that anybody here owns. A kernel that does not know the call leaves them open.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
    }
}

/// Gives back the memory that is free, so that a forked process does not begin with it.
pub fn give_back_memory() {
    // musl gives it back by itself.
    #[cfg(target_env = "gnu")]
    // SAFETY: an integer only; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Starts a program with these streams, as `vfork(2)` would: the child runs in our memory until its exec, so that our size costs nothing.
/// Not `posix_spawn(3)`: glibc's maps a stack for each child and asks for the disposition of every signal, a fifth of what a no-op takes.
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
        // SAFETY: both lists end with a null, and they and what they point to live until the parent goes on, which is after the exec.
        unsafe { libc::execve(file.as_ptr(), words.as_ptr(), environment.as_ptr()) };
        refused = Some(Errno::last());
        127
    });
    // SAFETY: the child shares our memory while we are suspended (CLONE_VFORK). It calls nothing but dup2 and execve, which need little of
    // the stack, allocates nothing, and no handler of ours can run in it: whoever starts programs has none.
    let pid = unsafe { clone(child, &mut stack, CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK, Some(libc::SIGCHLD)) }?;
    match refused {
        None => Ok(pid),
        Some(error) => wait4(pid, true).and(Err(error)),
    }
}

/// Takes the report of this child (`wait4(2)`); `None`: it has not ended, which only who does not `block` is told.
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
    // SAFETY: integers only. Who calls this has no other use for descriptor 3: it executes a program that is told of it.
    let result =
        unsafe { if fd.as_raw_fd() == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(fd.as_raw_fd(), 3) } };
    Errno::result(result).map(drop)
}

static HEARD: AtomicI64 = AtomicI64::new(0);

extern "C" fn hear(_: c_int) {
    HEARD.store(now(), Ordering::Relaxed);
}

/// Hears USR1 with a handler from now on.
///
/// # Errors
/// None that is known.
pub fn hear_usr1() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(hear), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler reads the clock and stores an integer; both are allowed in one (`signal-safety(7)`).
    unsafe { sigaction(Signal::SIGUSR1, &action) }.map(drop)
}

/// When the handler ran last.
pub fn heard() -> i64 {
    HEARD.load(Ordering::Relaxed)
}

/// Puts a filter on this process and all it will start that allows every call, as a container has a profile (`seccomp(2)`).
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
    // SAFETY: no arguments, cannot fail. Not `libc::getppid`, which some C library may answer by itself.
    unsafe { libc::syscall(libc::SYS_getppid) }
}
