//! Owns writes that never block, to a file description that other processes share. Must not know what is written, or
//! why.
//!
//! A PID 1 that blocks on a stalled reader ignores every signal. It cannot simply set O_NONBLOCK on its stderr: that is
//! a flag of the open file description, which the app shares. And polling first (`poll(2)`) guarantees nothing: the app
//! may fill a pipe between the poll and the write, and a terminal blocks until it has room for a whole line, whatever
//! poll said. So each kind of file has its own method.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;

/// Writes to one file descriptor without blocking; the method is chosen at the first write.
#[derive(Debug, Default)]
pub struct Output(OnceLock<Method>);

#[derive(Debug)]
enum Method {
    /// A regular file or block device, which never blocks for a reader. With RWF_NOWAIT, some file systems refuse
    /// writes for which they would only have to allocate space.
    Plain,
    Socket,
    /// `RWF_NOWAIT` on each write: pipes since Linux 6.4.
    NoWait,
    /// Our own open file description, whose flags no other process shares.
    Reopened(File),
    /// Our own pipe, from which the kernel moves pages (`splice(2)`). On an older kernel, the only method for a pipe of
    /// another user, or without /proc.
    Splice(Splice),
    /// None of these works: poll before each write.
    Polled,
}

impl Output {
    /// The descriptors it has opened itself.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self.0.get() {
            Some(Method::Reopened(own)) => vec![own.as_fd()],
            Some(Method::Splice(splice)) => vec![splice.reader.as_fd(), splice.writer.as_fd()],
            _ => Vec::new(),
        }
    }

    /// Writes as much as `fd`, which must be the same on every call, takes without blocking, and returns how many bytes
    /// that were. A pipe takes PIPE_BUF bytes completely or not at all (pipe(7)), so a longer text is split.
    pub fn put(&self, fd: BorrowedFd<'_>, bytes: &[u8]) -> usize {
        let mut written = 0;
        for piece in bytes.chunks(libc::PIPE_BUF) {
            let taken = self.write(fd, piece).unwrap_or(0);
            written += taken;
            if taken < piece.len() {
                break;
            }
        }
        written
    }

    fn write(&self, fd: BorrowedFd<'_>, piece: &[u8]) -> io::Result<usize> {
        if let Some(method) = self.0.get() {
            return method.write(fd, piece);
        }
        match Method::detect(fd, piece) {
            Ok((method, written)) => {
                let method = self.0.get_or_init(|| method);
                written.map_or_else(|| method.write(fd, piece), Ok)
            }
            // No descriptor is free: there may be one next time.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                Method::Polled.write(fd, piece)
            }
            // The method works, but there is no room now.
            Err(error) => Err(error),
        }
    }
}

impl Method {
    /// Chooses the method for `fd`, and returns how much of `piece` the attempt wrote. An error means that no method
    /// was chosen.
    fn detect(fd: BorrowedFd<'_>, piece: &[u8]) -> io::Result<(Self, Option<usize>)> {
        let kind = nix::sys::stat::fstat(fd)?.st_mode & libc::S_IFMT;
        match kind {
            libc::S_IFREG | libc::S_IFBLK | libc::S_IFDIR => return Ok((Self::Plain, None)),
            libc::S_IFSOCK => return Ok((Self::Socket, None)),
            _ => {}
        }
        match write_nowait(fd, piece) {
            Ok(written) => return Ok((Self::NoWait, Some(written))),
            // Terminals, named pipes, pipes before Linux 6.4; old kernels, and seccomp filters that do not know the
            // call.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EPIPE | libc::EIO)) => {}
            Err(error) => return Err(error),
        }
        let own = || reopen(&format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let found = match kind {
            libc::S_IFIFO => {
                own().map(Self::Reopened).or_else(|error| no_descriptor(error, || Splice::open().map(Self::Splice)))
            }
            // Any process may open its controlling terminal by this name.
            _ if is_controlling_terminal(fd) => {
                own().or_else(|error| no_descriptor(error, || reopen("/dev/tty"))).map(Self::Reopened)
            }
            _ => own().map(Self::Reopened),
        };
        found.or_else(|error| no_descriptor(error, || Ok(Self::Polled))).map(|method| (method, None))
    }

    fn write(&self, fd: BorrowedFd<'_>, piece: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain => Ok(nix::unistd::write(fd, piece)?),
            Self::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(nix::sys::socket::send(fd.as_raw_fd(), piece, flags)?)
            }
            Self::NoWait => write_nowait(fd, piece),
            Self::Reopened(own) => (&mut &*own).write(piece),
            Self::Splice(splice) => splice.write(fd, piece),
            Self::Polled => {
                let mut ready = [PollFd::new(fd, PollFlags::POLLOUT)];
                let polled = poll(&mut ready, PollTimeout::ZERO);
                let [ready] = ready;
                // POLLERR is a pipe without a reader, POLLNVAL a closed descriptor.
                if polled != Ok(1) || ready.revents() != Some(PollFlags::POLLOUT) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(nix::unistd::write(fd, piece)?)
            }
        }
    }
}

/// Calls `next`, unless `error` means that no descriptor is free: another method would need one too.
fn no_descriptor<T>(error: io::Error, next: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) { Err(error) } else { next() }
}

/// Opens `path` again, for our own open file description.
fn reopen(path: &str) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// Whether `fd` is the controlling terminal of our session, which is the one that `/dev/tty` opens.
fn is_controlling_terminal(fd: BorrowedFd<'_>) -> bool {
    let session = nix::sys::termios::tcgetsid(fd);
    session.is_ok() && session == nix::unistd::getsid(None)
}

/// One write of as much as there is room for, without blocking: `RWF_NOWAIT` (`pwritev2(2)`).
///
/// # Errors
/// EAGAIN (no room), EPIPE; EOPNOTSUPP if this kind of file does not support the flag, ENOSYS or EPERM if the call is
/// not available.
fn write_nowait(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the one part lies in `bytes`, which outlives the call and is only read. Position -1 means the current
    // file position.
    let written =
        unsafe { libc::syscall(libc::SYS_pwritev2, fd.as_raw_fd(), &part, 1, -1_isize, -1_isize, RWF_NOWAIT) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// `include/uapi/linux/fs.h`.
const RWF_NOWAIT: libc::c_int = 8;

/// Our own pipe in front of another one. Empty between two writes.
#[derive(Debug)]
struct Splice {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Splice {
    fn open() -> io::Result<Self> {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)?;
        Ok(Self { reader, writer })
    }

    /// `piece` is no longer than PIPE_BUF, so it lies in one page and is moved completely or not at all.
    fn write(&self, fd: BorrowedFd<'_>, piece: &[u8]) -> io::Result<usize> {
        nix::unistd::write(&self.writer, piece)?;
        let nowhere = std::ptr::null_mut();
        // SAFETY: open descriptors, null positions, and integers.
        let moved = unsafe {
            libc::splice(
                self.reader.as_raw_fd(),
                nowhere,
                fd.as_raw_fd(),
                nowhere,
                piece.len(),
                libc::SPLICE_F_NONBLOCK,
            )
        };
        let moved = usize::try_from(moved).map_err(|_| io::Error::last_os_error());
        // What was not moved is dropped, as with every other method.
        let mut rest = [0; libc::PIPE_BUF];
        while moved.as_ref().map_or(true, |moved| *moved < piece.len())
            && nix::unistd::read(&self.reader, &mut rest).is_ok_and(|read| read > 0)
        {}
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Writes until nothing more is accepted. The descriptors here are blocking, so returning at all is the proof.
    fn fill(method: &Method, fd: BorrowedFd<'_>, piece: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            match method.write(fd, piece) {
                Ok(written) => taken += written,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{method:?} after {taken} bytes");
                    return taken;
                }
            }
        }
    }

    fn detected(fd: BorrowedFd<'_>) -> Method {
        Method::detect(fd, b"").unwrap().0
    }

    fn splice() -> Method {
        Method::Splice(Splice::open().unwrap())
    }

    fn own(fd: BorrowedFd<'_>) -> Method {
        Method::Reopened(reopen(&format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap())
    }

    #[test]
    fn a_pipe_without_a_reader_takes_what_it_has_room_for() {
        let methods: [fn(BorrowedFd<'_>) -> Method; 3] = [detected, own, |_| splice()];
        for method in methods {
            for length in [1, 100, 1000, libc::PIPE_BUF] {
                let (mut reader, writer) = io::pipe().unwrap();
                let method = method(writer.as_fd());
                let piece: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
                let taken = fill(&method, writer.as_fd(), &piece);
                // 16 pages; through our own pipe, one page per write.
                assert!(taken >= 16 * length.min(4096), "{method:?} {length}: {taken}");
                let mut all = vec![0; taken];
                reader.read_exact(&mut all).unwrap();
                assert!(all.chunks(length).all(|chunk| chunk == piece), "{method:?} {length}");
                // There is room again, and nothing was left in between.
                assert_eq!(method.write(writer.as_fd(), b"more").unwrap(), 4);
                reader.read_exact(&mut all[..4]).unwrap();
                assert_eq!(&all[..4], b"more");
                drop(reader);
                assert_eq!(
                    method.write(writer.as_fd(), b"x").unwrap_err().kind(),
                    io::ErrorKind::BrokenPipe,
                    "{method:?}"
                );
            }
        }
    }

    #[test]
    fn a_socket_takes_what_it_has_room_for() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let output = Output::default();
        let mut taken = 0;
        loop {
            match output.put(one.as_fd(), &[b'x'; 10_000]) {
                0 => break,
                written => taken += written,
            }
        }
        assert!(matches!(output.0.get(), Some(Method::Socket)), "{output:?}");
        other.read_exact(&mut vec![0; taken]).unwrap();
        drop(other);
        assert_eq!(output.put(one.as_fd(), b"x"), 0);
    }

    #[test]
    fn a_terminal_without_a_reader_takes_what_it_has_room_for() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let output = Output::default();
        let mut lines = 0;
        while output.put(pair.slave.as_fd(), &[b'x'; 1000]) == 1000 {
            lines += 1;
        }
        assert!(lines > 0 && matches!(output.0.get(), Some(Method::Reopened(_))), "{output:?}");
        assert!(!is_controlling_terminal(pair.slave.as_fd()));
    }

    #[test]
    fn a_file_takes_everything() {
        // On a disk and in memory; tmpfs does not support RWF_NOWAIT.
        let built = std::env::current_exe().unwrap();
        for dir in [built.parent().unwrap(), std::path::Path::new("/dev/shm")] {
            let path = dir.join(format!("reberth-output-{}", std::process::id()));
            let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let output = Output::default();
            assert_eq!(output.put(file.as_fd(), &[b'x'; 10_000]), 10_000);
            assert_eq!(output.put(file.as_fd(), b"end"), 3);
            assert!(matches!(output.0.get(), Some(Method::Plain)) && output.descriptors().is_empty(), "{output:?}");
            let mut all = Vec::new();
            io::Seek::rewind(&mut file).unwrap();
            file.read_to_end(&mut all).unwrap();
            assert!(all.len() == 10_003 && all.ends_with(b"xend"), "{dir:?}");
        }
    }

    #[test]
    fn an_unwritable_descriptor_takes_nothing() {
        let output = Output::default();
        assert_eq!(output.put(File::open("/").unwrap().as_fd(), b"x"), 0);
        let output = Output::default();
        assert_eq!(output.put(File::create("/dev/full").unwrap().as_fd(), b"x"), 0);
        let (reader, writer) = io::pipe().unwrap();
        let polled = fill(&Method::Polled, writer.as_fd(), &[b'x'; libc::PIPE_BUF]);
        assert_eq!(polled, 16 * libc::PIPE_BUF);
        drop(reader);
        assert!(Method::Polled.write(writer.as_fd(), b"x").is_err());
    }
}
