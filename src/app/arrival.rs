//! Owns the sight of an app coming up: on which port, how long it took, and whether that is where it was told to be. Must not know
//! what follows for the app.
//!
//! The kernel sends no event when a socket begins to listen, so this looks, quickly at first and then ever more rarely, and ends:
//! an app that is up, or will never be, costs no wake-up.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::inquiry::Inquiry;
use super::takeup::{self, TakeUp};
use super::tree::Tree;
use crate::health::target::Target;
use crate::port::advice;
use crate::port::holder::{self, Listener};
use crate::port::spec::{Protocol, Spec};
use crate::sys::process::End;

/// Pauses between looks: doubling from the first to the second while the app is this young, then slower, then never again.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const YOUNG_PAUSE: Duration = Duration::from_millis(250);
const YOUNG: Duration = Duration::from_secs(10);
const GROWN_PAUSE: Duration = Duration::from_secs(1);
const GROWN: Duration = Duration::from_secs(120);
const OLD_PAUSE: Duration = Duration::from_secs(10);
const OLD: Duration = Duration::from_secs(1800);
/// While the port may still be lost to somebody else, an app that listens must not come and go unseen.
const CONTEST_PAUSE: Duration = Duration::from_millis(20);
/// An app that opens other ports first gets this long to open the one it was told before that is called a mistake.
const ELSEWHERE_PATIENCE: Duration = Duration::from_secs(2);
/// An app that was given the socket and cannot be seen waiting on it is believed to after this long.
const TAKE_UP_PATIENCE: Duration = Duration::from_secs(5);

/// What a look has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Nothing,
    /// The app has become ready just now.
    Ready,
}

/// What arrival is watched for.
pub struct Expected {
    /// The ports really taken, in the order asked. Empty: an app that runs has come up.
    pub ports: Vec<Spec>,
    /// The inode of the primary's listening socket, if the app was given it.
    pub handed_over: Option<u64>,
    /// The app was given its sockets, whatever their protocol.
    pub gave_sockets: bool,
    /// The inodes of all sockets the app was given, inherited ones too: having them open says nothing of where it listens.
    pub given: Vec<u64>,
    /// The health target, if one is set.
    pub health: Option<Inquiry>,
    /// The port may be lost to somebody else, so looking stays quick for as long.
    pub contested: bool,
    /// A `--start-timeout` is on its way, so looking never gets rare.
    pub impatient: bool,
}

/// The watch over one launch.
pub struct Arrival {
    expected: Expected,
    launched: Instant,
    pause: Duration,
    next: Option<Instant>,
    listened: bool,
    /// When the walk through /proc is due again, if nobody listens on the port.
    next_walk: Instant,
    elsewhere_since: Option<Instant>,
    said_elsewhere: bool,
    /// The app does not take the socket it was given, and this has been said.
    said_untaken: bool,
    /// The inodes of the machine's listeners when the app had hardly begun: none of them is its.
    before: Option<HashSet<u64>>,
    up: bool,
}

impl Arrival {
    /// Begins to watch an app launched at `now`. With neither port nor target there is nothing to wait for.
    pub fn begin(expected: Expected, now: Instant) -> Self {
        let up = expected.ports.is_empty() && expected.health.is_none();
        Self {
            expected,
            launched: now,
            pause: FIRST_PAUSE,
            next: (!up).then(|| now + FIRST_PAUSE),
            listened: false,
            next_walk: now + YOUNG_PAUSE,
            elsewhere_since: None,
            said_elsewhere: false,
            said_untaken: false,
            before: None,
            up,
        }
    }

    /// True if there is nothing to wait for: running is ready.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// When the next look is due; `None`: never again.
    pub fn next_look(&self) -> Option<Instant> {
        self.next
    }

    /// True once the app has been seen listening on its port.
    pub fn has_listened(&self) -> bool {
        self.listened
    }

    /// The port can no longer be lost.
    pub fn no_contest(&mut self) {
        self.expected.contested = false;
    }

    /// No more looks.
    pub fn give_up(&mut self) {
        self.next = None;
        if let Some(inquiry) = &mut self.expected.health {
            inquiry.withdraw();
        }
    }

    /// The app is gone: a last question is pointless. The child that asked it, if one did, is still to be reaped.
    pub fn app_ended(&mut self) -> Option<i32> {
        let asking = self.asks_by();
        self.give_up();
        asking
    }

    /// Looks once at the app.
    pub fn look(&mut self, now: Instant, tree: &Tree) -> Seen {
        self.schedule(now);
        if !self.listened && self.watches_a_port() {
            self.look_for_listener(now, tree);
        }
        if self.up || !self.may_be_ready() {
            return Seen::Nothing;
        }
        let Some(inquiry) = &mut self.expected.health else { return self.ready(now) };
        inquiry.ask();
        Seen::Nothing
    }

    fn watches_a_port(&self) -> bool {
        self.primary().is_some()
    }

    /// The port whose socket tells that the app is there: the first TCP one, or else the first one. A UDP socket that the app was given tells
    /// nothing.
    fn primary(&self) -> Option<&Spec> {
        let tcp = self.expected.ports.iter().find(|spec| spec.protocol == Protocol::Tcp);
        tcp.or_else(|| self.expected.ports.first().filter(|_| !self.expected.gave_sockets))
    }

    /// A target on the app's own port is asked once somebody listens there, any other at once. A socket that was handed over has been
    /// listening all the time, so its target is asked as well when the app cannot be seen taking it.
    fn may_be_ready(&self) -> bool {
        // A mere connection succeeds while nobody accepts, so it is asked only of one who does.
        let target = self.expected.health.as_ref().map(Inquiry::target);
        let (asks, on_port) = target.map_or((false, true), |target| (*target != Target::Tcp, target.needs_port()));
        self.listened || !on_port || !self.watches_a_port() || (asks && self.said_untaken)
    }

    fn schedule(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.launched);
        let cap = match age {
            _ if self.expected.contested => CONTEST_PAUSE,
            _ if age < YOUNG || self.expected.impatient => YOUNG_PAUSE,
            _ if age < GROWN => GROWN_PAUSE,
            _ => OLD_PAUSE,
        };
        self.pause = (self.pause * 2).min(cap);
        self.next = (age < OLD || self.expected.impatient).then(|| now + self.pause);
        if self.next.is_none() {
            warn!("the app has not come up in {} minutes: no longer looking for it", OLD.as_secs() / 60);
        }
    }

    fn look_for_listener(&mut self, now: Instant, tree: &Tree) {
        let Some(primary) = self.primary().cloned() else { return };
        if let Some(inode) = self.expected.handed_over {
            return self.look_for_take_up(now, tree, &primary, inode);
        }
        if self.before.is_none() {
            let inodes = holder::listening(0).unwrap_or_default().into_iter().map(|found| found.inode);
            self.before = Some(inodes.collect());
        }
        // Whoever listens there is found with one cheap question; whose it is costs a walk through /proc.
        let there = match primary.protocol {
            Protocol::Tcp => holder::listening(primary.port).unwrap_or_default(),
            Protocol::Udp => holder::bound_udp(primary.port).unwrap_or_default(),
        };
        if there.is_empty() && now < self.next_walk {
            return;
        }
        self.next_walk = now + YOUNG_PAUSE;
        if !holder::can_see_programs() {
            // The port was ours a moment ago; that somebody listens there is all that can be known.
            return self.listens(&primary, &there);
        }
        let pids = tree.pids();
        let mut here = holder::had_by(&pids, there.clone());
        let mut listeners = self.own_of(&pids);
        if here.is_empty() {
            // The port was ours a moment ago, so a listener of the app's user is the app's; and so is one elsewhere that came after it.
            let hidden = holder::hidden_users(&pids);
            here = there.into_iter().filter(|found| hidden.contains(&found.uid)).collect();
            listeners.extend(self.new_of(&hidden));
        }
        if here.is_empty() {
            return self.look_elsewhere(now, &primary, &listeners);
        }
        self.listens(&primary, &here);
    }

    /// The listeners of these programs that they have opened themselves.
    fn own_of(&self, pids: &[i32]) -> Vec<Listener> {
        let mut all = holder::listeners(pids).unwrap_or_default();
        all.retain(|found| !self.expected.given.contains(&found.inode));
        all
    }

    /// The listeners of these users that were not there when the app began.
    fn new_of(&self, users: &[u32]) -> Vec<Listener> {
        if users.is_empty() {
            return Vec::new();
        }
        let all = holder::listening(0).unwrap_or_default();
        let new = |found: &Listener| self.before.as_ref().is_some_and(|before| !before.contains(&found.inode));
        all.into_iter().filter(|found| users.contains(&found.uid) && new(found)).collect()
    }

    /// These listeners on its port, if there are any, are the app's.
    fn listens(&mut self, primary: &Spec, here: &[Listener]) {
        self.listened = !here.is_empty();
        if !self.listened {
            return;
        }
        let everywhere = primary.addr.is_none_or(|addr| addr.is_unspecified());
        if everywhere && here.iter().all(|found| found.addr.is_loopback()) {
            warn!(
                "the app listens on loopback only ({}): unreachable from outside the container; make it bind 0.0.0.0",
                show(here)
            );
        } else if !everywhere && !here.iter().any(|found| found.answers(primary)) {
            warn!(
                "the app listens on {}, not on {} as it was told; make it bind {{addr}}, or {{host}} and {{port}}, of its arguments",
                show(here),
                advice::label(primary)
            );
        }
    }

    /// The socket listens since the claim; what is looked for is the app waiting on it.
    fn look_for_take_up(&mut self, now: Instant, tree: &Tree, primary: &Spec, inode: u64) {
        let pids = tree.pids();
        let seen = takeup::look(&pids, inode);
        if seen == TakeUp::Waits {
            self.listened = true;
            return;
        }
        let listeners = self.own_of(&pids);
        self.look_elsewhere(now, primary, &listeners);
        let queue = holder::accept_queue(primary.port, inode);
        // Waiting for several descriptors may be waiting for others: not while it listens elsewhere, or keeps clients waiting.
        if seen == TakeUp::Polls && queue == Some(0) && self.elsewhere_since.is_none() {
            self.listened = true;
            return;
        }
        let patient = now.saturating_duration_since(self.launched) < TAKE_UP_PATIENCE;
        if patient || self.said_elsewhere {
            return;
        }
        match (seen, queue) {
            (TakeUp::Closed, _) => {
                self.said_elsewhere = true;
                warn!(
                    "the app has closed the socket it was given for port {}: clients are refused; make it take the descriptor \
                     ({{fd}}, LISTEN_FDS), or leave --handover off",
                    primary.port
                );
            }
            // It may wait in a way that cannot be seen from outside, and nobody has been kept waiting.
            (TakeUp::Unseen, None | Some(0)) => self.listened = self.elsewhere_since.is_none(),
            (_, Some(queue)) if queue > 0 => {
                self.said_elsewhere = true;
                warn!(
                    "{queue} clients wait on port {} and the app accepts none of them: it is still starting, or ignores the socket it was given; make it \
                     take the descriptor ({{fd}}, LISTEN_FDS), or leave --handover off",
                    primary.port
                );
            }
            _ if self.said_untaken => {}
            _ => {
                self.said_untaken = true;
                warn!(
                    "the app has not taken the socket it was given for port {}: clients wait until it does; make it take the descriptor \
                     ({{fd}}, LISTEN_FDS), or leave --handover off",
                    primary.port
                );
            }
        }
    }

    fn look_elsewhere(&mut self, now: Instant, primary: &Spec, listeners: &[Listener]) {
        let told: Vec<u16> = self.expected.ports.iter().map(|spec| spec.port).collect();
        let others: Vec<&Listener> = listeners.iter().filter(|found| !told.contains(&found.port)).collect();
        // On one of its ports, and not on the first of them: that one is what is waited for.
        let partly = listeners.iter().find(|found| told.contains(&found.port) && found.port != primary.port);
        let Some(first) = others.first().copied().or(partly) else {
            self.elsewhere_since = None;
            return;
        };
        let since = *self.elsewhere_since.get_or_insert(now);
        if self.said_elsewhere || now.saturating_duration_since(since) < ELSEWHERE_PATIENCE {
            return;
        }
        self.said_elsewhere = true;
        let place = SocketAddr::new(first.addr, first.port);
        if others.is_empty() {
            warn!(
                "the app listens on {place}, and not on port {}, the first that it was told: it is not ready until it does",
                primary.port
            );
            return;
        }
        let loopback = if first.addr.is_loopback() {
            ", and on loopback only: unreachable from outside the container"
        } else {
            ""
        };
        let ignored = if self.expected.handed_over.is_some() {
            " and ignores the socket it was given (LISTEN_FDS, {fd})"
        } else {
            ""
        };
        warn!(
            "the app listens on {place}, not on port {} as it was told{ignored}{loopback}; make it take PORT from its environment, \
             or write {{port}} into its arguments, and bind 0.0.0.0",
            primary.port
        );
    }

    fn ready(&mut self, now: Instant) -> Seen {
        self.up = true;
        self.next = None;
        let took = now.saturating_duration_since(self.launched);
        match self.primary() {
            Some(primary) => info!("the app is ready on port {} after {} ms", primary.port, took.as_millis()),
            None => info!("the app is ready after {} ms", took.as_millis()),
        }
        Seen::Ready
    }

    /// The child that is out asking the health target.
    pub fn asks_by(&self) -> Option<i32> {
        self.expected.health.as_ref().and_then(Inquiry::asks_by)
    }

    /// True while the next look is so far away that what looking takes may go meanwhile.
    pub fn is_patient(&self, now: Instant) -> bool {
        self.next.is_some_and(|at| at >= now + GROWN_PAUSE)
    }

    /// A child of ours has ended: perhaps the one that asked.
    pub fn probed(&mut self, now: Instant, pid: i32, end: End) -> Seen {
        let healthy = self.expected.health.as_mut().is_some_and(|inquiry| inquiry.answered(pid, end));
        if healthy && !self.up { self.ready(now) } else { Seen::Nothing }
    }

    /// The diagnosis of an app that is not ready in time, a line each.
    pub fn why_not_ready(&self, tree: &Tree) -> Vec<String> {
        let took = self.launched.elapsed().as_secs_f32();
        let mut lines = vec![format!(
            "the app (pid {}) is not ready {took:.1} s after its launch (--start-timeout): stopping it",
            tree.app
        )];
        let pids = tree.pids();
        let mut listeners = self.own_of(&pids);
        let hidden = holder::hidden_users(&pids);
        listeners.extend(self.new_of(&hidden));
        if let Some(primary) = self.primary().filter(|_| !self.listened) {
            lines.push(if self.expected.handed_over.is_some() {
                format!("it was given the socket for port {} (LISTEN_FDS, {{fd}}) and has not taken it", primary.port)
            } else if !holder::can_see_programs() {
                format!(
                    "nobody listens on port {} as it was told (PORT, {{port}}); where it listens cannot be seen without /proc",
                    primary.port
                )
            } else if listeners.is_empty() && !hidden.is_empty() {
                format!(
                    "it was told port {} (PORT, {{port}}); where it listens cannot be seen, since it runs as another user (uid {})",
                    primary.port,
                    hidden.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
                )
            } else if listeners.is_empty() {
                format!("it listens nowhere; it was told port {} (PORT, {{port}})", primary.port)
            } else {
                format!(
                    "it was told port {} and listens on {} instead: make it take PORT from its environment or {{port}} from its \
                     arguments",
                    primary.port,
                    show(&listeners)
                )
            });
        }
        if let Some(inquiry) = &self.expected.health
            && let Some(answer) = inquiry.last_answer()
        {
            lines.push(format!("its health target {} answered last: {answer}", inquiry.target()));
        }
        lines
    }
}

/// `127.0.0.1:80, [::1]:80`
fn show(listeners: &[Listener]) -> String {
    let one = |found: &Listener| SocketAddr::new(found.addr, found.port).to_string();
    listeners.iter().map(one).collect::<Vec<_>>().join(", ")
}
