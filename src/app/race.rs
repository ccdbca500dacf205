//! Owns the evidence on whether an app lost its port to somebody else before it listened, so that it may be launched again. Must not know
//! what is done about it.
//!
//! An app that binds by itself finds the port free, and so does everybody else. What tells afterwards: somebody holds the port now; or a
//! socket on it went away since the launch *and* a bind failed after it. The first alone proves nothing: an app that checks its port (binds
//! and closes) before it works on leaves the same event.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tracing::debug;

use crate::port::attempt::{Attempt, Tried};
use crate::port::claim;
use crate::port::spec::Spec;
use crate::port::watch::{Destroyed, Event};
use crate::sys::process::End;

/// An app that ended later than this after its launch did not fail for want of a port.
const WINDOW: Duration = Duration::from_secs(10);
/// How late an event may come (0.1 ms is usual): the kernel tells of a closed socket after an RCU grace period, which may be after the
/// app's own end.
const LATE: Duration = Duration::from_millis(20);

/// The watch over the ports from just before the launch until the app listens, or the window is over.
pub struct Race {
    specs: Vec<Spec>,
    ends_at: Instant,
    /// Sockets that go away on our ports: another waiter's probe is there for microseconds, and only its end can be seen.
    events: Option<Destroyed>,
    /// The kernel still tells of every socket on the machine.
    wide: bool,
    evidence: Evidence,
}

/// What is known by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Lost,
    NotLost,
    /// Events may still come: ask again then, or when one has.
    Unsure(Instant),
}

/// What the events since the launch prove.
#[derive(Debug, Default)]
struct Evidence {
    /// Cookies of our own probes, whose end the kernel may tell after the subscription has begun.
    own: Vec<u64>,
    /// A socket on our ports that was not ours went away: somebody's, or one of the app's.
    seen: bool,
    /// After it, or while somebody held the port, a socket of our user went away that never had one: what a failed `bind` leaves. Alone it
    /// proves nothing: Go, for one, opens and closes such sockets when it starts.
    failed: bool,
}

impl Evidence {
    /// `is_held`: whether somebody holds one of the ports now.
    fn on(&mut self, event: &Event, user: u32, is_held: impl FnOnce() -> bool) {
        if event.port != 0 {
            self.seen |= !self.own.contains(&event.cookie);
        } else if event.uid == user && !self.failed {
            let held = !self.seen && is_held();
            self.seen |= held;
            self.failed = self.seen;
        }
    }

    fn is_enough(&self) -> bool {
        self.seen && self.failed
    }
}

impl Race {
    /// Begins to watch the ports that were really taken; `own` are the cookies of our probes' sockets on them.
    pub fn begin(specs: Vec<Spec>, own: Vec<u64>, now: Instant) -> Self {
        let mut ports: Vec<_> = specs.iter().map(|spec| (spec.port, spec.protocol)).collect();
        ports.extend(specs.first().map(|spec| (0, spec.protocol)));
        // Refused netlink only narrows the sight to the moment after the app's end.
        let events = Destroyed::open_wide(&ports).ok();
        Self { specs, ends_at: now + WINDOW, events, wide: true, evidence: Evidence { own, ..Evidence::default() } }
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

    /// Takes the events that have come.
    pub fn hear(&mut self) {
        let Some(drained) = self.events.as_ref().map(Destroyed::drain) else { return };
        // A queue that ran over proves nothing: on a busy host it would make a lost race of every early end. A broken one says no more.
        let Ok(drained) = drained else {
            self.events = None;
            return;
        };
        let user = nix::unistd::geteuid().as_raw();
        let before = self.evidence.is_enough();
        for event in &drained.events {
            let mut evidence = std::mem::take(&mut self.evidence);
            let mut own = Vec::new();
            evidence.on(event, user, || somebody_is_there(&self.specs, &mut own));
            evidence.own.extend(own);
            self.evidence = evidence;
        }
        if self.evidence.is_enough() && !before {
            debug!("a bind has failed while somebody else held a port of ours");
        }
    }

    /// Whether the app, which ended with `end` at `ended`, lost the race. `served`: it was seen on its port, which is asked
    /// only where it decides. An app that ended with 0 has done what it wanted.
    pub fn judge(&mut self, now: Instant, end: End, ended: Instant, served: impl FnOnce() -> bool) -> Verdict {
        if end == End::Code(0) || ended >= self.ends_at || served() {
            return Verdict::NotLost;
        }
        if self.evidence.is_enough() || somebody_is_there(&self.specs, &mut self.evidence.own) {
            return Verdict::Lost;
        }
        let until = ended + LATE;
        if self.events.is_none() || now >= until { Verdict::NotLost } else { Verdict::Unsure(until) }
    }
}

/// A look at the ports. Where they are free it ends in an event like any other, so the cookies of its sockets go to `own`.
fn somebody_is_there(specs: &[Spec], own: &mut Vec<u64>) -> bool {
    for spec in specs {
        let mut look = Attempt::new(spec, claim::v6_only(spec, specs));
        match look.bind() {
            Tried::Busy => return true,
            Tried::Ours => own.extend(look.into_socket().map(|(_, _, cookie)| cookie)),
            Tried::Never(_) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bind_that_failed_after_somebody_was_there_is_evidence() {
        const US: u32 = 1000;
        let port = |cookie| Event { port: 80, uid: US, cookie };
        let portless = |uid| Event { port: 0, uid, cookie: 0 };
        for (held, events, enough, why) in [
            (false, &[][..], false, "nothing happened"),
            (false, &[port(7)], false, "the app's own check of its port leaves this"),
            (false, &[port(7), port(8), port(9)], false, "however often it checks"),
            (false, &[portless(US)], false, "a socket that never was anywhere"),
            (false, &[portless(US), port(7)], false, "what a start-up opens and closes is no bind that failed"),
            (false, &[port(7), portless(US)], true, "somebody was there, and a bind failed"),
            (true, &[portless(US)], true, "a bind failed, and somebody is there"),
            (true, &[portless(0)], false, "another user's bind failed"),
            (false, &[port(7), portless(0)], false, "another user's"),
            (false, &[port(1), portless(US)], false, "our own probe"),
            (false, &[port(1), port(7), port(8), portless(0), portless(US)], true, "among others"),
        ] {
            let mut evidence = Evidence { own: vec![1], ..Evidence::default() };
            events.iter().for_each(|event| evidence.on(event, US, || held));
            assert_eq!(evidence.is_enough(), enough, "{why}");
        }
    }
}
