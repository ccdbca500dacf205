//! Owns the evidence that the app lost its port to another process before it listened, and so may be launched again. Must not know what is
//! done about it.
//!
//! An app that binds for itself finds the port free, and so does every other process. The evidence is that another process holds the port
//! after the app has exited; or that a socket on the port was destroyed after the launch *and* a bind failed after that. A destroyed socket
//! alone proves nothing: an app that first checks its port (binds and closes) causes the same event.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tracing::debug;

use crate::port::attempt::{Attempt, Tried};
use crate::port::claim;
use crate::port::spec::Spec;
use crate::port::watch::{Destroyed, Event};
use crate::sys::process::End;

/// An app that exits later than this after its launch did not exit because of its port.
const WINDOW: Duration = Duration::from_secs(10);
/// How late an event may arrive (0.1 ms is usual): the kernel reports a closed socket after an RCU grace period, which may end after the
/// app's exit.
const LATE: Duration = Duration::from_millis(20);

/// The watch over the ports, from just before the launch until the app listens or the window ends.
pub struct LostPort {
    specs: Vec<Spec>,
    ends_at: Instant,
    /// Events of sockets destroyed on the ports. The attempt of another waiter lasts microseconds: only its end can be seen.
    events: Option<Destroyed>,
    /// The kernel still reports every socket of the machine.
    wide: bool,
    evidence: Evidence,
}

/// Whether the port was lost, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Lost,
    NotLost,
    /// Events may still arrive: ask again at this instant, or after an event.
    Unsure(Instant),
}

/// What the events since the launch prove.
#[derive(Debug, Default)]
struct Evidence {
    /// The cookies of reberth's own sockets on the ports, whose end may be reported after the subscription has begun.
    own: Vec<u64>,
    /// A socket on the ports that was not reberth's was destroyed: another process's, or the app's.
    seen: bool,
    /// After that, or while another process held the port, a socket of reberth's user was destroyed that never had a port: the trace of a
    /// failed `bind`. Alone it proves nothing: Go, for one, opens and closes such sockets when it starts.
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
    /// Starts to watch the ports actually taken; `own` are the cookies of reberth's sockets on them.
    pub fn watch(specs: Vec<Spec>, own: Vec<u64>, now: Instant) -> Self {
        let mut ports: Vec<_> = specs.iter().map(|spec| (spec.port, spec.protocol)).collect();
        ports.extend(specs.first().map(|spec| (0, spec.protocol)));
        // If netlink is refused, the only evidence is a port that is held after the app's exit.
        let events = Destroyed::open_wide(&ports).ok();
        Self { specs, ends_at: now + WINDOW, events, wide: true, evidence: Evidence { own, ..Evidence::default() } }
    }

    pub fn ends_at(&self) -> Instant {
        self.ends_at
    }

    /// Readable when events are pending.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// The app has been running for a moment: from now on the kernel need not report every socket of the machine.
    pub fn narrow(&mut self) {
        if std::mem::take(&mut self.wide)
            && let Some(events) = &self.events
        {
            events.narrow();
        }
    }

    /// Takes the pending events.
    pub fn take_events(&mut self) {
        let Some(drained) = self.events.as_ref().map(Destroyed::drain) else { return };
        // An overflowed queue proves nothing; otherwise, on a busy host, every early exit would count as a lost port. After an error the
        // subscription is useless.
        let Ok(drained) = drained else {
            self.events = None;
            return;
        };
        let user = nix::unistd::geteuid().as_raw();
        let before = self.evidence.is_enough();
        for event in &drained.events {
            let mut evidence = std::mem::take(&mut self.evidence);
            let mut own = Vec::new();
            evidence.on(event, user, || is_held(&self.specs, &mut own));
            evidence.own.extend(own);
            self.evidence = evidence;
        }
        if self.evidence.is_enough() && !before {
            debug!("a bind failed while another process held one of the ports");
        }
    }

    /// Whether the app, which exited with `end` at `ended`, lost its port. `served`: whether it was seen serving the port; called only if
    /// that decides. An app that exits with 0 has done what it wanted.
    pub fn judge(&mut self, now: Instant, end: End, ended: Instant, served: impl FnOnce() -> bool) -> Loss {
        if end == End::Code(0) || ended >= self.ends_at || served() {
            return Loss::NotLost;
        }
        if self.evidence.is_enough() || is_held(&self.specs, &mut self.evidence.own) {
            return Loss::Lost;
        }
        let until = ended + LATE;
        if self.events.is_none() || now >= until { Loss::NotLost } else { Loss::Unsure(until) }
    }
}

/// Tries to bind the ports. Sockets of a successful try are destroyed too and cause events, so their cookies go to `own`.
fn is_held(specs: &[Spec], own: &mut Vec<u64>) -> bool {
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
    fn only_a_bind_that_failed_beside_another_socket_is_evidence() {
        const US: u32 = 1000;
        let port = |cookie| Event { port: 80, uid: US, cookie };
        let portless = |uid| Event { port: 0, uid, cookie: 0 };
        for (held, events, enough, why) in [
            (false, &[][..], false, "nothing happened"),
            (false, &[port(7)], false, "the app checked its own port"),
            (false, &[port(7), port(8), port(9)], false, "however often it checks"),
            (false, &[portless(US)], false, "a socket that never had a port"),
            (false, &[portless(US), port(7)], false, "sockets opened and closed at startup are no failed bind"),
            (false, &[port(7), portless(US)], true, "another socket was there, and a bind failed"),
            (true, &[portless(US)], true, "a bind failed, and another socket is there"),
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
