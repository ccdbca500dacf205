//! Owns the check whether the app accepts on a socket it was given. Must not know what is logged about an app that does not.
//!
//! Such a socket listens from the claim on, so listening says nothing about the app. The evidence is an epoll set that contains the socket,
//! or a thread, in a process that has the socket open, that waits in `accept`, `poll` or `select`.

use std::fs;
use std::path::Path;

use super::fact::Accepting;

/// What the processes `pids` do with the socket `inode`, according to their descriptors and threads (`proc_pid_fdinfo(5)`,
/// `proc_pid_syscall(5)`).
pub fn look(pids: &[i32], inode: u64) -> Accepting {
    if !crate::sys::process::proc_is_ours() {
        // Without /proc every process looks as if it had exited, and in the /proc of another namespace a pid is another process.
        return Accepting::Hidden;
    }
    let mut seen = Accepting::Closed;
    let mut hidden = false;
    for pid in pids {
        let root = format!("/proc/{pid}");
        let root = Path::new(&root);
        let Some(descriptors) = descriptors(root) else {
            // A worker that runs as another user: it may be the one that accepts.
            hidden |= root.exists();
            continue;
        };
        let socket = format!("socket:[{inode}]");
        let held: Vec<u32> = descriptors.iter().filter(|(_, link)| *link == socket).map(|(fd, _)| *fd).collect();
        if held.is_empty() {
            continue;
        }
        // io_uring accepts without a visible system call.
        let rings = descriptors.iter().any(|(_, link)| link == "anon_inode:[io_uring]");
        hidden |= rings;
        if seen == Accepting::Closed {
            seen = Accepting::Idle;
        }
        let polled = descriptors
            .iter()
            .filter(|(_, link)| link == "anon_inode:[eventpoll]")
            .any(|(fd, _)| polls(root, *fd, &held));
        match waits(root, &held) {
            _ if polled => return Accepting::Waits,
            Some(Accepting::Waits) => return Accepting::Waits,
            Some(Accepting::Polls) => seen = Accepting::Polls,
            Some(_) => {}
            None => hidden = true,
        }
    }
    if hidden && seen != Accepting::Polls { Accepting::Hidden } else { seen }
}

/// Number and target of every open descriptor; `None` if they cannot be read.
fn descriptors(root: &Path) -> Option<Vec<(u32, String)>> {
    let entries = fs::read_dir(root.join("fd")).ok()?;
    let all = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((number, target.to_string_lossy().into_owned()))
    });
    // Every open descriptor has a target; an empty list means that the links cannot be followed.
    Some(all.collect::<Vec<_>>()).filter(|all| !all.is_empty())
}

/// True if the epoll set at descriptor `epoll` watches one of `held`.
fn polls(root: &Path, epoll: u32, held: &[u32]) -> bool {
    let info = fs::read_to_string(root.join("fdinfo").join(epoll.to_string())).unwrap_or_default();
    let mut watched =
        info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_ascii_whitespace().next()?.parse().ok());
    watched.any(|fd| held.contains(&fd))
}

/// What the threads of a process that has `held` open are doing: `Waits` in `accept` on one of them, `Polls` in a call that waits for
/// several descriptors, otherwise `Idle`. `None`: their system calls cannot be read (no CAP_SYS_PTRACE, or a kernel without that file).
fn waits(root: &Path, held: &[u32]) -> Option<Accepting> {
    let threads = fs::read_dir(root.join("task")).ok()?;
    let calls: Vec<String> =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("syscall")).ok()).collect();
    let seen = calls.iter().map(|text| {
        let mut words = text.split_ascii_whitespace();
        let call = words.next().and_then(|word| word.parse::<i64>().ok());
        let first = words.next().and_then(|word| u32::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        match call {
            Some(libc::SYS_accept | libc::SYS_accept4) if first.is_some_and(|fd| held.contains(&fd)) => {
                Accepting::Waits
            }
            Some(call) if POLL_CALLS.contains(&call) => Accepting::Polls,
            _ => Accepting::Idle,
        }
    });
    let seen: Vec<Accepting> = seen.collect();
    [Accepting::Waits, Accepting::Polls].into_iter().find(|one| seen.contains(one)).or_else(|| seen.first().copied())
}

/// The calls that wait for several descriptors; newer architectures have only the `p` variants.
#[cfg(target_arch = "x86_64")]
const POLL_CALLS: [i64; 4] = [libc::SYS_poll, libc::SYS_ppoll, libc::SYS_select, libc::SYS_pselect6];
#[cfg(not(target_arch = "x86_64"))]
const POLL_CALLS: [i64; 2] = [libc::SYS_ppoll, libc::SYS_pselect6];

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test may have threads
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_socket_is_closed_held_or_waited_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        let inode = fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino();
        let own = [i32::try_from(std::process::id()).unwrap()];
        assert_eq!(look(&own, u64::MAX), Accepting::Closed);
        assert_ne!(look(&own, inode), Accepting::Closed);
        let port = listener.local_addr().unwrap();
        let accepting = std::thread::spawn(move || listener.accept().map(drop));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while look(&own, inode) != Accepting::Waits {
            assert!(std::time::Instant::now() < deadline, "a thread in accept is never seen");
        }
        std::net::TcpStream::connect(port).unwrap();
        accepting.join().unwrap().unwrap();
    }
}
