//! Owns PID 1's side of `--register`: one process per registry, what each was last told, and stopping them. Never waits
//! for one, except for a limited time at exit. Must not know how a registry is queried.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use tracing::{debug, warn};

use super::place::Register;
use crate::state::{Phase, State};
#[cfg(feature = "register")]
use crate::sys::fork;
use crate::sys::signal::Signals;
use crate::sys::{descriptor, process};

/// How long the exit waits for the last entry to be removed: a registry that does not answer must not keep a container
/// from stopping, and the lease expires anyway.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// The processes beside PID 1, one for each registry.
pub struct Workers {
    register: Register,
    each: Vec<Worker>,
}

/// The process for one registry.
#[derive(Default)]
struct Worker {
    child: Option<Child>,
    /// When it was last started: one that dies is not restarted within a TTL of that.
    began: Option<Instant>,
}

struct Child {
    pid: i32,
    wishes: OwnedFd,
    /// The ports in its entry.
    ports: Vec<u16>,
    announced: bool,
    /// It was told to exit.
    stopping: bool,
}

impl Workers {
    /// Starts no process before there is something to announce.
    pub fn new(register: &Register) -> Self {
        Self { register: register.clone(), each: register.registries.iter().map(|_| Worker::default()).collect() }
    }

    /// Announces or withdraws the app according to `state`. Returns the pids of processes started for that.
    pub fn step(&mut self, now: Instant, state: &State) -> Vec<i32> {
        // The feature is a constant here, so without it the rest is not in the binary.
        if cfg!(not(feature = "register")) {
            return Vec::new();
        }
        let announce = state.phase == Phase::Ready;
        // Without /proc, a running worker would be taken for a leftover of the app and waited for.
        let over = state.phase == Phase::Exited;
        let ports: Vec<u16> = state.ports.iter().map(|port| port.port).collect();
        let mut started = Vec::new();
        for (at, worker) in self.each.iter_mut().enumerate() {
            if let Some(child) = worker.child.take_if(|child| is_gone(&child.wishes))
                && !child.stopping
            {
                warn!(
                    "the process that registers the app (pid {}) has exited: it restarts within {:?}",
                    child.pid, self.register.ttl
                );
            }
            // Different ports make a different entry; the old worker withdraws it and exits.
            if let Some(mut child) = worker.child.take_if(|child| announce && child.ports != ports) {
                child.stop();
                worker.began = None;
            }
            if announce && worker.child.is_none() && worker.began.is_none_or(|began| began + self.register.ttl <= now) {
                worker.began = Some(now);
                worker.child = start(&self.register, at, state, ports.clone());
                started.extend(worker.child.as_ref().map(|child| child.pid));
            }
            match &mut worker.child {
                Some(child) if over => child.stop(),
                Some(child) => child.wish(announce),
                None => {}
            }
        }
        started
    }

    /// When a process that died is restarted.
    pub fn deadline(&self, state: &State) -> Option<Instant> {
        let dead = self.each.iter().filter(|worker| state.phase == Phase::Ready && worker.child.is_none());
        dead.filter_map(|worker| Some(worker.began? + self.register.ttl)).min()
    }

    /// The app has exited, and may be relaunched.
    pub fn withdraw(&mut self) {
        self.each.iter_mut().filter_map(|worker| worker.child.as_mut()).for_each(|child| child.wish(false));
    }

    /// The running processes, which are not the app's.
    pub fn pids(&self) -> impl Iterator<Item = i32> {
        self.each.iter().filter_map(|worker| worker.child.as_ref()).map(|child| child.pid)
    }

    /// The descriptors that must stay open.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.each.iter().filter_map(|worker| worker.child.as_ref()).map(|child| child.wishes.as_fd())
    }

    /// Withdraws all entries, and waits for that for a limited time; a signal to stop ends the wait.
    pub fn farewell(self, signals: &Signals) {
        if cfg!(not(feature = "register")) {
            return;
        }
        let end = Instant::now() + FAREWELL_LIMIT;
        let mut children: Vec<Child> = self.each.into_iter().filter_map(|worker| worker.child).collect();
        children.iter_mut().for_each(Child::stop);
        while !children.is_empty() && Instant::now() < end {
            let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(children.iter().map(|child| PollFd::new(child.wishes.as_fd(), PollFlags::POLLIN)));
            descriptor::wait_readable(&mut fds, Some(end));
            drop(fds);
            children.retain(|child| !is_gone(&child.wishes));
            while let Some(received) = signals.next() {
                if matches!(received.signal, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT) {
                    debug!("not waiting for the registry any longer");
                    return kill_all(&children);
                }
            }
        }
        kill_all(&children);
    }
}

/// They would die with us, but only once our own parent has reaped us.
fn kill_all(children: &[Child]) {
    for child in children {
        warn!(
            "the registry has not answered within {FAREWELL_LIMIT:?} at exit: an entry that is still there expires with its lease (--register-ttl)"
        );
        let _ = process::send(child.pid, libc::SIGKILL);
    }
}

impl Child {
    /// Makes the process withdraw the entry and exit.
    fn stop(&mut self) {
        let _ = shutdown(self.wishes.as_raw_fd(), Shutdown::Write);
        self.stopping = true;
    }

    fn wish(&mut self, announce: bool) {
        if self.stopping || self.announced == announce {
            return;
        }
        #[cfg(feature = "register")]
        let word = if announce { super::work::ANNOUNCE } else { super::work::WITHDRAW };
        #[cfg(not(feature = "register"))]
        let word = 0;
        match send(self.wishes.as_raw_fd(), &[word], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => self.announced = announce,
            // Frozen for hundreds of changes, or dead: a new process replaces it after a TTL.
            Err(_) => drop(process::send(self.pid, libc::SIGKILL)),
        }
    }
}

/// Whether the process at the other end has exited: no other process has that end, and nothing is ever sent from there.
fn is_gone(wishes: &OwnedFd) -> bool {
    let mut byte = [0];
    !matches!(recv(wishes.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT), Err(nix::Error::EAGAIN | nix::Error::EINTR))
}

#[cfg(feature = "register")]
fn start(register: &Register, at: usize, state: &State, ports: Vec<u16>) -> Option<Child> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::entry::Entry;
    use crate::error::words;
    let registry = register.registries.get(at)?;
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let entry = Entry::new(register, state, &hostname.to_string_lossy())?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let child = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
        .map_err(std::io::Error::from)
        .and_then(|(wishes, theirs)| {
            let pid = fork::fork_beside(&theirs, &crate::log::descriptors(), || {
                super::work::run(&theirs, registry, register, &entry)
            })?;
            Ok(Child { pid, wishes, ports, announced: false, stopping: false })
        });
    child.inspect_err(|error| {
        warn!(
            "the app cannot be registered now (--register): {}; raise the limit of processes (pids limit of the container, ulimit -u) or of open files",
            words(error)
        );
    })
    .ok()
}

#[cfg(not(feature = "register"))]
fn start(_: &Register, _: usize, _: &State, _: Vec<u16>) -> Option<Child> {
    None
}
