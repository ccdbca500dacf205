//! Owns the evidence that the app lost its port to another process before it listened, so that it may be launched again. Must not know
//! what is done about it.
//!
//! An app that binds by itself finds the port free, and so does every other process. Evidence is that another process holds the port after
//! the app has ended; or that a socket on it was destroyed since the launch *and* a bind failed after that. A destroyed socket alone proves
//! nothing: an app that checks its port first (binds and closes) leaves the same event.

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
/// How late an event may come (0.1 ms is usual): the kernel reports a closed socket after an RCU grace period, which may end after the
/// app has.
const LATE: Duration = Duration::from_millis(20);

/// The watch over the ports from just before the launch until the app listens, or the window is over.
pub struct LostPort {
    specs: Vec<Spec>,
    ends_at: Instant,
    /// Sockets destroyed on our ports. Another waiter's attempt is there for microseconds: only its end can be seen.
    events: Option<Destroyed>,
    /// The kernel reports every socket of the machine.
    wide: bool,
    evidence: Evidence,
}

/// Whether the port was lost, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Lost,
    NotLost,
    /// Events may still come: ask again then, or when one has.
    Unsure(Instant),
}

/// What the events since the launch prove.
#[derive(Debug, Default)]
struct Evidence {
    /// The cookies of our own sockets on the ports, whose end may be reported after the subscription has begun.
    own: Vec<u64>,
    /// A socket on our ports that was not ours was destroyed: another process's, or one of the app's.
    seen: bool,
    /// After that, or while another process held the port, a socket of our user was destroyed that never had a port: what a failed `bind` leaves.
    /// Alone it proves nothing: Go, for one, opens and closes such sockets when it starts.
    failed: bool,
}

impl Evidence {
    /// `is_held`: whether another process holds one of the ports now.
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

impl LostPort {
    /// Begins to watch the ports that were really taken; `own` are the cookies of our sockets on them.
    pub fn watch(specs: Vec<Spec>, own: Vec<u64>, now: Instant) -> Self {
        let mut ports: Vec<_> = specs.iter().map(|spec| (spec.port, spec.protocol)).collect();
        ports.extend(specs.first().map(|spec| (0, spec.protocol)));
        // Where netlink is refused, the only evidence is a port that is held after the app's end.
        let events = Destroyed::open_wide(&ports).ok();
        Self { specs, ends_at: now + WINDOW, events, wide: true, evidence: Evidence { own, ..Evidence::default() } }
    }

    pub fn ends_at(&self) -> Instant {
        self.ends_at
    }

    /// Readable when there are events.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// The app has survived its first moments: from now on the kernel need not report every socket of the machine.
    pub fn narrow(&mut self) {
        if std::mem::take(&mut self.wide)
            && let Some(events) = &self.events
        {
            events.narrow();
        }
    }

    /// Takes the events that have come.
    pub fn take_events(&mut self) {
        let Some(drained) = self.events.as_ref().map(Destroyed::drain) else { return };
        // A queue that ran over proves nothing, or on a busy host every early end would count as a lost port. A broken one has nothing more
        // to say.
        let Ok(drained) = drained else {
            self.events = None;
            return;
        };
        let user = nix::unistd::geteuid().as_raw();
        let before = self.evidence.is_enough();
        for event in &drained.events {
            let mut evidence = std::mem::take(&mut self.evidence);
            let mut own = Vec::new();
            evidence.on(event, user, || somebody_holds(&self.specs, &mut own));
            evidence.own.extend(own);
            self.evidence = evidence;
        }
        if self.evidence.is_enough() && !before {
            debug!("a bind has failed while somebody else held a port of ours");
        }
    }

    /// Whether the app, which ended with `end` at `ended`, lost its port. `served`: it was seen on its port; asked only where it
    /// decides. An app that ended with 0 has done what it wanted.
    pub fn judge(&mut self, now: Instant, end: End, ended: Instant, served: impl FnOnce() -> bool) -> Loss {
        if end == End::Code(0) || ended >= self.ends_at || served() {
            return Loss::NotLost;
        }
        if self.evidence.is_enough() || somebody_holds(&self.specs, &mut self.evidence.own) {
            return Loss::Lost;
        }
        let until = ended + LATE;
        if self.events.is_none() || now >= until { Loss::NotLost } else { Loss::Unsure(until) }
    }
}

/// Tries the ports. Where they are free the trial ends in an event like any other, so the cookies of its sockets go to `own`.
fn somebody_holds(specs: &[Spec], own: &mut Vec<u64>) -> bool {
    for spec in specs {
        let mut attempt = Attempt::new(spec, claim::v6_only(spec, specs));
        match attempt.bind() {
            Tried::Busy => return true,
            Tried::Ours => own.extend(attempt.into_socket().map(|(_, _, cookie)| cookie)),
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
