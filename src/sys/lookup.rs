//! Owns the look-ups that the kernel or a resolver may keep waiting for ever, each within a time: a host's name, a file. Must not know what
//! they are for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::stat;
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, fork, pipe2};

/// Why there are no addresses.
#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    /// The resolver was not done in time.
    Timeout,
    /// In the resolver's words, or the system's.
    Error(String),
}

/// All addresses of `name`, in the resolver's order, by `end` at the latest.
///
/// `getaddrinfo` waits for silent name servers as long as it likes, and nothing but the end of its program stops it.
///
/// # Errors
/// See [`Failed`].
pub fn addresses(name: &str, end: Instant) -> Result<Vec<IpAddr>, Failed> {
    parse(&elsewhere(&|| resolve(name), end, WaitPidFlag::empty())?)
}

/// Whether there is something at `path`, by `end` at the latest.
///
/// A file system whose server is gone keeps `stat` waiting, and some of them until it is back, whatever the signal: then the one that asks
/// is left to whoever reaps what we leave.
///
/// # Errors
/// See [`Failed`]; the words are the system's.
pub fn exists(path: &Path, end: Instant) -> Result<(), Failed> {
    let look = || stat(path).map_or_else(|errno| format!("!{}", errno.desc()), |_| String::new());
    parse(&elsewhere(&look, end, WaitPidFlag::WNOHANG)?).map(drop)
}

/// What `work` says, by `end` at the latest. A fork of this program does it, and is killed when the time is over; it dies with us too.
/// `late` says how a killed one is waited for. To be called in a program of one thread only.
fn elsewhere(work: &dyn Fn() -> String, end: Instant, late: WaitPidFlag) -> Result<String, Failed> {
    let error = |errno: Errno| Failed::Error(errno.desc().to_lowercase());
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(error)?;
    let parent = super::process::pid();
    // SAFETY: `healthcheck` has one thread, so the child's heap and locks are whole.
    match unsafe { fork() }.map_err(error)? {
        ForkResult::Child => {
            if super::fork::end_with(parent) {
                let _ = File::from(writer).write_all(work().as_bytes());
            }
            // SAFETY: _exit(2) runs no destructors of the parent's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let answer = read_until(reader, end);
            // Dead already or not: a pid that nobody has waited for yet is nobody else's.
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, answer.is_none().then_some(late));
            answer.ok_or(Failed::Timeout)
        }
    }
}

/// The work for a name: a line per address, or `!` and the reason.
fn resolve(name: &str) -> String {
    match (name, 0).to_socket_addrs() {
        Ok(found) => found.map(|address| format!("{}\n", address.ip())).collect(),
        Err(error) => format!("!{error}"),
    }
}

fn parse(answer: &str) -> Result<Vec<IpAddr>, Failed> {
    match answer.strip_prefix('!') {
        // std says "failed to lookup address information: Name or service not known".
        Some(why) => Err(Failed::Error(why.rsplit(": ").next().unwrap_or(why).to_lowercase())),
        None => Ok(answer.lines().filter_map(|line| line.parse().ok()).collect()),
    }
}

/// Everything until the writer is closed; `None` when the time is over.
fn read_until(reader: OwnedFd, end: Instant) -> Option<String> {
    let mut reader = File::from(reader);
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match ppoll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], Some(TimeSpec::from_duration(left)), None) {
            Ok(0) if left.is_zero() => return None,
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return None,
        }
        match reader.read(&mut buffer) {
            Ok(0) | Err(_) => return Some(String::from_utf8_lossy(&answer).into_owned()),
            Ok(size) => answer.extend_from_slice(buffer.get(..size).unwrap_or_default()),
        }
    }
}
