//! Owns file descriptors: which are inherited, closing them, waiting on several. Must not know what is behind one.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::poll::PollFd;
use nix::sys::time::TimeSpec;

use super::listing::Listing;

/// Opens the root directory on every standard descriptor that our parent left closed, so that none of our files gets
/// such a number. Rust's start-up code would open `/dev/null` there, which the app would inherit, and aborts if an
/// image has none. The root directory can be neither written nor read, and close-on-exec leaves the descriptor closed
/// for the app.
///
/// Runs from `.init_array`: system calls only.
pub fn fill_standard() {
    for fd in 0..=2 {
        if !is_open(fd) {
            // SAFETY: a constant string. The lowest free number is `fd`, because those below it are open; it is never
            // closed.
            unsafe { libc::open(c"/".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) };
        }
    }
}

/// Closes every inherited descriptor from 3 up, so that reberth keeps no file, pipe or socket of its parent open.
///
/// A descriptor is inherited if it lacks close-on-exec: one that has it does not survive an exec, and all of ours have
/// it. `ours` lists every descriptor of our own, or is `None` if there are too many to list. One call closes everything
/// above the highest of them (`close_range(2)`, Linux 5.9). Without that call, the descriptors come from /proc, and
/// without /proc they are the first 1024.
pub fn close_inherited(ours: Option<&[BorrowedFd<'_>]>) {
    let Some(ours) = ours else {
        return close_each(open_descriptors().unwrap_or_else(|| (3..1024).collect()));
    };
    let above = ours.iter().map(AsRawFd::as_raw_fd).fold(2, RawFd::max) + 1;
    debug_assert!(
        open_descriptors().is_none_or(|all| all.iter().all(|fd| *fd < above || is_inherited(*fd) || !is_open(*fd))),
        "a descriptor of our own lies above {above}"
    );
    // SAFETY: integers only; no object of ours owns a descriptor above that number.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, above, libc::c_uint::MAX, 0) } == 0;
    let looked_at = if closed { None } else { Some(open_descriptors().unwrap_or_else(|| (3..1024).collect())) };
    close_each(looked_at.unwrap_or_else(|| (3..above).collect()));
}

/// Closes every descriptor from 3 up except `kept`. For a child that runs without an exec and never drops its copies of
/// our objects.
#[cfg(feature = "register")]
pub fn close_all_but(kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut first = 3;
    for next in kept.iter().copied().filter(|fd| *fd > 2).chain([RawFd::MAX]) {
        // SAFETY: integers only; nothing uses a descriptor that is closed here.
        let closed = first >= next || unsafe { libc::syscall(libc::SYS_close_range, first, next - 1, 0) } == 0;
        if !closed {
            let all = open_descriptors().unwrap_or_else(|| (3..1024).collect());
            for fd in all.into_iter().filter(|fd| (first..next).contains(fd)) {
                // SAFETY: as above.
                unsafe { libc::close(fd) };
            }
        }
        first = next.saturating_add(1);
    }
}

/// Closes those of `all` that were inherited.
fn close_each(all: Vec<RawFd>) {
    for fd in all {
        if fd > 2 && is_inherited(fd) {
            // SAFETY: no object of ours owns a descriptor without close-on-exec, so none is left dangling.
            unsafe { libc::close(fd) };
        }
    }
}

/// What /proc/self/fd lists, which includes at least the descriptor used for reading it.
fn open_descriptors() -> Option<Vec<RawFd>> {
    let listed: Vec<RawFd> = Listing::own().ok()?.descriptors().collect();
    (!listed.is_empty()).then_some(listed)
}

/// The descriptor's flags (`fcntl(2)`, F_GETFD); negative if it is not open.
fn flags(fd: RawFd) -> libc::c_int {
    // SAFETY: F_GETFD takes no pointer; a closed descriptor gives EBADF.
    unsafe { libc::fcntl(fd, libc::F_GETFD) }
}

fn is_open(fd: RawFd) -> bool {
    flags(fd) >= 0
}

/// True if `fd` is open and would survive an exec.
pub fn is_inherited(fd: RawFd) -> bool {
    is_open(fd) && flags(fd) & libc::FD_CLOEXEC == 0
}

/// Duplicates `fd` to a close-on-exec descriptor numbered `from` or higher.
///
/// # Errors
/// EBADF, EMFILE (`fcntl(2)`, F_DUPFD_CLOEXEC).
pub fn duplicate_from(fd: RawFd, from: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer and returns a new descriptor.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, from) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The number that the next descriptor of this process will get.
///
/// # Errors
/// EMFILE: no number is free.
pub fn lowest_free() -> io::Result<RawFd> {
    // Any open descriptor will do, and the standard ones are always open (see `fill_standard`).
    Ok(duplicate_from(2, 0)?.as_raw_fd())
}

/// Sleeps until one of `fds` is readable or `deadline` passes (`ppoll(2)`, nanoseconds), and returns for each
/// descriptor whether it is readable. An interruption counts as a wake-up: every caller loops.
///
/// ppoll refuses more descriptors than RLIMIT_NOFILE allows, and another process may lower that limit later
/// (`prlimit(2)`). PID 1 would then spin, so the fallback is `pselect(2)`, which ignores the limit.
pub fn wait_readable(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> Vec<bool> {
    let left = deadline.map(|at| TimeSpec::from_duration(at.saturating_duration_since(Instant::now()).min(LONGEST)));
    match nix::poll::ppoll(fds, left, None) {
        Ok(_) => fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect(),
        Err(nix::Error::EINTR) => vec![false; fds.len()],
        Err(_) => select_readable(fds, left),
    }
}

/// Whether `fd` is readable now.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    wait_readable(&mut [PollFd::new(fd, nix::poll::PollFlags::POLLIN)], Some(Instant::now())).contains(&true)
}

fn select_readable(fds: &[PollFd<'_>], left: Option<TimeSpec>) -> Vec<bool> {
    let numbers = || fds.iter().map(|fd| fd.as_fd().as_raw_fd().cast_unsigned() as usize);
    let last = numbers().max().unwrap_or(0);
    // Not the C library's fd_set, which ends at 1024: a process that inherited many descriptors has larger numbers, and
    // the kernel accepts a set of any size.
    let mut set = vec![0_u64; last / 64 + 1];
    for fd in numbers() {
        if let Some(word) = set.get_mut(fd / 64) {
            *word |= 1 << (fd % 64);
        }
    }
    // One second at most, in case a kernel does not honour the timeout: one wake-up per second is not a busy loop.
    let second = TimeSpec::from_duration(Duration::from_secs(1));
    let mut left = *left.map_or(second, |left| left.min(second)).as_ref();
    let nothing = std::ptr::null_mut::<u8>();
    // SAFETY: the set has room for `last`. The set and the timeout, which the kernel may write to, outlive the call;
    // the other sets and the mask are null.
    let ready = unsafe {
        libc::syscall(libc::SYS_pselect6, last + 1, set.as_mut_ptr(), nothing, nothing, &raw mut left, nothing)
    };
    if ready < 0 && nix::Error::last() != nix::Error::EINTR {
        // Neither call works here. This delay, which no signal interrupts, keeps the caller from spinning.
        // SAFETY: the duration outlives the call; the remaining time is not requested.
        unsafe { libc::nanosleep(TimeSpec::from_duration(Duration::from_millis(50)).as_ref(), std::ptr::null_mut()) };
    }
    let is_set = |fd: usize| ready > 0 && set.get(fd / 64).is_some_and(|word| word >> (fd % 64) & 1 == 1);
    numbers().map(is_set).collect()
}

/// A timeout that every kernel accepts. Longer ones are slept in parts, because all callers loop.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A pipe, both ends close-on-exec: (reader, writer).
///
/// # Errors
/// EMFILE, ENFILE.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// The inode of the open descriptor with this number.
pub fn inode_at(fd: RawFd) -> Option<u64> {
    // SAFETY: borrowed for the one call; a number that is not open gives EBADF.
    nix::sys::stat::fstat(unsafe { BorrowedFd::borrow_raw(fd) }).ok().map(|stat| stat.st_ino)
}

/// The inode of `fd`: the number in `socket:[N]` and in the kernel's socket tables.
pub fn inode(fd: &OwnedFd) -> Option<u64> {
    nix::sys::stat::fstat(fd).ok().map(|stat| stat.st_ino)
}
