//! Owns writes that never wait, to a descriptor whose open file others have too. Must not know what is written, or why.
//!
//! A PID 1 that waits for a stalled reader is deaf to every signal. Its standard error cannot simply be made non-blocking: that is a flag of
//! the open file, which the app shares. And a look before (`poll(2)`) is no promise: the app may fill a pipe between the look and the write,
//! and a terminal lets its writer wait for a whole line's room whatever poll has said. So each kind has its own way.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;

/// How one descriptor is written to without waiting; found out at the first write.
#[derive(Debug, Default)]
pub struct Output(OnceLock<Way>);

#[derive(Debug)]
enum Way {
    /// A file, which waits for nobody. Asked not to wait, some file systems refuse what they would only have to find room for.
    Plain,
    Socket,
    /// The kernel can be told for a single write: pipes since Linux 6.4.
    Told,
    /// An open file of our own, whose flags are nobody else's.
    Own(File),
    /// A pipe of our own, from which the kernel moves pages on (`splice(2)`): the only way to a pipe of another user, or without /proc, on
    /// an older kernel.
    Through(Through),
    /// Nothing of that is to be had: a look before has to do.
    Looked,
}

impl Output {
    /// The descriptors it has opened for itself.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self.0.get() {
            Some(Way::Own(own)) => vec![own.as_fd()],
            Some(Way::Through(through)) => vec![through.reader.as_fd(), through.writer.as_fd()],
            _ => Vec::new(),
        }
    }

    /// Writes what `fd`, the same at every call, takes without waiting; how many bytes that were. A pipe takes PIPE_BUF bytes whole or not at
    /// all (pipe(7)), so a longer text goes in such pieces.
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
        if let Some(way) = self.0.get() {
            return way.write(fd, piece);
        }
        match Way::find(fd, piece) {
            Ok((way, written)) => {
                let way = self.0.get_or_init(|| way);
                written.map_or_else(|| way.write(fd, piece), Ok)
            }
            // No descriptor to spare: perhaps there is one next time.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                Way::Looked.write(fd, piece)
            }
            // It is the way, and there is no room just now.
            Err(error) => Err(error),
        }
    }
}

impl Way {
    /// The way to `fd`, and how much of `piece` was written in finding it. Not found yet, where the error says so.
    fn find(fd: BorrowedFd<'_>, piece: &[u8]) -> io::Result<(Self, Option<usize>)> {
        let kind = nix::sys::stat::fstat(fd)?.st_mode & libc::S_IFMT;
        match kind {
            libc::S_IFREG | libc::S_IFBLK | libc::S_IFDIR => return Ok((Self::Plain, None)),
            libc::S_IFSOCK => return Ok((Self::Socket, None)),
            _ => {}
        }
        match write_nowait(fd, piece) {
            Ok(written) => return Ok((Self::Told, Some(written))),
            // Terminals, named pipes, pipes before Linux 6.4; old kernels, and filters that do not know the call.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EPIPE | libc::EIO)) => {}
            Err(error) => return Err(error),
        }
        let own = || reopen(&format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let found = match kind {
            libc::S_IFIFO => {
                own().map(Self::Own).or_else(|error| no_descriptor(error, || Through::open().map(Self::Through)))
            }
            // Everybody may open their own terminal by this name.
            _ if is_controlling(fd) => {
                own().or_else(|error| no_descriptor(error, || reopen("/dev/tty"))).map(Self::Own)
            }
            _ => own().map(Self::Own),
        };
        found.or_else(|error| no_descriptor(error, || Ok(Self::Looked))).map(|way| (way, None))
    }

    fn write(&self, fd: BorrowedFd<'_>, piece: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain => Ok(nix::unistd::write(fd, piece)?),
            Self::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(nix::sys::socket::send(fd.as_raw_fd(), piece, flags)?)
            }
            Self::Told => write_nowait(fd, piece),
            Self::Own(own) => (&mut &*own).write(piece),
            Self::Through(through) => through.write(fd, piece),
            Self::Looked => {
                let mut ready = [PollFd::new(fd, PollFlags::POLLOUT)];
                let looked = poll(&mut ready, PollTimeout::ZERO);
                let [ready] = ready;
                // POLLERR is a pipe without a reader. POLLNVAL is a closed descriptor.
                if looked != Ok(1) || ready.revents() != Some(PollFlags::POLLOUT) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(nix::unistd::write(fd, piece)?)
            }
        }
    }
}

/// `next`, unless `error` is for want of a descriptor, which another way would want too.
fn no_descriptor<T>(error: io::Error, next: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) { Err(error) } else { next() }
}

/// An open file of our own of what is at `path`.
fn reopen(path: &str) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// Whether `fd` is the terminal of our own session, which is the one that `/dev/tty` opens.
fn is_controlling(fd: BorrowedFd<'_>) -> bool {
    let session = nix::sys::termios::tcgetsid(fd);
    session.is_ok() && session == nix::unistd::getsid(None)
}

/// One write that takes what there is room for and never waits: `RWF_NOWAIT` (`pwritev2(2)`).
///
/// # Errors
/// EAGAIN (no room), EPIPE; EOPNOTSUPP where what is behind the descriptor cannot be told for one write, ENOSYS or EPERM where the call is
/// not to be had.
fn write_nowait(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the one part lies in `bytes`, which outlives the call and is only read. Position -1 is the file's own.
    let written =
        unsafe { libc::syscall(libc::SYS_pwritev2, fd.as_raw_fd(), &part, 1, -1_isize, -1_isize, RWF_NOWAIT) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// `include/uapi/linux/fs.h`.
const RWF_NOWAIT: libc::c_int = 8;

/// A pipe of our own in front of one that is not. Empty between two writes.
#[derive(Debug)]
struct Through {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Through {
    fn open() -> io::Result<Self> {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)?;
        Ok(Self { reader, writer })
    }

    /// `piece` is no longer than PIPE_BUF, so it lies in one page and is moved whole or not at all.
    fn write(&self, fd: BorrowedFd<'_>, piece: &[u8]) -> io::Result<usize> {
        nix::unistd::write(&self.writer, piece)?;
        let nowhere = std::ptr::null_mut();
        // SAFETY: descriptors that are open, no positions, and integers.
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
        // What was not taken is dropped here as anywhere.
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

    /// Writes until nothing more is taken. The descriptors here are blocking, so that this ends at all is the proof.
    fn fill(way: &Way, fd: BorrowedFd<'_>, piece: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            match way.write(fd, piece) {
                Ok(written) => taken += written,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{way:?} after {taken} bytes");
                    return taken;
                }
            }
        }
    }

    fn way_to(fd: BorrowedFd<'_>) -> Way {
        Way::find(fd, b"").unwrap().0
    }

    fn through() -> Way {
        Way::Through(Through::open().unwrap())
    }

    fn own(fd: BorrowedFd<'_>) -> Way {
        Way::Own(reopen(&format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap())
    }

    #[test]
    fn a_pipe_that_nobody_reads_takes_what_it_has_room_for() {
        let ways: [fn(BorrowedFd<'_>) -> Way; 3] = [way_to, own, |_| through()];
        for way in ways {
            for length in [1, 100, 1000, libc::PIPE_BUF] {
                let (mut reader, writer) = io::pipe().unwrap();
                let way = way(writer.as_fd());
                let piece: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
                let taken = fill(&way, writer.as_fd(), &piece);
                // 16 pages; through a pipe of our own a page for each write.
                assert!(taken >= 16 * length.min(4096), "{way:?} {length}: {taken}");
                let mut all = vec![0; taken];
                reader.read_exact(&mut all).unwrap();
                assert!(all.chunks(length).all(|chunk| chunk == piece), "{way:?} {length}");
                // There is room again, and nothing was left on the way.
                assert_eq!(way.write(writer.as_fd(), b"more").unwrap(), 4);
                reader.read_exact(&mut all[..4]).unwrap();
                assert_eq!(&all[..4], b"more");
                drop(reader);
                assert_eq!(way.write(writer.as_fd(), b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe, "{way:?}");
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
        assert!(matches!(output.0.get(), Some(Way::Socket)), "{output:?}");
        other.read_exact(&mut vec![0; taken]).unwrap();
        drop(other);
        assert_eq!(output.put(one.as_fd(), b"x"), 0);
    }

    #[test]
    fn a_terminal_that_nobody_reads_takes_what_it_has_room_for() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let output = Output::default();
        let mut lines = 0;
        while output.put(pair.slave.as_fd(), &[b'x'; 1000]) == 1000 {
            lines += 1;
        }
        assert!(lines > 0 && matches!(output.0.get(), Some(Way::Own(_))), "{output:?}");
        assert!(!is_controlling(pair.slave.as_fd()));
    }

    #[test]
    fn a_file_takes_everything() {
        // On a disk and in memory; the latter cannot be told not to wait.
        let built = std::env::current_exe().unwrap();
        for dir in [built.parent().unwrap(), std::path::Path::new("/dev/shm")] {
            let path = dir.join(format!("reberth-output-{}", std::process::id()));
            let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let output = Output::default();
            assert_eq!(output.put(file.as_fd(), &[b'x'; 10_000]), 10_000);
            assert_eq!(output.put(file.as_fd(), b"end"), 3);
            assert!(matches!(output.0.get(), Some(Way::Plain)) && output.descriptors().is_empty(), "{output:?}");
            let mut all = Vec::new();
            io::Seek::rewind(&mut file).unwrap();
            file.read_to_end(&mut all).unwrap();
            assert!(all.len() == 10_003 && all.ends_with(b"xend"), "{dir:?}");
        }
    }

    #[test]
    fn what_cannot_be_written_to_takes_nothing() {
        let output = Output::default();
        assert_eq!(output.put(File::open("/").unwrap().as_fd(), b"x"), 0);
        let output = Output::default();
        assert_eq!(output.put(File::create("/dev/full").unwrap().as_fd(), b"x"), 0);
        let (reader, writer) = io::pipe().unwrap();
        let looked = fill(&Way::Looked, writer.as_fd(), &[b'x'; libc::PIPE_BUF]);
        assert_eq!(looked, 16 * libc::PIPE_BUF);
        drop(reader);
        assert!(Way::Looked.write(writer.as_fd(), b"x").is_err());
    }
}
