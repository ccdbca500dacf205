//! Owns look-ups that the kernel or a resolver may block for ever, each with a deadline: a host name, a file. Must not
//! know what they are for.
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

/// Why a look-up has no result.
#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    /// The deadline passed first.
    Timeout,
    /// The resolver's error message, or the system's.
    Error(String),
}

/// All addresses of `name`, in the resolver's order, by `end` at the latest.
///
/// `getaddrinfo` waits for silent name servers as long as it likes, and only killing its process stops it.
///
/// # Errors
/// See [`Failed`].
pub fn addresses(name: &str, end: Instant) -> Result<Vec<IpAddr>, Failed> {
    parse(&in_child(&|| resolve(name), end, WaitPidFlag::empty())?)
}

/// Whether a file exists at `path`, by `end` at the latest.
///
/// A file system whose server is unreachable blocks `stat`, and some do until the server returns, even on KILL. The
/// child that is blocked there is then left to the process that reaps our orphans.
///
/// # Errors
/// See [`Failed`]; the message is the system's.
pub fn exists(path: &Path, end: Instant) -> Result<(), Failed> {
    let look = || stat(path).map_or_else(|errno| format!("!{}", errno.desc()), |_| String::new());
    parse(&in_child(&look, end, WaitPidFlag::WNOHANG)?).map(drop)
}

/// Runs `work` in a forked child and returns its result, by `end` at the latest. The child is killed at the deadline,
/// and when we die. `late` is how to wait for a killed child. Call it only in a process with a single thread.
fn in_child(work: &dyn Fn() -> String, end: Instant, late: WaitPidFlag) -> Result<String, Failed> {
    let error = |errno: Errno| Failed::Error(errno.desc().to_lowercase());
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(error)?;
    let parent = super::process::pid();
    // SAFETY: `healthcheck` has one thread, so the child's heap and locks are consistent.
    match unsafe { fork() }.map_err(error)? {
        ForkResult::Child => {
            if super::fork::end_with(parent) {
                let _ = File::from(writer).write_all(work().as_bytes());
            }
            // SAFETY: _exit(2) runs none of the parent's destructors.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let answer = read_until(reader, end);
            // It may have exited already: a pid that has not been waited for is not reused.
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, answer.is_none().then_some(late));
            answer.ok_or(Failed::Timeout)
        }
    }
}

/// What the child does for a name: one address per line, or `!` and the reason.
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

/// Everything until the writer is closed; `None` if `end` passes first.
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
