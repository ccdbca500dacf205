//! Owns launching the app: the fork, what is set up before the exec, and why it failed. Must not know what the app is, or
//! whether it is supervised.
#![allow(unsafe_code)]

mod image;
mod report;

use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::Ordering;

use super::descriptor;
use super::notify::{self, Listener};
use super::process::{self, End, last_errno, pid};
use super::signal::Inherited;
use image::c_string;
use report::{Memory, Report};

pub use image::{Image, has_capabilities};

/// How the app is set up between the fork and its exec.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    pub inherited: Inherited,
    /// The app becomes the leader of its own process group.
    pub own_group: bool,
    /// The terminal whose foreground that group takes.
    pub terminal: Option<RawFd>,
    /// The app gets TERM when reberth dies.
    pub bound_to_parent: bool,
    /// Descriptors that become 3, 4, … in the app, with close-on-exec off. Each must be at least 3 + their number: see
    /// [`raise`].
    pub descriptors: &'a [RawFd],
    /// The app's working directory, if not ours.
    pub directory: Option<&'a Path>,
    /// The app's binds are to be intercepted (`notify`). Not together with `descriptors`: see [`start`].
    pub hear_binds: bool,
}

/// The first descriptor of the socket activation protocol, SD_LISTEN_FDS_START (`sd_listen_fds(3)`).
pub const FIRST_PASSED: RawFd = 3;

/// Copies of `descriptors`, close-on-exec, all numbered above the numbers they will have in the app.
///
/// # Errors
/// EBADF, EMFILE.
pub fn raise(descriptors: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let above = FIRST_PASSED + RawFd::try_from(descriptors.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    descriptors.iter().map(|fd| descriptor::duplicate_from(*fd, above)).collect()
}

/// Why no candidate was executed: the most relevant errno, chosen as `execvp(3)` does (EACCES outlives a later ENOENT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecFailure {
    pub errno: i32,
}

/// Everything the child reads. It lives in the parent's stack frame, and the parent waits until the exec.
struct Child<'a> {
    setup: &'a Setup<'a>,
    candidates: &'a [*const c_char],
    arguments: *const *const c_char,
    environment: *const *const c_char,
    listen_pid: *mut u8,
    /// Null: keep the current directory.
    directory: *const c_char,
    parent: i32,
    report: &'a Report,
}

/// A launched app.
pub struct Started {
    pub pid: i32,
    /// The filter's listener, if the app's binds are intercepted.
    pub heard: Option<Heard>,
    memory: Memory,
}

/// The app runs under the filter.
pub struct Heard {
    pub listener: Listener,
    /// An exec can no longer give it privileges.
    pub no_new_privs: bool,
}

/// Why the app was not launched.
#[derive(Debug)]
pub enum NotStarted {
    /// `clone(2)` failed: EAGAIN (pids limit, RLIMIT_NPROC), ENOMEM.
    Clone(io::Error),
    /// Its binds cannot be intercepted; the errno of [`notify::filter::install`]. Nothing was executed: launch it again
    /// without.
    Deaf(io::Error),
}

impl Started {
    /// Set if the exec failed: on Linux as soon as `start` returns; under an emulator that turns vfork into fork, once
    /// the child has exited.
    pub fn failure(&self) -> Option<ExecFailure> {
        match self.memory.report().errno.load(Ordering::Acquire) {
            0 => None,
            errno => Some(ExecFailure { errno }),
        }
    }
}

/// Launches the app and returns when it has been executed, or could not be.
///
/// With `hear_binds` the child shares our descriptor table until its exec, which gives it a private copy and closes the
/// close-on-exec descriptors in that copy. So the listener, which the kernel creates in the child, is ours without
/// being sent. Until then the child must not move any descriptor, so it is given no sockets.
///
/// # Errors
/// See [`NotStarted`].
pub fn start(image: &mut Image, setup: &Setup<'_>) -> Result<Started, NotStarted> {
    let memory = Memory::new().map_err(NotStarted::Clone)?;
    let intercepts = setup.hear_binds && setup.descriptors.is_empty();
    let expected = if intercepts { Some(descriptor::lowest_free().map_err(NotStarted::Deaf)?) } else { None };
    let pid = with_pointers(image, setup, memory.report(), |child| {
        // vfork without its trap of returning twice on one stack: the child has its own stack, and the parent is
        // suspended until the exec. Nothing is copied, which is most of the cost of a fork.
        let files = if intercepts { libc::CLONE_FILES } else { 0 };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | files | libc::SIGCHLD;
        // SAFETY: `child` and all it points to outlive the call, because CLONE_VFORK suspends us until the exec or
        // exit; the stack is ours; `child_main` makes only async-signal-safe calls and never returns into our frames.
        unsafe { libc::clone(child_main, memory.stack_top(), flags, ptr::from_ref(child).cast_mut().cast()) }
    });
    if pid < 0 {
        let error = io::Error::last_os_error();
        // qemu's user mode turns this into a fork, which cannot share the descriptor table.
        let unshared = intercepts && error.raw_os_error() == Some(libc::EINVAL);
        return Err(if unshared { not_intercepted(libc::ENOSYS) } else { NotStarted::Clone(error) });
    }
    let heard = match expected {
        Some(expected) => take_listener(pid, memory.report(), expected)?,
        None => None,
    };
    Ok(Started { pid, heard, memory })
}

fn not_intercepted(errno: i32) -> NotStarted {
    NotStarted::Deaf(io::Error::from_raw_os_error(errno))
}

/// The listener of the child `pid`; `None`: the child failed before it had one. `expected` is the listener's number,
/// unless another thread of ours (a test's) opened a descriptor first.
///
/// # Errors
/// `Deaf`: the child did not become the app. It has been killed and reaped here, and whatever it opened in our table is
/// closed.
fn take_listener(pid: i32, report: &Report, expected: RawFd) -> Result<Option<Heard>, NotStarted> {
    let number = report.listener.load(Ordering::Acquire);
    let no_new_privs = report.no_new_privs.load(Ordering::Acquire) != 0;
    if number > 0
        && let Some(listener) = Listener::adopt(number - 1)
    {
        return Ok(Some(Heard { listener, no_new_privs }));
    }
    if report.errno.load(Ordering::Acquire) != 0 {
        return Ok(None);
    }
    // The filter was refused. Or the child was killed before it could report, as some profiles do on a call they do not
    // know. Or an emulator did not wait for the exec, and only the child has the listener. In none of these cases could
    // we intercept the app's binds.
    let end = process::end(pid);
    let errno = match number {
        0 if end == Some(End::Signal(libc::SIGSYS)) => libc::EPERM,
        0 => libc::ECANCELED,
        1.. => libc::ENOSYS,
        _ => -number,
    };
    if number >= 0 {
        // Killed before its report: whatever it had opened by then is in our table.
        drop(Listener::adopt(expected));
    }
    Err(not_intercepted(errno))
}

/// Replaces this process with the app; returns only if that failed.
pub fn replace(image: &mut Image, setup: &Setup<'_>) -> ExecFailure {
    let report = Report::default();
    let above = FIRST_PASSED + RawFd::try_from(setup.descriptors.len()).unwrap_or(0);
    let saved: Vec<(RawFd, OwnedFd)> =
        (FIRST_PASSED..above).filter_map(|fd| Some((fd, descriptor::duplicate_from(fd, above).ok()?))).collect();
    with_pointers(image, setup, &report, prepare_and_exec);
    // The exec failed. The passed sockets now have the numbers of our own files, such as the log; a write to one would
    // kill us with SIGPIPE before the error is reported.
    super::signal::block_all();
    for (fd, copy) in &saved {
        // SAFETY: integers only; this restores the original descriptor, close-on-exec like all of ours.
        unsafe { libc::dup3(copy.as_raw_fd(), *fd, libc::O_CLOEXEC) };
    }
    ExecFailure { errno: report.errno.load(Ordering::Acquire) }
}

/// Builds the pointer arrays that exec takes, and passes them to `act`.
fn with_pointers<R>(image: &mut Image, setup: &Setup<'_>, report: &Report, act: impl FnOnce(&Child<'_>) -> R) -> R {
    let mut patched =
        image.listen_pid.and_then(|at| image.environment.get(at)).map(|entry| entry.as_bytes_with_nul().to_vec());
    let listen_pid = patched
        .as_mut()
        .and_then(|entry| entry.get_mut(b"LISTEN_PID=".len()..))
        .map_or(ptr::null_mut(), <[u8]>::as_mut_ptr);
    let candidates: Vec<_> = image.candidates.iter().map(|path| path.as_ptr()).collect();
    let arguments: Vec<_> = image.arguments.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    let mut environment: Vec<_> = image.environment.iter().map(|entry| entry.as_ptr()).chain([ptr::null()]).collect();
    if let (Some(at), Some(entry)) = (image.listen_pid, patched.as_mut())
        && let Some(slot) = environment.get_mut(at)
    {
        *slot = entry.as_mut_ptr().cast();
    }
    let directory = setup.directory.and_then(|path| c_string(path.as_os_str().as_bytes()).ok());
    act(&Child {
        setup,
        candidates: &candidates,
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        listen_pid,
        directory: directory.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
        parent: pid(),
        report,
    })
}

extern "C" fn child_main(child: *mut c_void) -> c_int {
    // SAFETY: `start` passes a `Child` that outlives us.
    prepare_and_exec(unsafe { &*child.cast::<Child<'_>>() });
    // SAFETY: `_exit` is async-signal-safe and runs none of the parent's code.
    unsafe { libc::_exit(127) }
}

/// From the fork to the exec. Async-signal-safe calls only and no allocation: the memory is the parent's. Returns only
/// on failure.
fn prepare_and_exec(child: &Child<'_>) {
    let setup = child.setup;
    // Before everything else: a child whose filter is refused must not have taken the terminal.
    if setup.hear_binds && setup.descriptors.is_empty() {
        match notify::filter::install() {
            Ok(installed) => {
                child.report.listener.store(installed.listener + 1, Ordering::Release);
                child.report.no_new_privs.store(c_int::from(installed.no_new_privs), Ordering::Release);
            }
            Err(errno) => return child.report.listener.store(-errno.max(1), Ordering::Release),
        }
    }
    if setup.bound_to_parent {
        // SAFETY: integers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
        // SAFETY: no arguments. A parent that died before the call above sends no signal.
        if unsafe { libc::getppid() } != child.parent {
            child.report.errno.store(libc::ESRCH, Ordering::Release);
            return;
        }
    }
    if setup.own_group {
        // SAFETY: integers only; both calls fail harmlessly if they do not apply. SIGTTOU is still blocked.
        unsafe {
            libc::setpgid(0, 0);
            if let Some(terminal) = setup.terminal {
                libc::tcsetpgrp(terminal, libc::getpid());
            }
        }
    }
    if let Err(errno) = place(setup.descriptors) {
        child.report.errno.store(errno, Ordering::Release);
        return;
    }
    if !child.directory.is_null() {
        // SAFETY: a NUL-terminated string that outlives the call. If the directory is gone, the app starts in `/`.
        unsafe { libc::chdir(child.directory) };
    }
    write_pid(child.listen_pid);
    setup.inherited.restore();
    let mut errno = libc::ENOENT;
    for path in child.candidates {
        // SAFETY: NUL-terminated strings and NULL-terminated arrays built by `with_pointers`, alive until the exec.
        unsafe { libc::execve(*path, child.arguments, child.environment) };
        let failed = last_errno();
        errno = weightier(errno, failed);
        if ends_the_search(failed) {
            break;
        }
    }
    child.report.errno.store(errno, Ordering::Release);
}

/// Whether the search ends at this exec error: the file was found and cannot be executed. As `execvpe` in glibc
/// (posix/execvpe.c): a path that is not accessible, or is on an unreachable network, does not end the search.
fn ends_the_search(errno: i32) -> bool {
    !matches!(errno, libc::EACCES | libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT)
}

/// Which of two errors of one search is reported, most relevant first: the one that ended the search; a file or
/// directory without permission; an unreachable one; a missing one.
fn weightier(known: i32, new: i32) -> i32 {
    let missing = |errno: i32| matches!(errno, libc::ENOENT | libc::ENOTDIR);
    match new {
        _ if ends_the_search(new) || missing(known) && !missing(new) => new,
        libc::EACCES => new,
        _ => known,
    }
}

/// Moves `descriptors` to 3, 4, …; `dup3` leaves close-on-exec off. All are above their targets, so none overwrites
/// another.
fn place(descriptors: &[RawFd]) -> Result<(), i32> {
    for (target, fd) in (FIRST_PASSED..).zip(descriptors) {
        // SAFETY: integers only.
        if unsafe { libc::dup3(*fd, target, 0) } < 0 {
            return Err(last_errno());
        }
    }
    Ok(())
}

/// Writes our pid in decimal and a NUL to `at`, which has room for ten digits. Async-signal-safe.
fn write_pid(at: *mut u8) {
    if at.is_null() {
        return;
    }
    let mut digits = [0_u8; 11];
    let mut rest = pid().unsigned_abs();
    let mut first = digits.len() - 1;
    while let Some(slot) = first.checked_sub(1).and_then(|next| digits.get_mut(next)) {
        *slot = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        first -= 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let text = digits.get(first..).unwrap_or_default();
    // SAFETY: `at` points to PID_ROOM's ten bytes and their NUL; `text` is at most ten digits and a NUL.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr(), at, text.len()) };
}

#[cfg(test)]
mod tests;
