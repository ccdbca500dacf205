//! Owns what `/proc/PID/fd` lists: a process's file descriptors and what each refers to. Must not know whose they are,
//! or which one is sought.
//!
//! Uses bare system calls: for every process, `opendir` allocates a buffer and `std` a string per name, which took a
//! quarter of the time of a scan on a machine with thousands of processes. In a `run`, that buffer would be the only
//! memory that the C library keeps for as long as the app runs.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// The file descriptors of one process.
#[derive(Debug)]
pub struct Listing(File);

/// Offsets of a record's length and name in `struct linux_dirent64` (`getdents64(2)`).
const LENGTH: usize = 16;
const NAME: usize = 19;

impl Listing {
    /// The descriptors of `pid`.
    ///
    /// # Errors
    /// ENOENT (exited, or no `/proc`), EACCES (we may not look), EMFILE.
    pub fn of(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/fd")).map(Self)
    }

    /// Our own descriptors.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn own() -> io::Result<Self> {
        File::open("/proc/self/fd").map(Self)
    }

    /// Each descriptor, lowest first; it ends early if the process exits. Call it once.
    pub fn descriptors(&self) -> Descriptors<'_> {
        Descriptors { directory: &self.0, buffer: [0; 1024], read: 0, at: 0 }
    }

    /// The inode of the socket behind `fd`, as in the kernel's socket tables; `None`: not a socket (`proc_pid_fd(5)`).
    ///
    /// # Errors
    /// ENOENT (closed meanwhile), EACCES (root in a container may list a descriptor that it may not follow).
    pub fn socket(&self, fd: RawFd) -> io::Result<Option<u64>> {
        // `socket:[18446744073709551615]`; anything longer is a path, and is truncated.
        let mut target = [0_u8; 32];
        let name = format!("{fd}\0");
        // SAFETY: the name ends in NUL; the target is writable and as long as its length says; both outlive the call.
        let size = unsafe {
            libc::readlinkat(self.0.as_raw_fd(), name.as_ptr().cast(), target.as_mut_ptr().cast(), target.len())
        };
        let size = usize::try_from(size).map_err(|_| io::Error::last_os_error())?;
        Ok(target.get(..size).and_then(inode))
    }
}

/// See [`Listing::descriptors`].
#[derive(Debug)]
pub struct Descriptors<'a> {
    directory: &'a File,
    buffer: [u8; 1024],
    /// How many bytes were read into the buffer, and how many of them are consumed.
    read: usize,
    at: usize,
}

impl Descriptors<'_> {
    /// The name in the next directory record, up to its NUL.
    fn next_name(&mut self) -> Option<&[u8]> {
        if self.at >= self.read {
            let (buffer, size) = (self.buffer.as_mut_ptr(), self.buffer.len());
            // SAFETY: the buffer is writable, as long as `size` says, and outlives the call.
            let read = unsafe { libc::syscall(libc::SYS_getdents64, self.directory.as_raw_fd(), buffer, size) };
            (self.read, self.at) = (usize::try_from(read).ok()?, 0);
        }
        let rest = self.buffer.get(self.at..self.read)?;
        let length = usize::from(u16::from_ne_bytes(rest.get(LENGTH..LENGTH + 2)?.try_into().ok()?));
        self.at += length;
        rest.get(NAME..length)?.split(|byte| *byte == 0).next()
    }
}

impl Iterator for Descriptors<'_> {
    type Item = RawFd;

    fn next(&mut self) -> Option<RawFd> {
        loop {
            // `.` and `..` are not numbers.
            if let Some(fd) = std::str::from_utf8(self.next_name()?).ok().and_then(|name| name.parse().ok()) {
                return Some(fd);
            }
        }
    }
}

/// The inode in `socket:[N]`, which is where the link of a socket's descriptor points.
pub(super) fn inode(target: &[u8]) -> Option<u64> {
    let digits = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::descriptor::{self, duplicate_from};

    #[test]
    fn every_open_descriptor_is_listed() {
        // More than fits the buffer, which holds about 40 records.
        let held: Vec<_> = (0..150).map(|_| duplicate_from(2, 3).unwrap()).collect();
        let listed: Vec<RawFd> = Listing::own().unwrap().descriptors().collect();
        assert!(held.iter().all(|fd| listed.contains(&fd.as_raw_fd())), "{listed:?}");
        assert!(listed.is_sorted(), "{listed:?}");
    }

    #[test]
    fn sockets_are_distinguished_from_other_files() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        let listing = Listing::of(std::process::id().cast_signed()).unwrap();
        let number = descriptor::inode_at(socket.as_raw_fd());
        assert!(number.is_some());
        assert_eq!(listing.socket(socket.as_raw_fd()).unwrap(), number);
        // A path longer than the link of any socket.
        assert_eq!(listing.socket(file.as_raw_fd()).unwrap(), None);
        assert_eq!(listing.socket(i32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(listing.socket(-1).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(inode(b"socket:[18446744073709551615]"), Some(u64::MAX));
        assert_eq!(inode(b"pipe:[7]"), None);
        assert_eq!(Listing::of(0).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
