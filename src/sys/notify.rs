//! Owns seccomp user notifications for bind(2), listen(2), SO_ACCEPTCONN and IPV6_V6ONLY: the filter that a child
//! installs before its exec, and receiving, checking and answering its calls afterwards. Must not know which socket a
//! caller gets, or why.
//!
//! The calls: `seccomp(2)` (NEW_LISTENER: Linux 5.0; SPEC_ALLOW: 4.17), `seccomp_unotify(2)` (ADDFD: 5.9),
//! `process_vm_readv(2)`, `pidfd_getfd(2)` (5.6). Constants and structures: include/uapi/linux/seccomp.h.
//!
//! Everything read from the caller may be stale: it may have been killed and its pid reused. So call
//! [`Listener::is_valid`] after reading and before any irreversible step.
//!
//! A signal that the program catches interrupts a pending call. The call is repeated with another id, by the kernel if
//! the handler has SA_RESTART, otherwise if the program retries. It may be repeated even *after* an answer: the kernel
//! drops an answer that coincides with a signal (`seccomp_do_user_notification` in kernel/seccomp.c) and does not
//! report that. So more calls are received than made, and a bind may arrive for a socket that is already ours, by its
//! inode; continued, it would bind a bound socket (EINVAL).
//!
//! Once the listener is closed, pending and later calls fail with ENOSYS. A program cannot have another listener beside
//! ours: its `seccomp(2)` fails with EBUSY.
#![allow(unsafe_code)]

mod address;
mod caller;
pub(in crate::sys) mod filter;
mod options;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{seccomp_notif, seccomp_notif_addfd, seccomp_notif_resp};
use nix::errno::Errno;

pub use address::parse_address;
#[cfg(any(test, fuzzing))]
pub(crate) use caller::parse_flags;
pub use caller::{Kind, Socket, can_copy, copy_of, inode_of, is_elsewhere, read_memory, socket_of};
pub use options::{carry_over, v6_only};

/// What a caller requests. Only what the filter tests has been checked; pointers are addresses in the caller's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `length`: 16 to 128 bytes, of an IPv4 or IPv6 address or of any other family's that is as long.
    Bind {
        fd: RawFd,
        address: u64,
        length: usize,
    },
    Listen {
        fd: RawFd,
    },
    /// getsockopt(2) of SO_ACCEPTCONN: whether the socket listens already.
    Listening {
        fd: RawFd,
    },
    /// `value`: the address of the int. The kernel may still refuse the call, so it is continued.
    V6Only {
        fd: RawFd,
        value: u64,
    },
}

/// A call that is pending until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Identifies the call while it is pending; a listener never reuses one.
    pub id: u64,
    /// The calling thread, in our PID namespace; 0 if it is not visible from here.
    pub tid: i32,
    pub call: Call,
}

/// The state of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    Call,
    None,
    /// No process has the filter any more; poll(2) reports this permanently. Before Linux 6.11, a process counts until
    /// it is reaped.
    Over,
}

/// Room for any structure of the kernel's notifications; `install` refuses a kernel with larger ones.
const MAX_BYTES: usize = 512;

/// One of these structures, which the kernel may extend: zeroed, with the part known here at the start.
#[repr(C, align(8))]
struct Buffer([u8; MAX_BYTES]);

/// The supervisor's end of the filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes ownership of the listener that a child's [`install`] left under this number in our descriptor table.
    /// `None`: that descriptor is not a listener.
    pub(in crate::sys) fn adopt(number: RawFd) -> Option<Self> {
        // SAFETY: only `install` opens listeners, and nothing but the child knows of this one.
        is_listener(number).then(|| Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// Whether a call is pending. If none is, [`Listener::receive`] blocks.
    pub fn pending(&self) -> Pending {
        let mut one = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, as the count says, which outlives the call; the timeout is 0.
        let ready = unsafe { libc::poll(&raw mut one, 1, 0) };
        match (ready, one.revents) {
            (1.., events) if events & libc::POLLIN != 0 => Pending::Call,
            (1.., _) => Pending::Over,
            // If RLIMIT_NOFILE is 0, poll(2) refuses even one descriptor (`descriptor::wait_readable` handles the same
            // case).
            (ready, _) if ready < 0 && super::descriptor::is_readable(self.0.as_fd()) => Pending::Call,
            _ => Pending::None,
        }
    }

    /// The next pending call. Call this when poll(2) reports one; `None`: it is gone again, because its process was
    /// killed or interrupted by a signal.
    ///
    /// # Errors
    /// The listener is unusable from now on.
    pub fn receive(&self) -> io::Result<Option<Asked>> {
        // The kernel requires zeroes.
        let mut buffer = Buffer([0; MAX_BYTES]);
        match self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, buffer.0.as_mut_ptr()) {
            Ok(()) => {}
            Err(Errno::ENOENT | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // SAFETY: the kernel has written a `struct seccomp_notif` of plain integers; the buffer is larger, and aligned
        // for it.
        let got = unsafe { buffer.0.as_ptr().cast::<seccomp_notif>().read() };
        let asked = decode(&got);
        if asked.is_none() {
            // A call that the filter does not notify about.
            self.let_through(got.id);
        }
        Ok(asked)
    }

    /// True while the call is pending: everything read from the caller before this check belongs to that caller.
    pub fn is_valid(&self, id: u64) -> bool {
        let mut id = id;
        self.control(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw mut id).cast()).is_ok()
    }

    /// Replaces the caller's descriptor `number` with a copy of `ours`. Because the number is fixed, this can be
    /// repeated: if the same call arrives again after a signal, the caller still has one socket there, not two.
    ///
    /// # Errors
    /// ENOENT: the call is no longer pending. EBADF: the number exceeds the caller's descriptor limit. EBUSY: another
    /// thread of the caller is opening this number. EACCES: a security module.
    pub fn put(&self, id: u64, ours: BorrowedFd<'_>, number: RawFd, cloexec: bool) -> io::Result<()> {
        let place = |fd: RawFd| u32::try_from(fd).map_err(|_| io::Error::from(Errno::EBADF));
        let request = seccomp_notif_addfd {
            id,
            // Not with SECCOMP_ADDFD_FLAG_SEND (5.14): that answers the call with the descriptor's number, but bind(2)
            // must return 0.
            flags: SETFD,
            srcfd: place(ours.as_raw_fd())?,
            newfd: place(number)?,
            newfd_flags: if cloexec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        match retry_interrupted(|| add(self.0.as_raw_fd(), request)) {
            Ok(()) => Ok(()),
            // The caller exited before it received the socket.
            Err(Errno::ESRCH) => Err(Errno::ENOENT.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers the call in the kernel's place: 0 is success, anything else the errno. If the call is no longer pending,
    /// nothing happens.
    pub fn answer(&self, id: u64, errno: i32) {
        self.send(seccomp_notif_resp { id, val: 0, error: errno.wrapping_neg(), flags: 0 });
    }

    /// Continues the call: the kernel executes it unchanged.
    pub fn let_through(&self, id: u64) {
        let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or_default();
        self.send(seccomp_notif_resp { id, val: 0, error: 0, flags });
    }

    fn send(&self, response: seccomp_notif_resp) {
        let mut buffer = Buffer([0; MAX_BYTES]);
        // SAFETY: the buffer is larger than the structure, aligned for it, and ours.
        unsafe { buffer.0.as_mut_ptr().cast::<seccomp_notif_resp>().write(response) };
        let _ = retry_interrupted(|| self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, buffer.0.as_mut_ptr()));
    }

    /// One of the requests of `seccomp_unotify(2)`; `argument` is that request's structure, and outlives the call.
    fn control(&self, request: libc::Ioctl, argument: *mut u8) -> Result<(), Errno> {
        // SAFETY: every caller in this file passes the structure of its request, or a larger one, aligned and writable.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) }).map(drop)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Repeats `call` while signals interrupt it.
fn retry_interrupted(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

const SETFD: u32 = 1;
const _: () = assert!(SETFD as libc::c_ulong == libc::SECCOMP_ADDFD_FLAG_SETFD);

/// Async-signal-safe.
fn add(listener: RawFd, request: seccomp_notif_addfd) -> Result<(), Errno> {
    // SAFETY: the structure is the one for this request and outlives the call, which reads it.
    Errno::result(unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) }).map(drop)
}

/// Whether this kernel can install a descriptor in another process (Linux 5.9). Requests it for a call that does not
/// exist: only a kernel that knows the request looks for the call. Async-signal-safe.
fn supports_put(listener: RawFd) -> bool {
    let nobody = seccomp_notif_addfd { id: 0, flags: SETFD, srcfd: listener.cast_unsigned(), newfd: 0, newfd_flags: 0 };
    add(listener, nobody) == Err(Errno::ENOENT)
}

/// Whether the descriptor is a listener: only a listener knows the request, and none has a call with this id.
fn is_listener(number: RawFd) -> bool {
    let mut id = 0_u64;
    // SAFETY: the request reads 8 bytes, which outlive it; any other kind of descriptor refuses it.
    let asked = unsafe { libc::ioctl(number, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw mut id) };
    Errno::result(asked) == Err(Errno::ENOENT)
}

/// `None`: a call that the filter does not notify about.
fn decode(got: &seccomp_notif) -> Option<Asked> {
    let [first, second, third, fourth, ..] = got.data.args;
    // The kernel uses the low half as an int, whatever the high half of the register holds.
    let low = |argument: u64| u32::try_from(argument & u64::from(u32::MAX)).unwrap_or_default();
    let fd = low(first).cast_signed();
    let call = match i64::from(got.data.nr) {
        libc::SYS_bind => Call::Bind { fd, address: second, length: usize::try_from(low(third)).ok()? },
        libc::SYS_listen => Call::Listen { fd },
        libc::SYS_getsockopt => Call::Listening { fd },
        libc::SYS_setsockopt => Call::V6Only { fd, value: fourth },
        _ => return None,
    };
    Some(Asked { id: got.id, tid: i32::try_from(got.pid).ok()?, call })
}

/// Whether O_NONBLOCK is set on the open file description behind `fd`.
pub fn is_nonblocking(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: integers only.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// Sets or clears O_NONBLOCK on the open file description behind `fd`, for all descriptors that share it.
pub fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) {
    // SAFETY: integers only.
    unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        let wanted = if nonblocking { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        if flags >= 0 && flags != wanted {
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted);
        }
    }
}
