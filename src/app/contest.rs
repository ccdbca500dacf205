//! Owns the race for a port that the app binds by itself: whether somebody else took it between our probe and the app's own bind.
//! Must not know what follows from a lost one.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::arrival::Arrival;
use crate::port::attempt::{Attempt, Tried};
use crate::port::claim;
use crate::port::spec::Spec;
use crate::port::watch::Destroyed;
use crate::sys::descriptor;
use crate::sys::process::End;

/// An app that ended later than this after its launch did not fail for want of a port.
const WINDOW: Duration = Duration::from_secs(10);
/// How late an event may come (0.1 ms is usual).
const LATE: Duration = Duration::from_millis(20);
/// An event this short before the app's end may be its own doing: its socket goes with it, and it may have listened since the last look.
const OWN_END: Duration = Duration::from_millis(60);

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
    /// When the first socket on our ports that was not our own went away.
    first_seen: Option<Instant>,
    /// When a socket of our user last went away without ever having had a port: what a failed `bind` leaves, here or elsewhere.
    bind_failed: Option<Instant>,
}

impl Contest {
    /// Begins to watch the ports that were really taken; `own` are the cookies of our probes' sockets on them.
    pub fn begin(specs: Vec<Spec>, own: Vec<u64>, now: Instant) -> Self {
        let mut ports: Vec<_> = specs.iter().map(|spec| (spec.port, spec.protocol)).collect();
        ports.extend(specs.first().map(|spec| (0, spec.protocol)));
        // Refused netlink only narrows the sight to the moment after the app's end.
        let events = Destroyed::open_wide(&ports).ok();
        Self { specs, ends_at: now + WINDOW, events, own, wide: true, first_seen: None, bind_failed: None }
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

    /// Takes the events that have come. The kernel does not say whose a socket was; one that the app had listened on is told apart by its
    /// time, see [`Contest::lost`].
    pub fn hear(&mut self, now: Instant) {
        let Some(drained) = self.events.as_ref().map(Destroyed::drain) else { return };
        // A queue that ran over proves nothing: on a busy host it would make a lost race of every early end. A broken one says no more.
        let Ok(drained) = drained else {
            self.events = None;
            return;
        };
        let own = nix::unistd::geteuid().as_raw();
        for event in drained.events {
            if event.port == 0 {
                // After somebody's socket, as in a lost race. Any socket that never had a port looks like this, such as those that Go opens
                // and closes when it starts.
                let counts = event.uid == own && self.first_seen.is_some();
                self.bind_failed = self.bind_failed.max(counts.then_some(now));
            } else if !self.own.contains(&event.cookie) {
                self.first_seen.get_or_insert(now);
            }
        }
    }

    /// True if the app, which ended with `end`, lost the race: it never listened, and somebody else holds a port of ours now or did
    /// since the launch. An app that ended with 0 has done what it wanted.
    pub fn lost(&mut self, now: Instant, end: End, arrival: &Arrival) -> bool {
        let failed = end != End::Code(0);
        if !failed || now >= self.ends_at || arrival.has_listened() {
            return false;
        }
        if self.somebody_is_there() {
            return true;
        }
        self.late_events(now);
        // What went away only with the app may have been the app's own listener, unless its bind has failed just then.
        let recent = |at: Instant| now.saturating_duration_since(at) <= OWN_END;
        self.first_seen.is_some_and(|at| !recent(at) || self.bind_failed.is_some_and(recent))
    }

    /// The kernel tells of a closed socket after an RCU grace period, which may be after the app's own end.
    fn late_events(&mut self, now: Instant) {
        let until = Instant::now() + LATE;
        while !(self.first_seen.is_some() && self.bind_failed.is_some()) && Instant::now() < until {
            let Some(events) = self.events() else { return };
            let mut one = [PollFd::new(events, PollFlags::POLLIN)];
            descriptor::wait_readable(&mut one, Some(until));
            self.hear(now);
        }
    }

    /// A look at the ports. Where they are free it ends in an event like any other, so its sockets become known as our own.
    fn somebody_is_there(&mut self) -> bool {
        for spec in &self.specs {
            let mut look = Attempt::new(spec, claim::v6_only(spec, &self.specs));
            match look.bind() {
                Tried::Busy => return true,
                Tried::Ours => self.own.extend(look.into_socket().map(|(_, _, cookie)| cookie)),
                Tried::Never(_) => {}
            }
        }
        false
    }
}
