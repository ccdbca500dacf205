//! Owns the readiness of one launch: the machine that decides whether the app has come up, and the sources of its facts. Must not know how
//! an app is launched or stopped.
//!
//! - **States**: the port is awaited, unserved, served; the app is ready, or given up (the table in `machine`).
//! - **Facts** (`fact`): looks at sockets, answers of probes, binds and listens that are heard, and time.
//! - **Actions**: look, probe, publish where it listens, say something, ready, not in time. `init` does what is not done here.
//!
//! What shows that the app serves its port is the `Evidence` of its handover:
//!
//! | handover | evidence | source | how it fails, and then |
//! | --- | --- | --- | --- |
//! | `off` | a listener of its own | `sockets`, by looks | /proc may not be read: whoever listens there counts as the app |
//! | `on` | a process accepts on the socket it was given | `sockets` and `accepting`, by looks | the tree may not be seen: believed after five seconds without a queue |
//! | `bind` | its own listen(2) | `binds`, by events | calls cannot be read or answered: everything is let go, and it is looked for as with `off` |
//!
//! The kernel reports no socket that begins to listen, which is why there are looks at all; `pace` makes them rare.
//!
//! Descriptors: `binds` holds the listener of the app's calls, the claimed sockets, and one spare; `lost_port` a netlink socket, until the
//! app listens; a `prober` the pipe of a probe under way. A look opens what it reads and closes it again.
//!
//! `lost_port` feeds no fact: it answers, when the app has ended, whether another process had taken its port.

pub mod accepting;
pub mod advice;
pub mod binds;
pub mod fact;
pub mod lost_port;
pub mod machine;
pub mod pace;
pub mod said;
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

/// The machine and its sources, for one launch.
pub struct Readiness {
    machine: Machine,
    sockets: Sockets,
    /// Of the health target, if one is set.
    prober: Option<Prober>,
    /// While the port may be lost.
    lost_port: Option<LostPort>,
}

/// What the sources of one launch start from.
pub struct Sources {
    /// The inodes of all sockets that the app was given, inherited ones too.
    pub passed: Vec<u64>,
    pub prober: Option<Prober>,
    pub lost_port: Option<LostPort>,
}

impl Readiness {
    /// Of an app launched at `at`. `port_awaited`: its ports are still waited for.
    pub fn begin(expected: Expected, port_awaited: bool, sources: Sources, at: Instant) -> Self {
        let Sources { passed, prober, lost_port } = sources;
        let expected = Expected { at_risk: lost_port.is_some(), ..expected };
        let given = expected.evidence.given_socket();
        let machine = if port_awaited { Machine::awaiting_port(expected, at) } else { Machine::begin(expected, at) };
        let sockets = Sockets::new(machine.primary().cloned(), given, passed, at);
        Self { machine, sockets, prober, lost_port }
    }

    /// The ports that were waited for are ours.
    pub fn port_claimed(&mut self, ports: Vec<Spec>, now: Instant) {
        self.machine.port_claimed(ports, now);
        self.sockets.look_for(self.machine.primary().cloned());
    }

    /// What a fact asks for. The caller does it.
    pub fn on(&mut self, now: Instant, fact: Fact) -> Vec<Action> {
        self.machine.on(now, fact)
    }

    /// Does [`Action::Look`]: what was seen may ask for more.
    pub fn look(&mut self, now: Instant, tree: &Tree) -> Vec<Action> {
        if let Some(lost_port) = &mut self.lost_port {
            lost_port.narrow();
        }
        let seen = self.sockets.look(now, tree);
        self.machine.on(now, Fact::Seen(seen))
    }

    /// Does [`Action::Probe`].
    pub fn probe(&mut self, state: &State) {
        if let Some(prober) = &mut self.prober {
            prober.probe(state);
        }
    }

    /// A child of ours has ended: what it says, if it was a probe.
    pub fn child_ended(&mut self, pid: i32, end: End) -> Option<Fact> {
        let healthy = self.prober.as_mut()?.ended(pid, end)?;
        Some(Fact::Probed { healthy })
    }

    /// Nothing is looked at or probed any more, and who took its port does not matter. The pid of a probe under way: it is killed, and
    /// has still to be reaped.
    pub fn give_up(&mut self) -> Option<i32> {
        self.lost_port = None;
        self.machine.give_up();
        self.prober.as_mut().and_then(Prober::cancel)
    }

    /// When [`Fact::Due`] is due.
    pub fn due_at(&self) -> Option<Instant> {
        self.machine.deadline()
    }

    /// When anything here is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.due_at().into_iter().chain(self.lost_port.as_ref().map(LostPort::ends_at)).min()
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

    /// Ends the watch over the port when it cannot be lost any more: once the app listens, or after so long that a later end has another
    /// reason. Every socket that closes on the machine costs the kernel more while we are subscribed to its end.
    pub fn end_watch(&mut self, now: Instant) {
        if self.lost_port.as_ref().is_some_and(|lost_port| lost_port.ends_at() <= now || self.serves()) {
            self.lost_port = None;
            self.machine.port_is_safe();
        }
    }

    /// Whether the app, which ended with `end` at `ended`, lost its port to another process.
    pub fn port_lost(&mut self, now: Instant, end: End, ended: Instant, tree: &Tree) -> Loss {
        let Some(lost_port) = &mut self.lost_port else { return Loss::NotLost };
        // A child that the app left behind still counts as the app.
        let served = || self.machine.serves() || self.sockets.still_serves(tree).is_some();
        lost_port.judge(now, end, ended, served)
    }

    /// True once the app has come up.
    pub fn is_ready(&self) -> bool {
        self.machine.is_ready()
    }

    /// True once the app has been seen serving its port.
    pub fn serves(&self) -> bool {
        self.machine.serves()
    }

    /// The next look is so far away that what looking takes may go until then.
    pub fn is_slow(&self, now: Instant) -> bool {
        self.machine.is_slow(now)
    }

    /// The port whose socket tells that the app is there.
    pub fn primary(&self) -> Option<&Spec> {
        self.machine.primary()
    }

    /// `--start-timeout`.
    pub fn limit(&self) -> Duration {
        self.machine.limit()
    }

    /// The port that the app has not been seen listening on, and when it was launched.
    pub fn never_listened(&self) -> Option<(u16, Instant)> {
        self.machine.never_listened()
    }

    /// A program that the app has left behind and that still serves its port: its pid and its command line.
    pub fn still_serves(&self, tree: &Tree) -> Option<(i32, String)> {
        self.sockets.still_serves(tree)
    }

    /// Why the app is not ready, a line each.
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
