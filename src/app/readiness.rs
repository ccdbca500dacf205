//! Owns the readiness of one launch: the state machine that decides whether the app is ready, and the sources of its facts. Must not know
//! how an app is launched or stopped.
//!
//! - **States**: port awaited, unserved, served, ready, over (see the table in `machine`).
//! - **Facts** (`fact`): what is seen of sockets, results of probes, intercepted binds and listens, and time.
//! - **Actions**: look, probe, publish the address, log, ready, not in time. `init` performs those that are not performed here.
//!
//! The `Evidence` that the app serves its port depends on the handover:
//!
//! | handover | evidence | source | how it fails, and the fallback |
//! | --- | --- | --- | --- |
//! | `off` | a listener of the app | `sockets`, by polling | /proc cannot be read: any listener on the port counts as the app |
//! | `on` | a process accepts on the socket the app was given | `sockets` and `accepting`, by polling | the tree cannot be read: assumed after five seconds in which no client is kept waiting |
//! | `bind` | the app's own listen(2) | `binds`, by events | calls cannot be read or answered: everything is released, and polling starts as with `off` |
//!
//! The kernel reports no event when a socket starts to listen, so polling is necessary; `pace` keeps it rare.
//!
//! File descriptors: `binds` has the listener for the app's calls, the claimed sockets, and a spare; `lost_port` has a netlink socket until
//! the app listens; a `prober` has a pipe while a probe runs. A look closes what it opens.
//!
//! `lost_port` supplies no facts: once the app has exited, it answers whether another process had taken the port.

pub mod accepting;
pub mod advice;
pub mod binds;
pub mod fact;
pub mod lost_port;
pub mod machine;
pub mod pace;
pub mod remarks;
pub mod sockets;

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use self::fact::{Expected, Fact};
use self::lost_port::{Loss, LostPort};
use self::machine::{Action, Machine};
use self::sockets::Sockets;
use super::prober::Prober;
use super::tree::Tree;
use crate::port::spec::Spec;
use crate::state::State;
use crate::sys::process::End;

/// The state machine and its sources, for one launch.
pub struct Readiness {
    machine: Machine,
    sockets: Sockets,
    /// For the health target, if one is set.
    prober: Option<Prober>,
    /// While the port may be lost.
    lost_port: Option<LostPort>,
}

/// What the sources of one launch start from.
pub struct Sources {
    /// The inodes of all sockets passed to the app, inherited ones included.
    pub passed: Vec<u64>,
    pub prober: Option<Prober>,
    pub lost_port: Option<LostPort>,
}

impl Readiness {
    /// For an app launched at `at`. `port_awaited`: its ports are still waited for.
    pub fn begin(expected: Expected, port_awaited: bool, sources: Sources, at: Instant) -> Self {
        let Sources { passed, prober, lost_port } = sources;
        let expected = Expected { at_risk: lost_port.is_some(), ..expected };
        let given = expected.evidence.given_socket();
        let machine = if port_awaited { Machine::awaiting_port(expected, at) } else { Machine::begin(expected, at) };
        let sockets = Sockets::new(machine.primary().cloned(), given, passed, at);
        Self { machine, sockets, prober, lost_port }
    }

    /// The awaited ports are claimed.
    pub fn port_claimed(&mut self, ports: Vec<Spec>, now: Instant) {
        self.machine.port_claimed(ports, now);
        self.sockets.look_for(self.machine.primary().cloned());
    }

    /// The actions for a fact. The caller performs them.
    pub fn on(&mut self, now: Instant, fact: Fact) -> Vec<Action> {
        self.machine.on(now, fact)
    }

    /// Performs [`Action::Look`], which may lead to more actions.
    pub fn look(&mut self, now: Instant, tree: &Tree) -> Vec<Action> {
        if let Some(lost_port) = &mut self.lost_port {
            lost_port.narrow();
        }
        let seen = self.sockets.look(now, tree);
        self.machine.on(now, Fact::Seen(seen))
    }

    /// Performs [`Action::Probe`].
    pub fn probe(&mut self, state: &State) {
        if let Some(prober) = &mut self.prober {
            prober.probe(state);
        }
    }

    /// A child of reberth has exited: the fact learnt, if it was a probe.
    pub fn child_ended(&mut self, pid: i32, end: End) -> Option<Fact> {
        let healthy = self.prober.as_mut()?.ended(pid, end)?;
        Some(Fact::Probed { healthy })
    }

    /// Stops looking and probing, and the watch over the port. Returns the pid of a running probe, which is killed but not yet reaped.
    pub fn stop_looking(&mut self) -> Option<i32> {
        self.lost_port = None;
        self.machine.stop_looking();
        self.prober.as_mut().and_then(Prober::cancel)
    }

    /// When [`Fact::Due`] is due.
    pub fn fact_due_at(&self) -> Option<Instant> {
        self.machine.deadline()
    }

    /// When the caller has to wake up: a fact is due, or the watch over the port ends ([`Readiness::end_watch`]).
    pub fn wake_at(&self) -> Option<Instant> {
        self.fact_due_at().into_iter().chain(self.lost_port.as_ref().map(LostPort::ends_at)).min()
    }

    /// Readable when [`Readiness::take_events`] has something to do.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.lost_port.as_ref().and_then(LostPort::events)
    }

    pub fn take_events(&mut self) {
        if let Some(lost_port) = &mut self.lost_port {
            lost_port.take_events();
        }
    }

    /// Ends the watch over the port once it cannot be lost any more: the app listens, or has run so long that a later exit is not due
    /// to a failed bind. While reberth is subscribed, every socket closed on the machine costs the kernel extra work.
    pub fn end_watch(&mut self, now: Instant) {
        if self.lost_port.as_ref().is_some_and(|lost_port| lost_port.ends_at() <= now || self.serves()) {
            self.lost_port = None;
            self.machine.port_is_safe();
        }
    }

    /// Whether the app, which exited with `end` at `ended`, lost its port to another process.
    pub fn port_lost(&mut self, now: Instant, end: End, ended: Instant, tree: &Tree) -> Loss {
        let Some(lost_port) = &mut self.lost_port else { return Loss::NotLost };
        // A child that the app left behind counts as the app.
        let served = || self.machine.serves() || self.sockets.still_serves(tree).is_some();
        lost_port.judge(now, end, ended, served)
    }

    /// True once the app is ready.
    pub fn is_ready(&self) -> bool {
        self.machine.is_ready()
    }

    /// True once the app has been seen serving its port.
    pub fn serves(&self) -> bool {
        self.machine.serves()
    }

    /// The next look is so far away that the memory used for looking can be released until then.
    pub fn looks_rarely(&self, now: Instant) -> bool {
        self.machine.looks_rarely(now)
    }

    /// The port whose socket shows that the app listens.
    pub fn primary(&self) -> Option<&Spec> {
        self.machine.primary()
    }

    /// `--start-timeout`.
    pub fn limit(&self) -> Duration {
        self.machine.limit()
    }

    /// The port that the app has not been seen listening on, and when the app was launched.
    pub fn never_listened(&self) -> Option<(u16, Instant)> {
        self.machine.never_listened()
    }

    /// A process that the app left behind and that still serves its port: pid and command line.
    pub fn still_serves(&self, tree: &Tree) -> Option<(i32, String)> {
        self.sockets.still_serves(tree)
    }

    /// Why the app is not ready, one reason per line.
    pub fn diagnosis(&self, tree: &Tree) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(primary) = self.machine.primary().filter(|_| !self.machine.serves()) {
            lines.push(advice::unserved(&self.sockets.why_unserved(tree), primary.port));
        }
        if let Some(prober) = &self.prober
            && let Some(answer) = prober.last_failure()
        {
            lines.push(format!("its health target {} answered last: {answer}", prober.target()));
        }
        lines
    }
}
