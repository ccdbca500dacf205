//! Owns signals: what was inherited, the block, and the one descriptor they are read from. Must not know what a signal means to the app.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

/// A set of signals as the kernel sees it: bit n-1 is signal n, 1 to 64 (`sigprocmask(2)`).
///
/// The C library's `sigset_t` functions are not used: musl's leave out signals 32 to 34, which then could neither be blocked nor forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask(pub u64);

impl Mask {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u64::MAX);
}

/// Bytes in the kernel's signal set.
const MASK_SIZE: usize = mem::size_of::<u64>();

/// What is changed before `main` runs, or may be later, seen by [`save_originals`] before that.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);
static MASK_AT_START: AtomicU64 = AtomicU64::new(0);
static PARENT_AT_START: AtomicI32 = AtomicI32::new(0);

/// Runs from `.init_array`, before the Rust runtime sets SIGPIPE to ignored and installs its first handler, at which musl unblocks
/// 33 and 34 for itself: afterwards nobody can tell what the app would have got.
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

// SAFETY: `.init_array` holds pointers to functions that the C start-up code calls once, before `main`; this one only asks the kernel
// and stores atomics, so it needs nothing that is not set up yet.
#[used]
#[unsafe(link_section = ".init_array")]
static SAVE_ORIGINALS: extern "C" fn() = save_originals;

/// Who our parent was when we began; 0 where it is in another PID namespace.
pub(super) fn parent_at_start() -> i32 {
    PARENT_AT_START.load(Ordering::Relaxed)
}

/// Asks for `signal` when our parent dies (`PR_SET_PDEATHSIG`). One that has died since our start sends nothing any more: what it would have
/// sent is due now.
///
/// # Errors
/// EINVAL for a number that is no signal.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if super::process::parent() == parent_at_start() { Ok(()) } else { send_from_nobody(signal) }
}

/// Sends ourselves a signal that names no sender: one of our own making would be taken for a write of ours that failed.
fn send_from_nobody(signal: i32) -> io::Result<()> {
    // SAFETY: all-zero is a valid siginfo_t, and says pid 0.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    (info.si_signo, info.si_code) = (signal, libc::SI_QUEUE);
    // SAFETY: `info` outlives the call, which only reads it.
    let sent = unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, super::process::pid(), signal, &raw const info) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// True if `signal` is ignored in this process (`sigaction(2)`); false where the kernel does not say.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is a valid value to be overwritten.
    let mut now: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: a null new action only queries; `now` is writable and lives through the call.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut now) };
    asked == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// Sets `signal` to ignored or to its default action. Async-signal-safe.
pub fn set_ignored(signal: i32, ignored: bool) {
    let action = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: SIG_IGN and SIG_DFL are valid for every signal but KILL and STOP, for which the call fails harmlessly.
    unsafe { libc::signal(signal, action) };
}

/// What reberth was started with, and what the app must therefore be started with.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    mask: Mask,
    sigpipe_ignored: bool,
    sigchld_ignored: bool,
}

impl Inherited {
    /// Gives the calling process the original dispositions and then the original mask. Async-signal-safe: for the child, before exec.
    pub fn restore(&self) {
        set_ignored(libc::SIGPIPE, self.sigpipe_ignored);
        set_ignored(libc::SIGCHLD, self.sigchld_ignored);
        // The mask comes last: a pending signal must meet the original disposition.
        let _ = set_mask(self.mask);
    }
}

/// Replaces the signal mask (`rt_sigprocmask(2)`). Async-signal-safe.
fn set_mask(mask: Mask) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<u64>();
    // SAFETY: the new set is 8 bytes, as the size argument says, and lives through the call; the old one is not asked for.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &mask.0, nothing, MASK_SIZE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Unblocks everything and lets every signal act by default again: for a child of ours that is to die like any other program. SIGPIPE
/// stays ignored: a peer that closes early is an answer to tell, not an end without a word.
pub fn set_plain() {
    set_ignored(libc::SIGPIPE, true);
    let _ = set_mask(Mask::NONE);
}

/// Lets every signal that would end another program end this one too where it is PID 1, for which the kernel has no default actions: TERM,
/// and whatever else an image names as its STOPSIGNAL. For commands that wait and look after nobody; their code is then 1. What is ignored
/// stays so, and a fault of our own is the kernel's to end.
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
        // The kernel's own structure (handler, flags, restorer, mask), since the C libraries keep 32 to 34 for themselves. The restorer is
        // never returned to, but x86-64 does not call a handler without one.
        let leave = leave as *const () as usize;
        let action: [usize; 4] = [leave, SA_RESTORER, leave, 0];
        let nothing = std::ptr::null_mut::<u8>();
        // SAFETY: the structure is the kernel's on both of our machines, 64 bits a field, and outlives the call; the handler only calls
        // `_exit`. KILL and STOP are refused, harmlessly.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), nothing, MASK_SIZE) };
    }
}

/// `arch/x86/include/uapi/asm/signal.h`, and the same on arm64.
const SA_RESTORER: usize = 0x0400_0000;

/// Ignores SIGPIPE and blocks every signal again, as before [`Inherited::restore`].
pub(super) fn set_alone() {
    set_ignored(libc::SIGPIPE, true);
    let _ = set_mask(Mask::ALL);
}

/// One signal, as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Signal number, 1 to 64.
    pub signal: i32,
    /// Pid of the sender in our PID namespace; 0 for the kernel or a sender outside.
    pub sender: u32,
}

/// All signals, blocked and readable from one descriptor (`signalfd(2)`).
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    inherited: Inherited,
}

impl Signals {
    /// Blocks every signal and opens the descriptor. SIGCHLD goes back to its default action: ignored, as some starters leave it, the
    /// kernel would reap the app and `waitpid` would never see its code. A hardware fault of our own still kills: the kernel does not
    /// let those be blocked.
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

    /// Whether `signal` was ignored by whoever started us.
    pub fn was_ignored(&self, signal: i32) -> bool {
        match signal {
            libc::SIGPIPE => self.inherited.sigpipe_ignored,
            libc::SIGCHLD => self.inherited.sigchld_ignored,
            other => is_ignored(other),
        }
    }

    /// What the app must be given back.
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// The next pending signal; `None` when there is none, or when the kernel would not say.
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

/// Stops this process until somebody continues it. A CONT that has come already is pending in our blocked set: a STOP would discard it.
/// One that comes between the look and the STOP is lost all the same: the kernel drops a pending CONT when a stop is generated
/// (`prepare_signal`, kernel/signal.c), and no call tests the one and does the other. Nothing comes between them here.
pub fn suspend() {
    if !is_pending(libc::SIGCONT) {
        let _ = super::process::send(super::process::pid(), libc::SIGSTOP);
    }
}

/// Whether the default action of `signal` ends a program (`signal(7)`): all but those that stop it and those that do nothing.
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

/// `SIGRTMIN` as Docker, Podman and systemd count it. glibc's run-time value is the same; musl's is 35, but an image must not change
/// its meaning with the libc of its init.
pub const RTMIN: i32 = 34;
pub const RTMAX: i32 = 64;

/// The usual name of a signal: `SIGTERM`, `SIGRTMIN+3`; `signal N` for the two that C libraries keep for themselves.
pub fn name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => known.to_string(),
        Err(_) if signal == RTMIN => "SIGRTMIN".to_owned(),
        Err(_) if (RTMIN..=RTMAX).contains(&signal) => format!("SIGRTMIN+{}", signal - RTMIN),
        Err(_) => format!("signal {signal}"),
    }
}
