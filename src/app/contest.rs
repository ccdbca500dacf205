//! Owns the race for a port that the app binds by itself: whether somebody else took it between our probe and the app's own bind.
//! Must not know what follows from a lost one.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::arrival::Arrival;
use crate::port::attempt::{Attempt, Tried};
use crate::port::spec::Spec;
use crate::port::watch::Destroyed;
use crate::sys::descriptor;
use crate::sys::process::End;

/// An app that ended later than this after its launch did not fail for want of a port.
const WINDOW: Duration = Duration::from_secs(10);
/// How late an event may come (0.1 ms is usual).
const LATE: Duration = Duration::from_millis(20);

/// The watch over the ports from just before the launch until the app listens, or the window is over.
pub struct Contest {
    specs: Vec<Spec>,
    ends_at: Instant,
    /// Sockets that go away on our ports: another waiter's probe is there for microseconds, and only its end can be seen.
    events: Option<Destroyed>,
    /// Cookies of our own probes, whose end the kernel may tell after the subscription has begun.
    own: Vec<u64>,
    /// The kernel still tells of every socket on the machine.
    wide: bool,
    somebody_was_there: bool,
}

impl Contest {
    /// Begins to watch the ports that were really taken; `own` are the cookies of our probes' sockets on them.
    pub fn begin(specs: Vec<Spec>, own: Vec<u64>, now: Instant) -> Self {
        let ports: Vec<_> = specs.iter().map(|spec| (spec.port, spec.protocol)).collect();
        // Refused netlink only narrows the sight to the moment after the app's end.
        let events = Destroyed::open_wide(&ports).ok();
        Self { specs, ends_at: now + WINDOW, events, own, wide: true, somebody_was_there: false }
    }

    pub fn ends_at(&self) -> Instant {
        self.ends_at
    }

    /// The descriptor to poll along.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// The app is there to stay for a while: from now on the kernel need not tell of every socket on the machine.
    pub fn narrow(&mut self) {
        if std::mem::take(&mut self.wide)
            && let Some(events) = &self.events
        {
            events.narrow();
        }
    }

    /// Takes the events that have come. The app's own socket would be one of them if it listened and ended between two looks of
    /// `arrival`, which are close together for that reason; the kernel does not say whose a socket was.
    pub fn hear(&mut self) {
        let Some(drained) = self.events.as_ref().and_then(|events| events.drain().ok()) else { return };
        let others = drained.events.iter().any(|event| !self.own.contains(&event.cookie));
        self.somebody_was_there |= others || drained.lost;
    }

    /// True if the app, which ended with `end`, lost the race: it never listened, and somebody else holds a port of ours now or did
    /// since the launch. An app that ended with 0 has done what it wanted.
    pub fn lost(&mut self, now: Instant, end: End, arrival: &Arrival) -> bool {
        let failed = end != End::Code(0);
        // Our own look at the port ends in an event as well, so it comes last.
        failed && now < self.ends_at && !arrival.has_listened() && (self.late_event() || self.somebody_is_there())
    }

    /// The kernel tells of a closed socket after an RCU grace period, which may be after the app's own end.
    fn late_event(&mut self) -> bool {
        if self.somebody_was_there {
            return true;
        }
        if let Some(events) = self.events() {
            let mut one = [PollFd::new(events, PollFlags::POLLIN)];
            descriptor::wait_readable(&mut one, Some(Instant::now() + LATE));
        }
        self.hear();
        self.somebody_was_there
    }

    fn somebody_is_there(&self) -> bool {
        self.specs.iter().any(|spec| matches!(Attempt::new(spec, false).bind(), Tried::Busy))
    }
}
