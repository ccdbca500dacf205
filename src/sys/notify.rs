//! Owns seccomp's user notifications of bind(2), listen(2) and IPV6_V6ONLY: the filter that a child puts on itself before its exec, and the
//! receiving, judging by facts and answering of what it then calls. Must not know which socket is given to whom, or why.
//!
//! The calls: `seccomp(2)` (NEW_LISTENER: Linux 5.0; SPEC_ALLOW: 4.17), `seccomp_unotify(2)` (ADDFD: 5.9), `process_vm_readv(2)`,
//! `pidfd_getfd(2)` (5.6). Constants and structures: include/uapi/linux/seccomp.h.
//!
//! Everything read of the caller may be stale: it may have been killed, and its number given away. So [`Listener::is_valid`] is asked after
//! the reading and before anything that cannot be taken back.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::process::last_errno;

mod options;

pub use options::{carry_over, v6_only};

/// What a caller wants. Pointers are of its own memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Bind { fd: RawFd, address: u64, length: usize },
    Listen { fd: RawFd },
    V6Only { fd: RawFd, value: u64 },
}

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Names the call while it waits.
    pub id: u64,
    /// The calling thread, in our PID namespace.
    pub tid: i32,
    pub call: Call,
}

/// What a listener has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    Call,
    None,
    /// Nobody is left who has the filter.
    Over,
}

/// The supervisor's end of the filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    instruction_pointer: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

/// `_IOWR('!', 0, struct seccomp_notif)` and its three siblings.
const RECV: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const ID_VALID: u32 = 0x4008_2102;
const ADDFD: u32 = 0x4018_2103;
const CONTINUE: u32 = 1;
const ADDFD_SETFD: u32 = 1;

impl Listener {
    /// Takes over a descriptor that [`install`] has left in our table. `None` where there is none.
    pub(super) fn adopt(fd: RawFd) -> Option<Self> {
        // SAFETY: the child has made this descriptor in the table it shared with us, and told nobody else.
        (fd >= 0).then(|| Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn ioctl<T>(&self, request: u32, argument: &mut T) -> io::Result<()> {
        // SAFETY: every request above takes a pointer to the structure it is called with here, which outlives the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, ptr::from_mut(argument)) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether this kernel can put a descriptor into another program (Linux 5.9). Asked of a call that does not exist: only a kernel that
    /// knows the request looks for it.
    pub fn supports_put(&self) -> bool {
        let mut nobody =
            AddFd { id: u64::MAX, flags: 0, srcfd: self.0.as_raw_fd().unsigned_abs(), newfd: 0, newfd_flags: 0 };
        self.ioctl(ADDFD, &mut nobody).is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT))
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
        let mut got = Notification::default();
        match self.ioctl(RECV, &mut got) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let [fd, second, third, fourth, ..] = got.args;
        // The kernel takes the low half for a descriptor, whatever stands in the register's high one.
        let fd = (fd & u64::from(u32::MAX)) as RawFd;
        let call = match i64::from(got.nr) {
            libc::SYS_bind => {
                Call::Bind { fd, address: second, length: usize::try_from(third & u64::from(u32::MAX)).unwrap_or(0) }
            }
            libc::SYS_listen => Call::Listen { fd },
            _ => Call::V6Only { fd, value: fourth },
        };
        Ok(Some(Asked { id: got.id, tid: got.pid.cast_signed(), call }))
    }

    /// True while the call waits: what was read of its program before this was asked is of that program.
    pub fn is_valid(&self, id: u64) -> bool {
        let mut id = id;
        self.ioctl(ID_VALID, &mut id).is_ok()
    }

    /// Puts a copy of `ours` in the place of the caller's descriptor `number`. With a number of its own it can be repeated: the same call may
    /// come again after a signal, and there is one socket in its place and not two.
    ///
    /// # Errors
    /// ENOENT: the call waits no more. EBADF, EMFILE, EPERM.
    pub fn put(&self, id: u64, ours: BorrowedFd<'_>, number: RawFd, cloexec: bool) -> io::Result<()> {
        let newfd_flags = if cloexec { libc::O_CLOEXEC.unsigned_abs() } else { 0 };
        let srcfd = ours.as_raw_fd().unsigned_abs();
        // Not with ADDFD_FLAG_SEND (5.14): that answers the call with the descriptor's number, and bind(2) returns 0.
        let mut add = AddFd { id, flags: ADDFD_SETFD, srcfd, newfd: number.unsigned_abs(), newfd_flags };
        self.ioctl(ADDFD, &mut add)
    }

    /// Answers the call in the kernel's place: 0 is success, anything else the errno it fails with. A call that waits no more needs none.
    pub fn answer(&self, id: u64, errno: i32) {
        let _ = self.ioctl(SEND, &mut Response { id, val: 0, error: -errno, flags: 0 });
    }

    /// Lets the kernel do the call as if nobody had heard of it.
    pub fn let_through(&self, id: u64) {
        let _ = self.ioctl(SEND, &mut Response { id, val: 0, error: 0, flags: CONTINUE });
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
/// No other machine is known here; no call has this one, so the filter lets all of them through.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: u32 = 0;

/// Lengths of an address that are looked at: from `sockaddr_in` to `sockaddr_storage`, which some libraries pass whatever is in it. That lets
/// AF_UNIX in as well, and keeps netlink out.
const SHORTEST: u32 = 16;
const LONGEST: u32 = 128;

/// Classic BPF over `struct seccomp_data`: the number at 0, the architecture at 4, the low half of argument n at 16 + 8n (little-endian, as
/// both machines are). Whatever is not named is allowed, and the kernel keeps a bitmap of that (Linux 5.11), so it costs next to nothing.
/// x32's numbers have a bit of their own and match none of these.
static PROGRAM: [libc::sock_filter; 15] = {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const AT_LEAST: u16 = 0x35;
    const MORE: u16 = 0x25;
    const RETURN: u16 = 0x06;
    const fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf, k }
    }
    [
        op(LOAD, 0, 0, 4),
        op(EQUAL, 0, 12, ARCH),
        op(LOAD, 0, 0, 0),
        op(EQUAL, 9, 0, libc::SYS_listen as u32),
        op(EQUAL, 1, 0, libc::SYS_bind as u32),
        op(EQUAL, 3, 8, libc::SYS_setsockopt as u32),
        op(LOAD, 0, 0, 32),
        op(AT_LEAST, 0, 6, SHORTEST),
        op(MORE, 5, 4, LONGEST),
        op(LOAD, 0, 0, 24),
        op(EQUAL, 0, 3, libc::IPPROTO_IPV6 as u32),
        op(LOAD, 0, 0, 32),
        op(EQUAL, 0, 1, libc::IPV6_V6ONLY as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
};

/// What came of [`install`].
pub(super) struct Installed {
    pub listener: RawFd,
    /// The program has been given up the right to gain privileges by an exec, for good, since the kernel wanted that.
    pub no_new_privs: bool,
}

/// Puts the filter on the calling program. Async-signal-safe: for the child, before its exec.
///
/// Without CAP_SYS_ADMIN the kernel wants `no_new_privs` (EACCES); where the capability is there it is left off, since it outlives the exec.
/// No WAIT_KILLABLE_RECV (5.19): a signal handler of the program's is to run while its call waits.
///
/// # Errors
/// The errno: EBUSY (another listener is there already), EINVAL or ENOSYS (the kernel, gVisor), EPERM or EACCES (a seccomp profile).
pub(super) fn install() -> Result<Installed, i32> {
    let spec_allow = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let mut no_new_privs = false;
    let mut listener = filter(spec_allow);
    if listener == Err(libc::EACCES) {
        // SAFETY: integers only.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(last_errno());
        }
        no_new_privs = true;
        listener = filter(spec_allow);
    }
    if listener == Err(libc::EINVAL) {
        listener = filter(0);
    }
    listener.map(|listener| Installed { listener, no_new_privs })
}

fn filter(flags: libc::c_ulong) -> Result<RawFd, i32> {
    let length = PROGRAM.len() as u16;
    let program = libc::sock_fprog { len: length, filter: PROGRAM.as_ptr().cast_mut() };
    let flags = flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the kernel copies the program, which is only read; both outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if fd < 0 { Err(last_errno()) } else { Ok(fd as RawFd) }
}

/// Reads `into` from the memory of the thread `tid` at `at`; how many bytes there were. Needs no descriptor where the profile allows
/// `process_vm_readv(2)`; Docker's up to 20.10 does not, and there `/proc/TID/mem` is read.
///
/// # Errors
/// EPERM or EACCES: the program is another user's by now, or not dumpable. EFAULT: there is no such memory. EMFILE.
pub fn read_memory(tid: i32, at: u64, into: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: ptr::with_exposed_provenance_mut(at as usize), iov_len: into.len() };
    // SAFETY: the local part is `into`, writable and as long as is said; the remote one is the other program's affair and checked there.
    let read = unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) };
    if let Ok(read) = usize::try_from(read) {
        return Ok(read);
    }
    let refused = io::Error::last_os_error();
    if refused.raw_os_error() == Some(libc::EFAULT) {
        return Err(refused);
    }
    let file = std::fs::File::open(format!("/proc/{tid}/mem"))?;
    std::os::unix::fs::FileExt::read_at(&file, into, at)
}

/// The address in these bytes of a program's memory, `struct sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)); `None`: another family, or too
/// short for its own.
pub fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        // The kernel wants the whole of it, padding too.
        libc::AF_INET if bytes.len() >= 16 => {
            let ip: [u8; 4] = *rest.first_chunk()?;
            Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port))
        }
        // RFC 2133's form of 24 bytes has no scope (SIN6_LEN_RFC2133).
        libc::AF_INET6 if bytes.len() >= 24 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            let scope = rest.first_chunk().map_or(0, |scope| u32::from_ne_bytes(*scope));
            Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, scope).into())
        }
        _ => None,
    }
}

/// The transport of a socket, as far as a bind can be answered for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP and MPTCP (Go's default), over IPv4.
    Tcp4,
    Tcp6,
    Other,
}

/// What a descriptor of another program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// The number in the kernel's socket tables.
    pub inode: u64,
    pub kind: Kind,
    pub nonblocking: bool,
    pub cloexec: bool,
}

/// Looks at the descriptor `fd` of the thread `tid` (`proc_pid_fd(5)`, `proc_pid_fdinfo(5)`, the attribute `system.sockprotoname`).
///
/// # Errors
/// ENOENT: it is not open. EACCES, EPERM: not ours to see. EINVAL: no socket. EMFILE.
pub fn socket_of(tid: i32, fd: RawFd) -> io::Result<Socket> {
    let inode = inode_of(tid, fd)?;
    let path = CString::new(format!("/proc/{tid}/fd/{fd}")).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut name = [0_u8; 16];
    // SAFETY: two strings that end in NUL, and room as long as is said; all outlive the call.
    let size = unsafe {
        libc::getxattr(path.as_ptr(), c"system.sockprotoname".as_ptr(), name.as_mut_ptr().cast(), name.len())
    };
    let size = usize::try_from(size).map_err(|_| io::Error::last_os_error())?;
    let kind = match name.get(..size).unwrap_or_default() {
        b"TCP\0" | b"MPTCP\0" => Kind::Tcp4,
        b"TCPv6\0" | b"MPTCPv6\0" => Kind::Tcp6,
        _ => Kind::Other,
    };
    let info = std::fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}"))?;
    let flags = info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    let flags = flags.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Socket { inode, kind, nonblocking: flags & libc::O_NONBLOCK != 0, cloexec: flags & libc::O_CLOEXEC != 0 })
}

/// The inode behind the descriptor `fd` of the thread `tid`. Needs no descriptor of ours.
///
/// # Errors
/// As [`socket_of`].
pub fn inode_of(tid: i32, fd: RawFd) -> io::Result<u64> {
    let target = std::fs::read_link(format!("/proc/{tid}/fd/{fd}"))?;
    let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
    inode.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTSOCK))
}

/// A descriptor of our own for the same open file. Refused by container profiles without CAP_SYS_PTRACE: then what was set on the socket
/// cannot be read.
///
/// # Errors
/// EPERM, ENOSYS, ESRCH, EBADF, EMFILE.
pub fn copy_of(tid: i32, fd: RawFd) -> io::Result<OwnedFd> {
    // A thread that is no leader has no pidfd of its own (before Linux 6.9).
    let status = std::fs::read_to_string(format!("/proc/{tid}/status"))?;
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    let held = super::pidfd::open(group.unwrap_or(tid))?;
    // SAFETY: integers only.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, held.as_raw_fd(), fd, 0) };
    let copy = RawFd::try_from(copy).unwrap_or(-1);
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
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

const _: () = assert!(mem::size_of::<Notification>() == 80 && mem::size_of::<Response>() == 24);
