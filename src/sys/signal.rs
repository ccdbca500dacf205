//! Owns signals: what was inherited, the blocked mask, and the signalfd. Must not know what a signal means to the app.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

/// A set of signals in the kernel's layout: bit n-1 is signal n, 1 to 64 (`sigprocmask(2)`).
///
/// The C library's `sigset_t` functions are not used: musl's skip signals 32 to 34, which then could neither be blocked
/// nor forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask(pub u64);

impl Mask {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u64::MAX);
}

/// Size of the kernel's signal set in bytes.
const MASK_SIZE: usize = mem::size_of::<u64>();

/// State from before `main`, recorded by [`save_originals`]: the Rust runtime and this program change it later.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);
static MASK_AT_START: AtomicU64 = AtomicU64::new(0);
static PARENT_AT_START: AtomicI32 = AtomicI32::new(0);

/// Runs from `.init_array`, before the Rust runtime ignores SIGPIPE and installs its first handler. Installing a
/// handler makes musl unblock signals 33 and 34, so the original mask cannot be read afterwards.
extern "C" fn save_originals() {
    SIGPIPE_WAS_IGNORED.store(is_ignored(libc::SIGPIPE), Ordering::Relaxed);
    let mut mask = 0_u64;
    let nothing = std::ptr::null::<u64>();
    // SAFETY: a null new set only queries; the old one is 8 bytes, as the size says, and lives through the call.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, nothing, &mut mask, MASK_SIZE) };
    MASK_AT_START.store(mask, Ordering::Relaxed);
    PARENT_AT_START.store(super::process::parent(), Ordering::Relaxed);
    super::descriptor::fill_standard();
}

// SAFETY: `.init_array` holds pointers to functions that the C start-up code calls once, before `main`. This one only
// makes system calls and stores atomics, so it needs nothing that is not set up yet.
#[used]
#[unsafe(link_section = ".init_array")]
static SAVE_ORIGINALS: extern "C" fn() = save_originals;

/// Our parent's pid when we started; 0 if the parent is in another PID namespace.
pub(super) fn parent_at_start() -> i32 {
    PARENT_AT_START.load(Ordering::Relaxed)
}

/// Requests `signal` for when our parent dies (`PR_SET_PDEATHSIG`). A parent that died before this call sends nothing,
/// so in that case the signal is sent here.
///
/// # Errors
/// EINVAL if the number is not a signal.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if super::process::parent() == parent_at_start() { Ok(()) } else { send_without_sender(signal) }
}

/// Sends `signal` to ourselves with sender pid 0: with our own pid it would be taken for the SIGPIPE of a failed write.
fn send_without_sender(signal: i32) -> io::Result<()> {
    // SAFETY: all-zero is a valid siginfo_t, with sender pid 0.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    (info.si_signo, info.si_code) = (signal, libc::SI_QUEUE);
    // SAFETY: `info` outlives the call, which only reads it.
    let sent = unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, super::process::pid(), signal, &raw const info) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// True if this process ignores `signal` (`sigaction(2)`); false if the call fails.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is a valid value to be overwritten.
    let mut now: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: a null new action only queries; `now` is writable and lives through the call.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut now) };
    asked == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// Makes `signal` ignored, or gives it its default action. Async-signal-safe.
pub fn set_ignored(signal: i32, ignored: bool) {
    let action = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: SIG_IGN and SIG_DFL are valid for every signal but KILL and STOP, for which the call fails harmlessly.
    unsafe { libc::signal(signal, action) };
}

/// The signal state that reberth inherited and that the app must inherit too.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    mask: Mask,
    sigpipe_ignored: bool,
    sigchld_ignored: bool,
}

impl Inherited {
    /// Restores the original dispositions, then the original mask. Async-signal-safe: for the child, before exec.
    pub fn restore(&self) {
        set_ignored(libc::SIGPIPE, self.sigpipe_ignored);
        set_ignored(libc::SIGCHLD, self.sigchld_ignored);
        // The mask comes last: a pending signal must find the original disposition.
        let _ = set_mask(self.mask);
    }
}

/// Replaces the signal mask (`rt_sigprocmask(2)`). Async-signal-safe.
fn set_mask(mask: Mask) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<u64>();
    // SAFETY: the new set is 8 bytes, as the size argument says, and lives through the call; the old one is not
    // requested.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &mask.0, nothing, MASK_SIZE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Unblocks every signal, for a child of ours that must react to signals like any other program. SIGPIPE stays ignored:
/// a peer that closes early must yield an error to report, not a silent death.
pub fn unblock_all() {
    set_ignored(libc::SIGPIPE, true);
    let _ = set_mask(Mask::NONE);
}

/// As PID 1, exits with code 1 on every signal whose default action terminates a program: TERM, and whatever else an
/// image names as its STOPSIGNAL. The kernel has no default actions for PID 1. For commands that wait and have no app.
/// Ignored signals stay ignored, and faults are left to the kernel.
pub fn end_as_pid_1() {
    extern "C" fn leave(_: libc::c_int) {
        // SAFETY: `_exit` is async-signal-safe.
        unsafe { libc::_exit(1) }
    }
    const FAULTS: [i32; 7] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];
    if super::process::pid() != 1 {
        return;
    }
    let all = (1..=RTMAX).filter(|signal| ends_by_default(*signal) && !FAULTS.contains(signal) && !is_ignored(*signal));
    for signal in all {
        // The kernel's own structure (handler, flags, restorer, mask), because the C libraries reserve signals 32 to
        // 34. The restorer is never returned to, but x86-64 calls no handler without one.
        let leave = leave as *const () as usize;
        let action: [usize; 4] = [leave, SA_RESTORER, leave, 0];
        let nothing = std::ptr::null_mut::<u8>();
        // SAFETY: the structure has the kernel's layout on both supported architectures, 64 bits per field, and
        // outlives the call; the handler only calls `_exit`. KILL and STOP are refused, which is harmless.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), nothing, MASK_SIZE) };
    }
}

/// `arch/x86/include/uapi/asm/signal.h`, and the same on arm64.
const SA_RESTORER: usize = 0x0400_0000;

/// Ignores SIGPIPE and blocks every signal again, as before [`Inherited::restore`].
pub(super) fn block_all() {
    set_ignored(libc::SIGPIPE, true);
    let _ = set_mask(Mask::ALL);
}

/// One signal read from the signalfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Signal number, 1 to 64.
    pub signal: i32,
    /// Pid of the sender in our PID namespace; 0 if the kernel sent it or the sender is outside.
    pub sender: u32,
}

/// All signals, blocked and read from one file descriptor (`signalfd(2)`).
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    inherited: Inherited,
}

impl Signals {
    /// Blocks every signal and opens the descriptor. SIGCHLD gets its default action: if it stayed ignored, as some
    /// parents leave it, the kernel would reap the app and `waitpid` would never return its exit code. Hardware faults
    /// still kill us, because the kernel does not let them be blocked.
    ///
    /// # Errors
    /// Those of `rt_sigprocmask(2)` and `signalfd(2)`; EMFILE is the likely one.
    pub fn block() -> io::Result<Self> {
        set_mask(Mask::ALL)?;
        let sigchld_ignored = is_ignored(libc::SIGCHLD);
        if sigchld_ignored {
            set_ignored(libc::SIGCHLD, false);
        }
        let inherited = Inherited {
            mask: Mask(MASK_AT_START.load(Ordering::Relaxed)),
            sigpipe_ignored: SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed),
            sigchld_ignored,
        };
        let all = Mask::ALL.0;
        // SAFETY: -1 asks for a new descriptor; the set is 8 bytes, as the size says, and lives through the call.
        let fd =
            unsafe { libc::syscall(libc::SYS_signalfd4, -1, &all, MASK_SIZE, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            let error = io::Error::last_os_error();
            inherited.restore();
            return Err(error);
        }
        // SAFETY: the kernel just gave this descriptor to us alone.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, inherited })
    }

    /// Whether `signal` was ignored when we started.
    pub fn was_ignored(&self, signal: i32) -> bool {
        match signal {
            libc::SIGPIPE => self.inherited.sigpipe_ignored,
            libc::SIGCHLD => self.inherited.sigchld_ignored,
            other => is_ignored(other),
        }
    }

    /// The signal state to restore in the app.
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// The next pending signal; `None` if there is none or the read failed.
    pub fn next(&self) -> Option<Received> {
        // SAFETY: all-zero is a valid signalfd_siginfo: it is plain integers.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let size = mem::size_of_val(&info);
        // SAFETY: the buffer is exactly one siginfo and lives through the call.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), size) };
        if usize::try_from(read) != Ok(size) {
            return None;
        }
        Some(Received { signal: i32::try_from(info.ssi_signo).ok()?, sender: info.ssi_pid })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// True while `signal` is pending for this process (`rt_sigpending(2)`).
fn is_pending(signal: i32) -> bool {
    let mut set = 0_u64;
    // SAFETY: the set is 8 bytes, as the size says, and lives through the call.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigpending, &mut set, MASK_SIZE) };
    done == 0 && u32::try_from(signal - 1).is_ok_and(|bit| set.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

/// Stops this process until CONT arrives. STOP would discard a CONT that is already pending, so STOP is not sent then.
/// A CONT that arrives between the check and the STOP is lost: the kernel drops a pending CONT when a stop is generated
/// (`prepare_signal`, kernel/signal.c), and no system call does both in one step.
pub fn suspend() {
    if !is_pending(libc::SIGCONT) {
        let _ = super::process::send(super::process::pid(), libc::SIGSTOP);
    }
}

/// Whether the default action of `signal` terminates a program (`signal(7)`), rather than stopping it or doing nothing.
pub fn ends_by_default(signal: i32) -> bool {
    !matches!(
        signal,
        libc::SIGCHLD
            | libc::SIGCONT
            | libc::SIGURG
            | libc::SIGWINCH
            | libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
    )
}

/// `SIGRTMIN` as Docker, Podman and systemd count it. glibc's run-time value is the same. musl's is 35, but the meaning
/// of an image's STOPSIGNAL must not depend on the libc of its init.
pub const RTMIN: i32 = 34;
pub const RTMAX: i32 = 64;

/// The usual name of a signal: `SIGTERM`, `SIGRTMIN+3`; `signal N` for the two that C libraries reserve.
pub fn name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => known.to_string(),
        Err(_) if signal == RTMIN => "SIGRTMIN".to_owned(),
        Err(_) if (RTMIN..=RTMAX).contains(&signal) => format!("SIGRTMIN+{}", signal - RTMIN),
        Err(_) => format!("signal {signal}"),
    }
}
