//! Owns whether the app has come up: a pure machine from facts to actions. Must not know how a fact is learnt or an action done, or read a
//! clock: every instant comes in with its fact.
//!
//! | stage | what it means | `Due` asks for | left by |
//! | --- | --- | --- | --- |
//! | `PortAwaited` | the port is still waited for, beside the app | nothing | `port_claimed`: `Unserved` |
//! | `Unserved` | nobody has been seen serving the port | `Look`, and after it `Probe` of a target elsewhere | `Seen`, `ListenHeard`: `Served`, without a target `Ready`; `Probed` healthy: `Ready` |
//! | `Served` | the app serves its port, or has none; its health target has to answer | `Probe` | `Probed` healthy: `Ready` |
//! | `Ready` | it has come up | nothing | nothing |
//! | `GivenUp` | what becomes of it is of no interest any more | nothing | nothing |
//!
//! `give_up` leaves any stage but `Ready`. In `Unserved` and `Served` the end of `--start-timeout` asks for `NotInTime`, once. What is said
//! about heard calls (`BindWaits`, `ClientsReset`, `CallsLost`) is said in every stage.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::advice;
use super::fact::{Accepting, Evidence, Expected, Fact, Seen};
use super::pace::{OLD, Pace};
use super::said::{Remark, Said};
use crate::port::holder::Listener;
use crate::port::spec::{Protocol, Spec};

#[cfg(test)]
mod tests;

/// A debugger's, metrics or admin port usually opens before the app's own: worth a remark after the first of these, and called a mistake
/// after the second.
const ELSEWHERE_TOLD: Duration = Duration::from_secs(2);
const ELSEWHERE_FAULT: Duration = Duration::from_secs(30);
/// An app that listens nowhere at all is worth a remark after the first of these, and called a fault after the second.
const NOWHERE_TOLD: Duration = Duration::from_secs(10);
const NOWHERE_FAULT: Duration = Duration::from_secs(60);
/// Between a listen(2) on another socket and the look at where.
const SOON: Duration = Duration::from_millis(20);
/// An app that was given the socket and is not seen waiting on it is believed to after this long.
const ACCEPTING_PATIENCE: Duration = Duration::from_secs(5);

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look at the app's sockets.
    Look,
    /// Probe the health target, unless a probe is under way.
    Probe,
    /// The app listens on the primary port at these addresses, each once.
    Listens(Vec<IpAddr>),
    Info(String),
    Warn(String),
    /// The app has become ready just now.
    Ready,
    /// It was not ready within `--start-timeout`.
    NotInTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    PortAwaited,
    Unserved,
    Served,
    Ready,
    GivenUp,
}

/// The machine, for one launch.
#[derive(Debug, Clone)]
pub struct Machine {
    expected: Expected,
    /// When it was launched, or got its port if that came later.
    launched: Instant,
    stage: Stage,
    pace: Pace,
    ready_by: Option<Instant>,
    elsewhere_since: Option<Instant>,
    said: Said,
}

impl Machine {
    /// Begins with an app launched at `now`. With neither port nor target there is nothing to wait for.
    pub fn begin(expected: Expected, now: Instant) -> Self {
        let mut machine = Self::awaiting_port(expected, now);
        let ports = std::mem::take(&mut machine.expected.ports);
        machine.port_claimed(ports, now);
        machine
    }

    /// The same for an app whose ports are still waited for: nothing is looked at or probed until [`Machine::port_claimed`].
    pub fn awaiting_port(expected: Expected, now: Instant) -> Self {
        Self {
            launched: now,
            stage: Stage::PortAwaited,
            pace: Pace::stopped(),
            ready_by: None,
            elsewhere_since: None,
            said: Said::default(),
            expected,
        }
    }

    /// The ports are ours, these: the app's time begins now.
    pub fn port_claimed(&mut self, ports: Vec<Spec>, now: Instant) {
        if self.stage != Stage::PortAwaited {
            return;
        }
        self.expected.ports = ports;
        self.launched = now;
        if self.expected.target.is_none() && self.expected.ports.is_empty() {
            self.stage = Stage::Ready;
            return;
        }
        self.stage = Stage::Unserved;
        self.ready_by = self.expected.limit.map(|limit| now + limit);
        self.pace.restart(now);
        if self.is_only_heard() {
            // No look is needed but for the remark that it listens nowhere.
            self.pace.set(Some(now + NOWHERE_TOLD));
        }
    }

    /// True once the app has come up.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// True once the app has been seen serving its port.
    pub fn serves(&self) -> bool {
        matches!(self.stage, Stage::Served | Stage::Ready) && self.primary().is_some()
    }

    /// The port that the app has not been seen listening on, and when it was launched; `None`: it was, or it need not be seen (a socket
    /// that it was given listens anyway).
    pub fn never_listened(&self) -> Option<(u16, Instant)> {
        let looked_for = self.stage == Stage::Unserved && !self.was_given_socket();
        self.primary().filter(|_| looked_for).map(|primary| (primary.port, self.launched))
    }

    /// When `Fact::Due` is due; `None`: nothing is waited for.
    pub fn deadline(&self) -> Option<Instant> {
        [self.pace.next(), self.ready_by].into_iter().flatten().min()
    }

    /// The next look is so far away that what looking takes may go until then.
    pub fn is_slow(&self, now: Instant) -> bool {
        self.pace.is_slow(now)
    }

    /// `--start-timeout`; zero where none is set.
    pub fn limit(&self) -> Duration {
        self.expected.limit.unwrap_or_default()
    }

    /// The port cannot be lost any more.
    pub fn port_is_safe(&mut self) {
        self.expected.at_risk = false;
    }

    /// Nothing is looked at or probed any more.
    pub fn give_up(&mut self) {
        if self.stage != Stage::Ready {
            self.stage = Stage::GivenUp;
        }
        self.stop_waiting();
    }

    /// The port whose socket tells that the app is there: the first TCP one, or else the first one. A UDP socket that the app was given
    /// tells nothing.
    pub fn primary(&self) -> Option<&Spec> {
        let tcp = self.expected.ports.iter().find(|spec| spec.protocol == Protocol::Tcp);
        tcp.or_else(|| self.expected.ports.first().filter(|_| !self.was_given_socket()))
    }

    /// What `fact` at `now` asks for.
    pub fn on(&mut self, now: Instant, fact: Fact) -> Vec<Action> {
        let over = !matches!(self.stage, Stage::Unserved | Stage::Served);
        match fact {
            Fact::BindWaits(port) => vec![Action::Info(advice::bind_waits(port))],
            Fact::ClientsReset(clients, place) => vec![Action::Warn(advice::clients_reset(clients, place))],
            Fact::CallsLost(why) => {
                self.expected.evidence = Evidence::Listener;
                if !over {
                    self.pace.restart(now);
                }
                vec![Action::Warn(advice::calls_lost(&why))]
            }
            _ if over => Vec::new(),
            Fact::Due => self.on_due(now),
            Fact::Seen(seen) => self.on_seen(now, &seen),
            Fact::Probed { healthy: true } => self.ready(now),
            Fact::Probed { healthy: false } => Vec::new(),
            Fact::ListenHeard { port, listener } if self.primary().is_some_and(|primary| primary.port == port) => {
                self.on_listen_heard(now, listener)
            }
            Fact::ListenHeard { .. } | Fact::OtherListenHeard => {
                if self.stage == Stage::Unserved && self.expected.evidence == Evidence::ListenCall {
                    self.pace.hurry(now + SOON);
                }
                Vec::new()
            }
        }
    }

    fn on_due(&mut self, now: Instant) -> Vec<Action> {
        if self.ready_by.is_some_and(|at| at <= now) {
            self.ready_by = None;
            return vec![Action::NotInTime];
        }
        if !self.pace.is_due(now) {
            return Vec::new();
        }
        let mut actions = self.schedule(now);
        if self.stage == Stage::Unserved && self.primary().is_some() {
            actions.push(Action::Look);
        } else {
            self.probe_or_ready(now, &mut actions);
        }
        actions
    }

    fn on_seen(&mut self, now: Instant, seen: &Seen) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stage == Stage::Unserved {
            self.judge(now, seen, &mut actions);
        }
        self.probe_or_ready(now, &mut actions);
        actions
    }

    /// The answered call is the event: no look is needed.
    fn on_listen_heard(&mut self, now: Instant, listener: Option<Listener>) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stage == Stage::Unserved
            && let Some(primary) = self.primary().cloned()
        {
            self.served(&primary, &mut actions);
            if let Some(here) = listener {
                listens(&primary, &[here], &mut actions);
            }
            self.pace.restart(now);
            self.probe_or_ready(now, &mut actions);
        }
        actions
    }

    /// Sets the next look.
    fn schedule(&mut self, now: Instant) -> Vec<Action> {
        if self.is_only_heard() && self.stage == Stage::Unserved {
            let since = self.elsewhere_since;
            let elsewhere = since.map(|since| [since + ELSEWHERE_TOLD, self.fault_at(since)]);
            let nowhere = [self.launched + NOWHERE_TOLD, self.launched + NOWHERE_FAULT];
            self.pace.set(elsewhere.into_iter().flatten().chain(nowhere).filter(|at| *at > now).min());
            return Vec::new();
        }
        let age = now.saturating_duration_since(self.launched);
        self.pace.slow_down(now, age, self.expected.at_risk, self.ready_by.is_some());
        let gives_up = self.pace.next().is_none();
        gives_up.then(|| Action::Warn(advice::given_up(OLD))).into_iter().collect()
    }

    /// After a look, or where there is nothing to look at: the app is ready, or its target is probed. A target on the app's own port is
    /// probed once somebody serves there, any other at once. A socket that was given has been listening all the time, so its target is
    /// probed even when the app is not seen taking it; but a mere connection succeeds while nobody accepts.
    fn probe_or_ready(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let nothing_to_see = self.primary().is_none();
        if self.stage == Stage::Unserved && nothing_to_see {
            self.stage = Stage::Served;
        }
        let serves = self.stage == Stage::Served;
        match self.expected.target {
            None if serves => actions.extend(self.ready(now)),
            None => {}
            Some(target) => {
                let not_taken = !target.connects && self.said.contains(Remark::NotTaken);
                if serves || !target.on_port || not_taken {
                    actions.push(Action::Probe);
                }
            }
        }
    }

    fn judge(&mut self, now: Instant, seen: &Seen, actions: &mut Vec<Action>) {
        let Some(primary) = self.primary().cloned() else { return };
        match seen {
            // A listener says nothing here: ours has listened since the claim, or since the bind. The app's own listen(2) says it.
            Seen::Own { all, .. } if self.expected.evidence == Evidence::ListenCall => {
                self.unserved(now, &primary, all, actions);
                // The next remark may be due earlier than before.
                actions.extend(self.schedule(now));
            }
            Seen::Own { here, all } if here.is_empty() => self.unserved(now, &primary, all, actions),
            Seen::Own { here, .. } => {
                self.served(&primary, actions);
                listens(&primary, here, actions);
            }
            Seen::Given { accepting, queue, all } => {
                if *accepting == Accepting::Waits {
                    return self.served(&primary, actions);
                }
                self.unserved(now, &primary, all, actions);
                // What it polls may be other descriptors: do not believe it while it listens elsewhere, or keeps clients waiting.
                if *accepting == Accepting::Polls && *queue == Some(0) && self.elsewhere_since.is_none() {
                    return self.served(&primary, actions);
                }
                if now.saturating_duration_since(self.launched) >= ACCEPTING_PATIENCE {
                    self.not_accepting(&primary, *accepting, *queue, actions);
                }
            }
        }
    }

    /// The app serves its port. What was said of it before may have been wrong.
    fn served(&mut self, primary: &Spec, actions: &mut Vec<Action>) {
        self.stage = Stage::Served;
        self.elsewhere_since = None;
        if self.said.contains(Remark::Elsewhere) {
            actions.push(Action::Info(advice::serves_now(primary.port)));
        }
    }

    /// The app was given the socket a while ago and has not been seen waiting on it.
    fn not_accepting(&mut self, primary: &Spec, accepting: Accepting, queue: Option<u32>, actions: &mut Vec<Action>) {
        let port = primary.port;
        let (remark, line) = match (accepting, queue) {
            (Accepting::Closed, _) => (Remark::Closed, advice::closed(port)),
            // It may wait in a way that cannot be seen from outside, and nobody is kept waiting.
            (Accepting::Hidden, None | Some(0)) => {
                if self.elsewhere_since.is_none() {
                    self.served(primary, actions);
                }
                return;
            }
            (_, Some(clients)) if clients > 0 => (Remark::Queue, advice::queue(clients, port)),
            _ => (Remark::NotTaken, advice::not_taken(port)),
        };
        if self.said.first(remark) {
            actions.push(Action::Warn(line));
        }
    }

    /// It does not serve its port. Whether listening somewhere else is a mistake, or a side port of an app that is still starting, only
    /// time tells.
    fn unserved(&mut self, now: Instant, primary: &Spec, all: &[Listener], actions: &mut Vec<Action>) {
        let told: Vec<u16> = self.expected.ports.iter().map(|spec| spec.port).collect();
        let other = all.iter().find(|found| !told.contains(&found.port));
        // It may listen on one of its ports and not on the first of them, which is the one waited for.
        let partly = all.iter().find(|found| told.contains(&found.port) && found.port != primary.port);
        let Some(found) = other.or(partly) else {
            self.elsewhere_since = None;
            return self.nowhere(now, primary, actions);
        };
        let since = *self.elsewhere_since.get_or_insert(now);
        let (told, port) = (other.is_none(), primary.port);
        if now >= since + ELSEWHERE_TOLD && self.said.first(Remark::ElsewhereSoFar) {
            actions.push(Action::Info(advice::elsewhere_so_far(found, told, port)));
        }
        if now >= self.fault_at(since) && self.said.first(Remark::Elsewhere) {
            actions.push(Action::Warn(advice::elsewhere(found, told, port, self.expected.evidence)));
        }
    }

    /// It has not been seen listening anywhere. Slow starts are usual, so that is no fault at first.
    fn nowhere(&mut self, now: Instant, primary: &Spec, actions: &mut Vec<Action>) {
        let (age, port) = (now.saturating_duration_since(self.launched), primary.port);
        // What it does with a socket that it was given is for `not_accepting` to say.
        if self.was_given_socket() {
            return;
        }
        if age >= NOWHERE_FAULT && self.said.first(Remark::Nowhere) {
            self.said.first(Remark::NowhereSoFar);
            actions.push(Action::Warn(advice::nowhere(age, port)));
        } else if age >= NOWHERE_TOLD && self.said.first(Remark::NowhereSoFar) {
            actions.push(Action::Info(advice::nowhere_so_far(age, port)));
        }
    }

    /// When it is no longer likely that the port still comes: after a long time, or in the last fifth of `--start-timeout`.
    fn fault_at(&self, since: Instant) -> Instant {
        let long = since + ELSEWHERE_FAULT;
        match (self.ready_by, self.expected.limit) {
            (Some(by), Some(limit)) => by.checked_sub(limit / 5).map_or(long, |near| near.min(long)),
            _ => long,
        }
    }

    fn ready(&mut self, now: Instant) -> Vec<Action> {
        self.stage = Stage::Ready;
        self.stop_waiting();
        let port = self.primary().map(|primary| primary.port);
        let line = advice::ready(port, now.saturating_duration_since(self.launched));
        vec![Action::Info(line), Action::Ready]
    }

    fn stop_waiting(&mut self) {
        self.pace.stop();
        self.ready_by = None;
    }

    fn was_given_socket(&self) -> bool {
        self.expected.evidence.is_of_given_socket()
    }

    /// Looks serve only for what is said of an app that does not listen: the app is heard, and a probe of its target waits for its
    /// listen(2).
    fn is_only_heard(&self) -> bool {
        self.expected.evidence == Evidence::ListenCall && self.expected.target.is_none_or(|target| target.on_port)
    }
}

/// Where the app listens on its port, and what is wrong with that.
fn listens(primary: &Spec, here: &[Listener], actions: &mut Vec<Action>) {
    actions.push(Action::Listens(advice::addresses(here)));
    actions.extend(advice::wrong_address(primary, here).map(Action::Warn));
}
