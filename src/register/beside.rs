//! Owns PID 1's side of `--register`: a process for each registry, what it was told last, and its end. Never waits for one, but for a
//! bounded time at the very end. Must not know how a registry is asked.

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

/// So long the end waits for the last entry to be gone: a registry that has not answered by then does not keep a container from ending, and
/// the lease does the rest.
const FAREWELL: Duration = Duration::from_secs(1);

/// The processes beside PID 1.
pub struct Beside {
    register: Register,
    ones: Vec<One>,
}

/// The one for one registry.
#[derive(Default)]
struct One {
    out: Option<Out>,
    /// When it was started last: one that dies is not started again within a TTL of that.
    began: Option<Instant>,
}

struct Out {
    pid: i32,
    wishes: OwnedFd,
    /// The ports it tells of.
    ports: Vec<u16>,
    announced: bool,
    /// It was told to end.
    parting: bool,
}

impl Beside {
    /// Nothing is started before there is something to announce.
    pub fn new(register: &Register) -> Self {
        Self { register: register.clone(), ones: register.registries.iter().map(|_| One::default()).collect() }
    }

    /// Makes it so that an app in this state is announced, or not. The pids of the processes that were started for that.
    pub fn step(&mut self, now: Instant, state: &State) -> Vec<i32> {
        // There is none without the feature: nothing of it is in the binary then.
        if cfg!(not(feature = "register")) {
            return Vec::new();
        }
        let announce = state.phase == Phase::Ready;
        // Where /proc does not say who is whose, it would be waited for as one that the app has left behind.
        let over = state.phase == Phase::Exited;
        let ports: Vec<u16> = state.ports.iter().map(|port| port.port).collect();
        let mut started = Vec::new();
        for (at, one) in self.ones.iter_mut().enumerate() {
            if let Some(out) = one.out.take_if(|out| is_gone(&out.wishes))
                && !out.parting
            {
                warn!(
                    "the process that registers the app (pid {}) has ended: started again within {:?}",
                    out.pid, self.register.ttl
                );
            }
            // Other ports are another entry; the old one's process takes it back and ends.
            if let Some(mut out) = one.out.take_if(|out| announce && out.ports != ports) {
                out.part();
                one.began = None;
            }
            if announce && one.out.is_none() && one.began.is_none_or(|began| began + self.register.ttl <= now) {
                one.began = Some(now);
                one.out = start(&self.register, at, state, ports.clone());
                started.extend(one.out.as_ref().map(|out| out.pid));
            }
            match &mut one.out {
                Some(out) if over => out.part(),
                Some(out) => out.wish(announce),
                None => {}
            }
        }
        started
    }

    /// When one that has died is started again.
    pub fn deadline(&self, state: &State) -> Option<Instant> {
        let dead = self.ones.iter().filter(|one| state.phase == Phase::Ready && one.out.is_none());
        dead.filter_map(|one| Some(one.began? + self.register.ttl)).min()
    }

    /// The app is gone, perhaps to be launched again.
    pub fn withdraw(&mut self) {
        self.ones.iter_mut().filter_map(|one| one.out.as_mut()).for_each(|out| out.wish(false));
    }

    /// Those that run: none of the app's.
    pub fn pids(&self) -> impl Iterator<Item = i32> {
        self.ones.iter().filter_map(|one| one.out.as_ref()).map(|out| out.pid)
    }

    /// The descriptors it keeps.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ones.iter().filter_map(|one| one.out.as_ref()).map(|out| out.wishes.as_fd())
    }

    /// Has the entries taken back, and waits for that for a bounded time; who asks us to stop meanwhile ends the wait.
    pub fn farewell(self, signals: &Signals) {
        if cfg!(not(feature = "register")) {
            return;
        }
        let end = Instant::now() + FAREWELL;
        let mut outs: Vec<Out> = self.ones.into_iter().filter_map(|one| one.out).collect();
        outs.iter_mut().for_each(Out::part);
        while !outs.is_empty() && Instant::now() < end {
            let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(outs.iter().map(|out| PollFd::new(out.wishes.as_fd(), PollFlags::POLLIN)));
            descriptor::wait_readable(&mut fds, Some(end));
            drop(fds);
            outs.retain(|out| !is_gone(&out.wishes));
            while let Some(received) = signals.next() {
                if matches!(received.signal, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT) {
                    debug!("not waiting for the registry any longer");
                    return end_all(&outs);
                }
            }
        }
        end_all(&outs);
    }
}

/// They would die with us, but only when our own parent has reaped us.
fn end_all(outs: &[Out]) {
    for out in outs {
        warn!(
            "the registry has not answered within {FAREWELL:?} at the end: an entry that is still there ends with its lease (--register-ttl)"
        );
        let _ = process::send(out.pid, libc::SIGKILL);
    }
}

impl Out {
    /// Has it take the entry back and end.
    fn part(&mut self) {
        let _ = shutdown(self.wishes.as_raw_fd(), Shutdown::Write);
        self.parting = true;
    }

    fn wish(&mut self, announce: bool) {
        if self.parting || self.announced == announce {
            return;
        }
        #[cfg(feature = "register")]
        let word = if announce { super::work::ANNOUNCE } else { super::work::WITHDRAW };
        #[cfg(not(feature = "register"))]
        let word = 0;
        match send(self.wishes.as_raw_fd(), &[word], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => self.announced = announce,
            // Frozen for hundreds of changes, or dead: a new one is told better, after a TTL.
            Err(_) => drop(process::send(self.pid, libc::SIGKILL)),
        }
    }
}

/// Whether the process at the other end has ended: nobody else has that end, and it says nothing.
fn is_gone(wishes: &OwnedFd) -> bool {
    let mut byte = [0];
    !matches!(recv(wishes.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT), Err(nix::Error::EAGAIN | nix::Error::EINTR))
}

#[cfg(feature = "register")]
fn start(register: &Register, at: usize, state: &State, ports: Vec<u16>) -> Option<Out> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::entry::Entry;
    use crate::error::words;
    let registry = register.registries.get(at)?;
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let entry = Entry::new(register, state, &hostname.to_string_lossy())?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let out = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(std::io::Error::from).and_then(
        |(wishes, theirs)| {
            let pid = fork::fork_beside(&theirs, &crate::log::descriptors(), || {
                super::work::live(&theirs, registry, register, &entry)
            })?;
            Ok(Out { pid, wishes, ports, announced: false, parting: false })
        },
    );
    out.inspect_err(|error| {
        warn!(
            "the app cannot be registered now (--register): {}; raise the limit of processes (pids limit of the container, ulimit -u) or of open files",
            words(error)
        );
    })
    .ok()
}

#[cfg(not(feature = "register"))]
fn start(_: &Register, _: usize, _: &State, _: Vec<u16>) -> Option<Out> {
    None
}
