//! Owns seccomp's user notifications of bind(2), listen(2), SO_ACCEPTCONN and IPV6_V6ONLY: the filter that a child puts on itself before its exec, and the
//! receiving, judging by facts and answering of what it then calls. Must not know which socket is given to whom, or why.
//!
//! The calls: `seccomp(2)` (NEW_LISTENER: Linux 5.0; SPEC_ALLOW: 4.17), `seccomp_unotify(2)` (ADDFD: 5.9), `process_vm_readv(2)`,
//! `pidfd_getfd(2)` (5.6). Constants and structures: include/uapi/linux/seccomp.h.
//!
//! Everything read of the caller may be stale: it may have been killed, and its number given away. So [`Listener::is_valid`] is asked after
//! the reading and before anything that cannot be taken back.
//!
//! A signal that the program catches takes a call away that waits. It comes again under another id where the handler has SA_RESTART, and
//! by the program's own will elsewhere. It may come again *after* it was answered, too: the kernel forgets an answer that meets a signal on
//! its way (`seccomp_do_user_notification` of kernel/seccomp.c), and says nothing of that. So a call is heard more often than it is made, and
//! a bind may come with a socket that is ours already, by its inode; let through, it would bind a bound socket (EINVAL).
//!
//! When the listener is closed, calls that wait or come later get ENOSYS. A program cannot have a listener of its own beside ours: its
//! `seccomp(2)` says EBUSY.
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

/// What a caller wants, as it was given: nothing of it is checked but what the filter looks at. Pointers are of the caller's own memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `length`: 16 to 128 bytes. Of an IPv4 or IPv6 address, or of any other that is as long.
    Bind {
        fd: RawFd,
        address: u64,
        length: usize,
    },
    Listen {
        fd: RawFd,
    },
    /// getsockopt(2) of SO_ACCEPTCONN: does it listen already?
    Listening {
        fd: RawFd,
    },
    /// `value`: where the int is. The kernel may still refuse it, so it is let through.
    V6Only {
        fd: RawFd,
        value: u64,
    },
}

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Names the call while it waits; never used twice by one listener.
    pub id: u64,
    /// The calling thread, in our PID namespace; 0 where it cannot be seen from here.
    pub tid: i32,
    pub call: Call,
}

/// What a listener has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    Call,
    None,
    /// Nobody is left who has the filter; poll(2) says so from now on, for ever. Before Linux 6.11 who has ended counts until it is reaped.
    Over,
}

/// Bytes for any structure of the kernel's notifications; `install` refuses a kernel with larger ones.
const MOST_BYTES: usize = 512;

/// One of these structures, which the kernel may lengthen: zeroes, and the part that is known here at the start.
#[repr(C, align(8))]
struct Buffer([u8; MOST_BYTES]);

/// The supervisor's end of the filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes over the listener that a child's [`install`] has left in our table under this number. `None`: what is there is none.
    pub(in crate::sys) fn adopt(number: RawFd) -> Option<Self> {
        // SAFETY: only `install` opens listeners, and the child has told nobody else of this one.
        is_listener(number).then(|| Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// Whether a call waits. [`Listener::receive`] would sleep where none does.
    pub fn pending(&self) -> Pending {
        let mut one = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, as is said, which outlives the call; no time is waited.
        let ready = unsafe { libc::poll(&raw mut one, 1, 0) };
        match (ready, one.revents) {
            (1.., events) if events & libc::POLLIN != 0 => Pending::Call,
            (1.., _) => Pending::Over,
            // With a limit on open files of nothing poll(2) refuses even the one (`descriptor::wait_readable` has the same care).
            (ready, _) if ready < 0 && super::descriptor::is_readable(self.0.as_fd()) => Pending::Call,
            _ => Pending::None,
        }
    }

    /// The next call that waits. To be called when poll(2) says that there is one; `None`: it is gone again, as when its program was
    /// killed or a signal interrupted it.
    ///
    /// # Errors
    /// The listener is of no use any more.
    pub fn receive(&self) -> io::Result<Option<Asked>> {
        // The kernel wants it zeroed.
        let mut buffer = Buffer([0; MOST_BYTES]);
        match self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, buffer.0.as_mut_ptr()) {
            Ok(()) => {}
            Err(Errno::ENOENT | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // SAFETY: the kernel has written a `struct seccomp_notif`, all of it integers; the buffer is larger, and aligned for it.
        let got = unsafe { buffer.0.as_ptr().cast::<seccomp_notif>().read() };
        let asked = decode(&got);
        if asked.is_none() {
            // No call that the filter asks about.
            self.let_through(got.id);
        }
        Ok(asked)
    }

    /// True while the call waits: what was read of its program before this was asked is of that program.
    pub fn is_valid(&self, id: u64) -> bool {
        let mut id = id;
        self.control(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw mut id).cast()).is_ok()
    }

    /// Puts a copy of `ours` in the place of the caller's descriptor `number`. With a number of its own it can be repeated: the same call may
    /// come again after a signal, and there is one socket in its place and not two.
    ///
    /// # Errors
    /// ENOENT: the call waits no more. EBADF: the number is beyond the caller's limit of descriptors. EBUSY: another thread of it is just
    /// opening this number. EACCES: a security module.
    pub fn put(&self, id: u64, ours: BorrowedFd<'_>, number: RawFd, cloexec: bool) -> io::Result<()> {
        let place = |fd: RawFd| u32::try_from(fd).map_err(|_| io::Error::from(Errno::EBADF));
        let request = seccomp_notif_addfd {
            id,
            // Not with SECCOMP_ADDFD_FLAG_SEND (5.14): that answers the call with the descriptor's number, and bind(2) returns 0.
            flags: SETFD,
            srcfd: place(ours.as_raw_fd())?,
            newfd: place(number)?,
            newfd_flags: if cloexec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        match again(|| add(self.0.as_raw_fd(), request)) {
            Ok(()) => Ok(()),
            // The caller left while it was to take the socket.
            Err(Errno::ESRCH) => Err(Errno::ENOENT.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers the call in the kernel's place: 0 is success, anything else the errno it fails with. A call that waits no more needs none.
    pub fn answer(&self, id: u64, errno: i32) {
        self.send(seccomp_notif_resp { id, val: 0, error: errno.wrapping_neg(), flags: 0 });
    }

    /// Lets the kernel do the call as if nobody had heard of it.
    pub fn let_through(&self, id: u64) {
        let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or_default();
        self.send(seccomp_notif_resp { id, val: 0, error: 0, flags });
    }

    fn send(&self, response: seccomp_notif_resp) {
        let mut buffer = Buffer([0; MOST_BYTES]);
        // SAFETY: the buffer is larger than the structure, aligned for it, and ours.
        unsafe { buffer.0.as_mut_ptr().cast::<seccomp_notif_resp>().write(response) };
        let _ = again(|| self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, buffer.0.as_mut_ptr()));
    }

    /// One of the requests of `seccomp_unotify(2)`; `argument` is what that one wants, and outlives the call.
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

/// Until no signal interrupts it.
fn again(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
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
    // SAFETY: the structure is the request's own and outlives the call, which reads it.
    Errno::result(unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) }).map(drop)
}

/// Whether this kernel can put a descriptor into another program (Linux 5.9). Asked of a call that does not exist: only a kernel that
/// knows the request looks for it. Async-signal-safe.
fn supports_put(listener: RawFd) -> bool {
    let nobody = seccomp_notif_addfd { id: 0, flags: SETFD, srcfd: listener.cast_unsigned(), newfd: 0, newfd_flags: 0 };
    add(listener, nobody) == Err(Errno::ENOENT)
}

/// Whether the descriptor with this number is a listener: no other knows the request, and no listener the id.
fn is_listener(number: RawFd) -> bool {
    let mut id = 0_u64;
    // SAFETY: the request reads 8 bytes, which outlive it; whatever else has the number refuses it.
    let asked = unsafe { libc::ioctl(number, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw mut id) };
    Errno::result(asked) == Err(Errno::ENOENT)
}

/// `None`: no call that the filter asks about.
fn decode(got: &seccomp_notif) -> Option<Asked> {
    let [first, second, third, fourth, ..] = got.data.args;
    // The kernel takes the low half for an int, whatever stands in the register's high one.
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

/// Whether O_NONBLOCK is set on the open file behind `fd`.
pub fn is_nonblocking(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: integers only.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// Sets or clears O_NONBLOCK on the open file behind `fd`, which all that share it see.
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
