//! Owns the way from us to the app: what is executed, what is set up between the fork and the exec, and why it failed. Must not know
//! what the app is, nor whether it is supervised.
#![allow(unsafe_code)]

mod report;

use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
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
use report::{Report, Told};

/// The PATH of `execvp(3)` in musl, used where the environment has none.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/bin:/usr/bin";

/// A program ready to be executed: everything allocated before the fork, since the child may only do what is async-signal-safe.
#[derive(Debug)]
pub struct Image {
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// Which entry of `environment` is `LISTEN_PID`, whose value only the child knows.
    listen_pid: Option<usize>,
}

impl Image {
    /// Prepares `command` (the word and its arguments) with `environment`, and looks the word up in that environment's PATH as
    /// `execvp(3)` does: a word with a slash is a path, an empty element of PATH is the current directory.
    /// A `LISTEN_PID` in `environment` gets the app's own pid at the start.
    ///
    /// # Errors
    /// InvalidInput for an empty command; no word or variable that came through an exec can contain a NUL byte.
    pub fn new(command: &[OsString], environment: &[(OsString, OsString)], patch_pid: bool) -> io::Result<Self> {
        let word = command.first().ok_or(io::ErrorKind::InvalidInput)?;
        let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_bytes());
        let candidates = if word.is_empty() {
            Vec::new()
        } else if word.as_bytes().contains(&b'/') {
            vec![c_string(word.as_bytes())?]
        } else {
            path.unwrap_or(DEFAULT_PATH)
                .split(|byte| *byte == b':')
                .map(|dir| candidate(dir, word))
                .collect::<Result<_, _>>()?
        };
        let arguments = command.iter().map(|word| c_string(word.as_bytes())).collect::<Result<_, _>>()?;
        let mut listen_pid = None;
        let mut entries = Vec::with_capacity(environment.len());
        for (name, value) in environment {
            // With its `=` and its NUL: no piece is moved to a larger one, for hundreds of variables.
            let room = name.len() + value.len().max(PID_ROOM.len()) + 2;
            let mut entry = Vec::with_capacity(room);
            entry.extend_from_slice(name.as_bytes());
            entry.push(b'=');
            if patch_pid && name == "LISTEN_PID" {
                // Of twins the first counts, as in getenv(3).
                if listen_pid.is_some() {
                    continue;
                }
                listen_pid = Some(entries.len());
                entry.extend_from_slice(PID_ROOM);
            } else {
                entry.extend_from_slice(value.as_bytes());
            }
            entries.push(c_string(entry)?);
        }
        entries.extend(super::environ::nameless());
        Ok(Self { candidates, arguments, environment: entries, listen_pid })
    }

    /// The command line, the word first.
    pub fn arguments(&self) -> impl Iterator<Item = &OsStr> {
        self.arguments.iter().map(|word| OsStr::from_bytes(word.as_bytes()))
    }

    /// The paths that are tried, in order.
    pub fn candidates(&self) -> impl Iterator<Item = &OsStr> {
        self.candidates.iter().map(|path| OsStr::from_bytes(path.as_bytes()))
    }
}

/// Whether a file has capabilities of its own, which an exec would give (`xattr(7)`, `security.capability`).
pub fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = c_string(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: two strings that end in NUL; with no room given the call only tells the size.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), ptr::null_mut(), 0) >= 0 }
}

/// Room for any pid (`pid_max` is at most 2^22), overwritten from the left and cut with a NUL.
const PID_ROOM: &[u8] = b"0000000000";

fn candidate(dir: &[u8], word: &OsStr) -> io::Result<CString> {
    let mut path = Vec::with_capacity(dir.len() + word.len() + 2);
    path.extend_from_slice(dir);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(word.as_bytes());
    c_string(path)
}

fn c_string(bytes: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// How the app is set up between the fork and its exec.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    pub inherited: Inherited,
    /// The app becomes the leader of a process group of its own.
    pub own_group: bool,
    /// The terminal whose foreground that group takes.
    pub terminal: Option<RawFd>,
    /// The app gets TERM when reberth dies.
    pub bound_to_parent: bool,
    /// Descriptors that become 3, 4, … in the app, close-on-exec off. Each must be at least 3 + their number: see `raise`.
    pub descriptors: &'a [RawFd],
    /// Where the app starts, if not where we are.
    pub directory: Option<&'a Path>,
    /// The app's binds are to be heard (`notify`). Not together with `descriptors`: see `start`.
    pub hear_binds: bool,
}

/// The first descriptor of the socket activation protocol, SD_LISTEN_FDS_START (`sd_listen_fds(3)`).
pub const FIRST_PASSED: RawFd = 3;

/// Copies of `descriptors`, close-on-exec, all numbered above the places they will have in the app.
///
/// # Errors
/// EBADF, EMFILE.
pub fn raise(descriptors: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let above = FIRST_PASSED + RawFd::try_from(descriptors.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    descriptors.iter().map(|fd| descriptor::duplicate_from(*fd, above)).collect()
}

/// Why no candidate was executed: the last errno that mattered, as `execvp(3)` chooses it (EACCES outlives a later ENOENT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecFailure {
    pub errno: i32,
}

/// Everything the child reads; it lives in the parent's stack frame, which waits until the exec.
struct Child<'a> {
    setup: &'a Setup<'a>,
    candidates: &'a [*const c_char],
    arguments: *const *const c_char,
    environment: *const *const c_char,
    listen_pid: *mut u8,
    /// NULL: stay where we are.
    directory: *const c_char,
    parent: i32,
    told: &'a Told,
}

/// A started app.
pub struct Started {
    pub pid: i32,
    /// Where its binds are heard, if they are.
    pub heard: Option<Heard>,
    report: Report,
}

/// The app has the filter on it.
pub struct Heard {
    pub listener: Listener,
    /// It can gain no privileges by an exec any more.
    pub no_new_privs: bool,
}

/// Why there is no app.
#[derive(Debug)]
pub enum NotStarted {
    /// `clone(2)` said no: EAGAIN (pids limit, RLIMIT_NPROC), ENOMEM.
    Clone(io::Error),
    /// Its binds cannot be heard; the errno of [`notify::filter::install`]. Nothing was executed: start it again without.
    Deaf(io::Error),
}

impl Started {
    /// Set when the exec failed: at once after `start` on Linux; under an emulator that turns vfork into fork, once the child has ended.
    pub fn failure(&self) -> Option<ExecFailure> {
        match self.report.told().errno.load(Ordering::Acquire) {
            0 => None,
            errno => Some(ExecFailure { errno }),
        }
    }
}

/// Starts the app and returns when it has been executed, or could not be.
///
/// With `hear_binds` the child shares our table of descriptors until its exec, which gives it a copy of its own and closes what is
/// close-on-exec there: so the listener, which the kernel makes in the child, is ours without being sent. The child must then move none of
/// them, which is why nothing is handed over to it.
///
/// # Errors
/// See [`NotStarted`].
pub fn start(image: &mut Image, setup: &Setup<'_>) -> Result<Started, NotStarted> {
    let report = Report::new().map_err(NotStarted::Clone)?;
    let hears = setup.hear_binds && setup.descriptors.is_empty();
    let expected = if hears { Some(descriptor::lowest_free().map_err(NotStarted::Deaf)?) } else { None };
    let pid = with_pointers(image, setup, report.told(), |child| {
        // vfork without its trap of two returns on one stack: the child has its own stack, and the parent stands still until the exec.
        // Nothing is copied, which is most of what fork costs.
        let files = if hears { libc::CLONE_FILES } else { 0 };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | files | libc::SIGCHLD;
        // SAFETY: `child` and all it points to outlive the call, because CLONE_VFORK holds us until the exec or exit; the stack is ours;
        // `child_main` does only async-signal-safe work and never returns into our frames.
        unsafe { libc::clone(child_main, report.stack_top(), flags, ptr::from_ref(child).cast_mut().cast()) }
    });
    if pid < 0 {
        let error = io::Error::last_os_error();
        // qemu's user mode makes a fork of it, which cannot share a table.
        let unshared = hears && error.raw_os_error() == Some(libc::EINVAL);
        return Err(if unshared { deaf(libc::ENOSYS) } else { NotStarted::Clone(error) });
    }
    let heard = match expected {
        Some(expected) => hear(pid, report.told(), expected)?,
        None => None,
    };
    Ok(Started { pid, heard, report })
}

fn deaf(errno: i32) -> NotStarted {
    NotStarted::Deaf(io::Error::from_raw_os_error(errno))
}

/// The listener of the child `pid`; `None`: it came no further than to fail before it had one. `expected` is the number that it got, unless
/// another thread of ours (a test's) was quicker.
///
/// # Errors
/// `Deaf`: the child has not become the app. It is gone, and nobody else hears of it; with it whatever it had opened in our table.
fn hear(pid: i32, told: &Told, expected: RawFd) -> Result<Option<Heard>, NotStarted> {
    let number = told.listener.load(Ordering::Acquire);
    let no_new_privs = told.no_new_privs.load(Ordering::Acquire) != 0;
    if number > 0
        && let Some(listener) = Listener::adopt(number - 1)
    {
        return Ok(Some(Heard { listener, no_new_privs }));
    }
    if told.errno.load(Ordering::Acquire) != 0 {
        return Ok(None);
    }
    // Refused; or killed before it could say so, as some profiles do to who calls what they do not know; or, where an emulator has not
    // waited for the exec, still on its way with a listener that only it has. In each case nobody would hear the app.
    let end = process::end(pid);
    let errno = match number {
        0 if end == Some(End::Signal(libc::SIGSYS)) => libc::EPERM,
        0 => libc::ECANCELED,
        1.. => libc::ENOSYS,
        _ => -number,
    };
    if number >= 0 {
        // Killed before its word: what it had opened by then is in our table.
        drop(Listener::adopt(expected));
    }
    Err(deaf(errno))
}

/// Replaces this process by the app; returns only if that failed.
pub fn replace(image: &mut Image, setup: &Setup<'_>) -> ExecFailure {
    let told = Told::default();
    let above = FIRST_PASSED + RawFd::try_from(setup.descriptors.len()).unwrap_or(0);
    let saved: Vec<(RawFd, OwnedFd)> =
        (FIRST_PASSED..above).filter_map(|fd| Some((fd, descriptor::duplicate_from(fd, above).ok()?))).collect();
    with_pointers(image, setup, &told, prepare_and_exec);
    // Still here: the exec failed. The sockets stand where files of our own were, such as the log, and a write to one would end us by
    // SIGPIPE before anybody heard why.
    super::signal::set_alone();
    for (fd, copy) in &saved {
        // SAFETY: integers only; it puts back what the number stood for, close-on-exec as all of ours are.
        unsafe { libc::dup3(copy.as_raw_fd(), *fd, libc::O_CLOEXEC) };
    }
    ExecFailure { errno: told.errno.load(Ordering::Acquire) }
}

/// Builds the pointer arrays exec wants, and hands them to `act`.
fn with_pointers<R>(image: &mut Image, setup: &Setup<'_>, told: &Told, act: impl FnOnce(&Child<'_>) -> R) -> R {
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
        told,
    })
}

extern "C" fn child_main(child: *mut c_void) -> c_int {
    // SAFETY: `start` passes a `Child` that outlives us.
    prepare_and_exec(unsafe { &*child.cast::<Child<'_>>() });
    // SAFETY: `_exit` is async-signal-safe and runs nothing of the parent's.
    unsafe { libc::_exit(127) }
}

/// From the fork to the exec. Async-signal-safe calls only, and no allocation: memory is the parent's own. Returns only on failure.
fn prepare_and_exec(child: &Child<'_>) {
    let setup = child.setup;
    // First of all: a child that is refused has not taken the terminal.
    if setup.hear_binds && setup.descriptors.is_empty() {
        match notify::filter::install() {
            Ok(installed) => {
                child.told.listener.store(installed.listener + 1, Ordering::Release);
                child.told.no_new_privs.store(c_int::from(installed.no_new_privs), Ordering::Release);
            }
            Err(errno) => return child.told.listener.store(-errno.max(1), Ordering::Release),
        }
    }
    if setup.bound_to_parent {
        // SAFETY: takes an integer.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
        // SAFETY: no arguments. A parent that died before the call above sends nothing any more.
        if unsafe { libc::getppid() } != child.parent {
            child.told.errno.store(libc::ESRCH, Ordering::Release);
            return;
        }
    }
    if setup.own_group {
        // SAFETY: integers only; both calls fail harmlessly where there is nothing to do. SIGTTOU is still blocked.
        unsafe {
            libc::setpgid(0, 0);
            if let Some(terminal) = setup.terminal {
                libc::tcsetpgrp(terminal, libc::getpid());
            }
        }
    }
    if let Err(errno) = place(setup.descriptors) {
        child.told.errno.store(errno, Ordering::Release);
        return;
    }
    if !child.directory.is_null() {
        // SAFETY: a NUL-terminated string that outlives the call. A directory that is gone leaves the app in `/`.
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
    child.told.errno.store(errno, Ordering::Release);
}

/// Whether an exec that failed so is the last one: the file is there, and it is its own fault. As `execvpe` in glibc (posix/execvpe.c): what may
/// not be reached, or lies on a network that is away, ends no search.
fn ends_the_search(errno: i32) -> bool {
    !matches!(errno, libc::EACCES | libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT)
}

/// Which of two failures of one search is told: what ended it; a file or a directory that may not be used; one that could not be reached; and
/// only then that there is none.
fn weightier(known: i32, new: i32) -> i32 {
    let missing = |errno: i32| matches!(errno, libc::ENOENT | libc::ENOTDIR);
    match new {
        _ if ends_the_search(new) || missing(known) && !missing(new) => new,
        libc::EACCES => new,
        _ => known,
    }
}

/// Moves `descriptors` to 3, 4, …; `dup3` leaves close-on-exec off. All of them lie above their targets, so none overwrites another.
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
