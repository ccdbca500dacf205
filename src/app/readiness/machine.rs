//! Owns whether the app is ready: a pure state machine from facts to actions. Must not know how a fact is learnt or an action performed,
//! or read a clock: every fact carries its instant.
//!
//! | stage | meaning | `Due` leads to | left by |
//! | --- | --- | --- | --- |
//! | `PortAwaited` | the port is still waited for, beside the app | nothing | `port_claimed`: `Unserved` |
//! | `Unserved` | no process has been seen serving the port | `Look`, then `Probe` if the target is elsewhere | `Seen`, `ListenCalled`: `Served`, or `Ready` without a target; `Probed` healthy: `Ready` |
//! | `Served` | the app serves its port, or has none, and its health target has not answered yet; without a target, `Ready` follows in the same step | `Probe` | `Probed` healthy: `Ready` |
//! | `Ready` | the app is ready | nothing | nothing |
//! | `Over` | the app has exited, or is to stop: nothing is decided any more | nothing | nothing |
//!
//! `stop_looking` leaves any stage but `Ready`. In `Unserved` and `Served`, the end of `--start-timeout` leads to `NotInTime`, once. Lines about
//! intercepted calls (`BindWaits`, `ClientsReset`, `CallsLost`) are logged in every stage.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::advice;
use super::fact::{Accepting, Evidence, Expected, Fact, Seen};
use super::pace::{LOOKING_ENDS, Pace};
use super::remarks::{Remark, Remarks};
use crate::port::holder::Listener;
use crate::port::spec::{Protocol, Spec};

#[cfg(test)]
mod tests;

/// When an app that listens on another port is logged: a debugger's, metrics or admin port usually opens before the app's own port.
const ELSEWHERE_INFO: Duration = Duration::from_secs(2);
/// When that is called a mistake.
const ELSEWHERE_WARN: Duration = Duration::from_secs(30);
/// When an app that does not listen on any port is logged.
const NOWHERE_INFO: Duration = Duration::from_secs(10);
/// When that is called a mistake.
const NOWHERE_WARN: Duration = Duration::from_secs(60);
/// The delay between a listen(2) on another socket and the look at its address.
const SOON: Duration = Duration::from_millis(20);
/// An app that was given the socket is assumed to accept on it after this long, if it cannot be seen to.
const ACCEPTING_PATIENCE: Duration = Duration::from_secs(5);

/// What the caller has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look at the app's sockets.
    Look,
    /// Probe the health target, unless a probe is running.
    Probe,
    /// The app listens on the primary port at these addresses, without duplicates.
    Listens(Vec<IpAddr>),
    Info(String),
    Warn(String),
    /// The app has just become ready.
    Ready,
    /// The app was not ready within `--start-timeout`.
    NotInTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    PortAwaited,
    Unserved,
    Served,
    Ready,
    Over,
}

/// The state machine, for one launch.
#[derive(Debug, Clone)]
pub struct Machine {
    expected: Expected,
    /// When the app was launched, or when its port was claimed if that was later.
    launched: Instant,
    stage: Stage,
    pace: Pace,
    ready_by: Option<Instant>,
    elsewhere_since: Option<Instant>,
    /// The app was given the socket a while ago and has not been seen taking it.
    not_taken: bool,
    remarks: Remarks,
}

impl Machine {
    /// For an app launched at `now`. With neither port nor target it is ready immediately.
    pub fn begin(expected: Expected, now: Instant) -> Self {
        let mut machine = Self::awaiting_port(expected, now);
        machine.start(now);
        machine
    }

    /// The same for an app whose ports are still waited for: nothing is polled or probed until [`Machine::port_claimed`].
    pub fn awaiting_port(expected: Expected, now: Instant) -> Self {
        Self {
            launched: now,
            stage: Stage::PortAwaited,
            pace: Pace::stopped(),
            ready_by: None,
            elsewhere_since: None,
            not_taken: false,
            remarks: Remarks::default(),
            expected,
        }
    }

    /// The awaited ports are claimed: time counts from now.
    pub fn port_claimed(&mut self, ports: Vec<Spec>, now: Instant) {
        if self.stage != Stage::PortAwaited {
            return;
        }
        self.expected.ports = ports;
        self.start(now);
    }

    fn start(&mut self, now: Instant) {
        self.launched = now;
        if self.expected.target.is_none() && self.expected.ports.is_empty() {
            self.stage = Stage::Ready;
            return;
        }
        self.stage = Stage::Unserved;
        self.ready_by = self.expected.limit.map(|limit| now + limit);
        self.pace.restart(now);
        if self.relies_on_calls() {
            // The only look needed is the one for the remark that the app does not listen.
            self.pace.set(Some(now + NOWHERE_INFO));
        }
    }

    /// True once the app is ready.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// True once the app has been seen serving its port.
    pub fn serves(&self) -> bool {
        matches!(self.stage, Stage::Served | Stage::Ready) && self.primary().is_some()
    }

    /// The port that the app has not been seen listening on, and when the app was launched; `None`: it was seen, or need not be (a socket
    /// that the app was given listens in any case).
    pub fn never_listened(&self) -> Option<(u16, Instant)> {
        let looked_for = self.stage == Stage::Unserved && !self.was_given_socket();
        self.primary().filter(|_| looked_for).map(|primary| (primary.port, self.launched))
    }

    /// When `Fact::Due` is due; `None`: nothing is awaited.
    pub fn deadline(&self) -> Option<Instant> {
        [self.pace.next(), self.ready_by].into_iter().flatten().min()
    }

    /// The next look is so far away that the memory used for looking can be released until then.
    pub fn looks_rarely(&self, now: Instant) -> bool {
        self.pace.looks_rarely(now)
    }

    /// `--start-timeout`; zero if none is set.
    pub fn limit(&self) -> Duration {
        self.expected.limit.unwrap_or_default()
    }

    /// The port cannot be lost any more.
    pub fn port_is_safe(&mut self) {
        self.expected.at_risk = false;
    }

    /// Stops looking and probing.
    pub fn stop_looking(&mut self) {
        if self.stage != Stage::Ready {
            self.stage = Stage::Over;
        }
        self.stop_waiting();
    }

    /// The port whose socket shows that the app listens: the first TCP one, otherwise the first one. A UDP socket that the app was given
    /// shows nothing.
    pub fn primary(&self) -> Option<&Spec> {
        let tcp = self.expected.ports.iter().find(|spec| spec.protocol == Protocol::Tcp);
        tcp.or_else(|| self.expected.ports.first().filter(|_| !self.was_given_socket()))
    }

    /// The actions for `fact` at `now`.
    pub fn on(&mut self, now: Instant, fact: Fact) -> Vec<Action> {
        let undecided = matches!(self.stage, Stage::Unserved | Stage::Served);
        match fact {
            Fact::BindWaits(port) => vec![Action::Info(advice::bind_waits(port))],
            Fact::ClientsReset(clients, place) => vec![Action::Warn(advice::clients_reset(clients, place))],
            Fact::CallsLost(why) => {
                self.expected.evidence = Evidence::Listener;
                if undecided {
                    self.pace.restart(now);
                }
                vec![Action::Warn(advice::calls_lost(&why))]
            }
            // The facts above matter in every stage, those below only while it is open whether the app is ready.
            _ if !undecided => Vec::new(),
            Fact::Due => self.on_due(now),
            Fact::Seen(seen) => self.on_seen(now, &seen),
            Fact::Probed { healthy: true } => self.ready(now),
            Fact::Probed { healthy: false } => Vec::new(),
            Fact::ListenCalled { port, listener } if self.primary().is_some_and(|primary| primary.port == port) => {
                self.on_listen_called(now, listener)
            }
            Fact::ListenCalled { .. } | Fact::OtherListenCalled => {
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
    fn on_listen_called(&mut self, now: Instant, listener: Option<Listener>) -> Vec<Action> {
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

    /// Schedules the next look. The action says that there will be none.
    fn schedule(&mut self, now: Instant) -> Vec<Action> {
        if self.relies_on_calls() && self.stage == Stage::Unserved {
            let since = self.elsewhere_since;
            let elsewhere = since.map(|since| [since + ELSEWHERE_INFO, self.fault_at(since)]);
            let nowhere = [self.launched + NOWHERE_INFO, self.launched + NOWHERE_WARN];
            self.pace.set(elsewhere.into_iter().flatten().chain(nowhere).filter(|at| *at > now).min());
            return Vec::new();
        }
        let age = now.saturating_duration_since(self.launched);
        self.pace.slow_down(now, age, self.expected.at_risk, self.ready_by.is_some());
        let was_last = self.pace.next().is_none();
        was_last.then(|| Action::Warn(advice::looking_ended(LOOKING_ENDS))).into_iter().collect()
    }

    /// After a look, or if there is nothing to look at: the app is ready, or its target is probed. A target on the app's own port is probed
    /// once a process serves the port, any other immediately. A socket that the app was given has been listening all the time, so its
    /// target is probed even if the app is not seen to take it; but not if a mere connection counts as healthy, because connecting succeeds
    /// while no process accepts.
    fn probe_or_ready(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // No port to look at: the app counts as serving.
        if self.stage == Stage::Unserved && self.primary().is_none() {
            self.stage = Stage::Served;
        }
        let serves = self.stage == Stage::Served;
        match self.expected.target {
            None if serves => actions.extend(self.ready(now)),
            None => {}
            Some(target) => {
                let socket_listens = self.not_taken && !target.connects;
                if serves || !target.on_port || socket_listens {
                    actions.push(Action::Probe);
                }
            }
        }
    }

    fn judge(&mut self, now: Instant, seen: &Seen, actions: &mut Vec<Action>) {
        let Some(primary) = self.primary().cloned() else { return };
        match seen {
            // A listener shows nothing here: the claimed socket has listened since the claim, or since the bind. Only the app's own
            // listen(2) counts.
            Seen::Own { all, .. } if self.expected.evidence == Evidence::ListenCall => {
                self.unserved(now, &primary, all, actions);
                // The next remark may now be due earlier.
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
                // It may poll other descriptors: do not count that while it listens on another port, or keeps clients waiting.
                if *accepting == Accepting::Polls && *queue == Some(0) && self.elsewhere_since.is_none() {
                    return self.served(&primary, actions);
                }
                if now.saturating_duration_since(self.launched) >= ACCEPTING_PATIENCE {
                    self.not_accepting(&primary, *accepting, *queue, actions);
                }
            }
        }
    }

    /// The app serves its port. Earlier warnings may have been wrong.
    fn served(&mut self, primary: &Spec, actions: &mut Vec<Action>) {
        self.stage = Stage::Served;
        self.elsewhere_since = None;
        if self.remarks.contains(Remark::Elsewhere) {
            actions.push(Action::Info(advice::serves_now(primary.port)));
        }
    }

    /// The app was given the socket a while ago and has not been seen waiting on it.
    fn not_accepting(&mut self, primary: &Spec, accepting: Accepting, queue: Option<u32>, actions: &mut Vec<Action>) {
        let port = primary.port;
        let (remark, line) = match (accepting, queue) {
            (Accepting::Closed, _) => (Remark::Closed, advice::closed(port)),
            // It may wait in a way that is invisible from outside, and no client is kept waiting.
            (Accepting::Hidden, None | Some(0)) => {
                if self.elsewhere_since.is_none() {
                    self.served(primary, actions);
                }
                return;
            }
            (_, Some(clients)) if clients > 0 => (Remark::Queue, advice::queue(clients, port)),
            _ => {
                self.not_taken = true;
                (Remark::NotTaken, advice::not_taken(port))
            }
        };
        if self.remarks.insert(remark) {
            actions.push(Action::Warn(line));
        }
    }

    /// The app does not serve its port. If it listens on another port, only time shows whether that is a mistake, or a side port of an app
    /// that is still starting.
    fn unserved(&mut self, now: Instant, primary: &Spec, all: &[Listener], actions: &mut Vec<Action>) {
        let own_ports: Vec<u16> = self.expected.ports.iter().map(|spec| spec.port).collect();
        let other = all.iter().find(|found| !own_ports.contains(&found.port));
        // It may listen on one of its ports but not on the first, which is the one that counts.
        let partly = all.iter().find(|found| own_ports.contains(&found.port) && found.port != primary.port);
        let Some(found) = other.or(partly) else {
            self.elsewhere_since = None;
            return self.nowhere(now, primary, actions);
        };
        let since = *self.elsewhere_since.get_or_insert(now);
        let (on_another_of_its_own, port) = (other.is_none(), primary.port);
        if now >= since + ELSEWHERE_INFO && self.remarks.insert(Remark::ElsewhereSoFar) {
            actions.push(Action::Info(advice::elsewhere_so_far(found, on_another_of_its_own, port)));
        }
        if now >= self.fault_at(since) && self.remarks.insert(Remark::Elsewhere) {
            actions.push(Action::Warn(advice::elsewhere(found, on_another_of_its_own, port, self.expected.evidence)));
        }
    }

    /// The app has not been seen listening on any port. Slow starts are common, so at first that is no mistake.
    fn nowhere(&mut self, now: Instant, primary: &Spec, actions: &mut Vec<Action>) {
        let (age, port) = (now.saturating_duration_since(self.launched), primary.port);
        // For a socket that the app was given, `not_accepting` logs the remark.
        if self.was_given_socket() {
            return;
        }
        if age >= NOWHERE_WARN && self.remarks.insert(Remark::Nowhere) {
            self.remarks.insert(Remark::NowhereSoFar);
            actions.push(Action::Warn(advice::nowhere(age, port)));
        } else if age >= NOWHERE_INFO && self.remarks.insert(Remark::NowhereSoFar) {
            actions.push(Action::Info(advice::nowhere_so_far(age, port)));
        }
    }

    /// When it becomes unlikely that the app will still listen on the port: after a long time, or in the last fifth of `--start-timeout`.
    fn fault_at(&self, since: Instant) -> Instant {
        let long = since + ELSEWHERE_WARN;
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

    /// Looks are needed only for remarks about an app that does not listen: its listen(2) is intercepted and reported as an event, and its
    /// target is probed only after that.
    fn relies_on_calls(&self) -> bool {
        self.expected.evidence == Evidence::ListenCall && self.expected.target.is_none_or(|target| target.on_port)
    }
}

/// Where the app listens on its port, and what is wrong with that address.
fn listens(primary: &Spec, here: &[Listener], actions: &mut Vec<Action>) {
    actions.push(Action::Listens(advice::addresses(here)));
    actions.extend(advice::wrong_address(primary, here).map(Action::Warn));
}
