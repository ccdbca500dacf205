//! Owns whether the app has come up, and what is said of it until it has: a pure machine from facts to things to do. Must not know how a
//! fact is found out, or read a clock: every instant comes in with its fact.
//!
//! The kernel sends no event when a socket begins to listen, so an app that binds by itself is looked at, quickly at first and then ever more
//! rarely; that ends too, so an app that is up, or will never be, costs no wake-up.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::takeup::TakeUp;
use crate::port::advice;
use crate::port::holder::Listener;
use crate::port::spec::{Protocol, Spec};

#[cfg(test)]
mod tests;

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
/// A debugger's, metrics or admin port opens before the app's own as a rule: worth a word after the first of these, and called a mistake
/// after the second.
const ELSEWHERE_TOLD: Duration = Duration::from_secs(2);
const ELSEWHERE_FAULT: Duration = Duration::from_secs(30);
/// Between the word that the app listens somewhere and the look at where.
const SOON: Duration = Duration::from_millis(20);
/// An app that was given the socket and cannot be seen waiting on it is believed to after this long.
const TAKE_UP_PATIENCE: Duration = Duration::from_secs(5);

/// An app that listens nowhere at all is worth a word after the first of these, and called a fault after the second.
const QUIET_TOLD: Duration = Duration::from_secs(10);
const QUIET_FAULT: Duration = Duration::from_secs(60);

/// How the app comes to its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It binds by itself.
    Binds,
    /// It was given its sockets; `inode` is that of the primary's, where it is TCP.
    Given { inode: Option<u64> },
    /// Its own calls are heard, so nothing needs to be looked for.
    Heard,
}

/// The health target, as far as it decides when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// It is on the primary port.
    pub on_port: bool,
    /// A mere connection answers it.
    pub connects: bool,
}

/// What the machine is told once.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The ports really taken, in the order asked. Empty: an app that runs has come up.
    pub ports: Vec<Spec>,
    pub way: Way,
    pub target: Option<Target>,
    /// The port may be lost to somebody else, so looking stays quick for as long.
    pub contested: bool,
    /// `--start-timeout`, from the launch.
    pub limit: Option<Duration>,
}

/// What was seen of the app's sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// Of an app that binds by itself: its listeners on the primary port, and all that it has.
    Own { here: Vec<Listener>, all: Vec<Listener> },
    /// Of an app that was given the socket: whether it waits on it, how many clients do, and the listeners it has opened besides.
    Given { take_up: TakeUp, queue: Option<u32>, all: Vec<Listener> },
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// `next` has come.
    Due,
    Seen(View),
    /// The health target was asked, and this came of it.
    Answered {
        healthy: bool,
    },
    /// Its own listen(2) on the primary port has been answered, and these are its listeners there.
    Listens(Vec<Listener>),
    /// It has begun to listen somewhere else.
    Stirs,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Look at the app's sockets.
    Look,
    /// Ask the health target, unless it is being asked.
    Ask,
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
    /// The port is still waited for, and so is the app.
    Asleep,
    /// Nobody has been seen serving on the port.
    Looking,
    /// The app serves its port, or has none; its health target is to say when it is ready.
    Asking,
    Up,
    /// What becomes of it is of no interest any more.
    GivenUp,
}

/// What has been said already: each of these once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Quiet,
    QuietFault,
    SoFar,
    Elsewhere,
    Closed,
    Queue,
    Untaken,
}

/// The machine, for one launch.
#[derive(Debug, Clone)]
pub struct Readiness {
    expected: Expected,
    launched: Instant,
    stage: Stage,
    pause: Duration,
    next_look: Option<Instant>,
    ready_by: Option<Instant>,
    elsewhere_since: Option<Instant>,
    said: Vec<Said>,
}

impl Readiness {
    /// Begins with an app launched at `now`. With neither port nor target there is nothing to wait for.
    pub fn begin(expected: Expected, now: Instant) -> Self {
        let mut machine = Self::asleep(expected, now);
        let ports = std::mem::take(&mut machine.expected.ports);
        machine.wake(ports, now);
        machine
    }

    /// The same for an app whose ports are still waited for: nothing is looked at or asked until [`Readiness::wake`].
    pub fn asleep(expected: Expected, now: Instant) -> Self {
        Self {
            launched: now,
            stage: Stage::Asleep,
            pause: FIRST_PAUSE,
            next_look: None,
            ready_by: None,
            elsewhere_since: None,
            said: Vec::new(),
            expected,
        }
    }

    /// The ports are ours, these: the app's time begins now.
    pub fn wake(&mut self, ports: Vec<Spec>, now: Instant) {
        if self.stage != Stage::Asleep {
            return;
        }
        self.expected.ports = ports;
        self.launched = now;
        let nothing = self.expected.target.is_none() && self.expected.ports.is_empty();
        self.stage = if nothing { Stage::Up } else { Stage::Looking };
        self.ready_by = self.expected.limit.filter(|_| !nothing).map(|limit| now + limit);
        // An app whose listen(2) is heard needs no look; a target elsewhere is asked all the same.
        let heard = self.expected.way == Way::Heard && self.expected.target.is_none_or(|target| target.on_port);
        // But for the word that it listens nowhere.
        self.next_look = (!nothing).then(|| now + if heard { QUIET_TOLD } else { FIRST_PAUSE });
    }

    /// The app's calls cannot be heard any more: it is looked for from now on.
    pub fn look(&mut self, now: Instant) {
        self.expected.way = Way::Binds;
        if matches!(self.stage, Stage::Looking | Stage::Asking) {
            (self.pause, self.next_look) = (FIRST_PAUSE, Some(now + FIRST_PAUSE));
        }
    }

    pub fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    /// True once the app has been seen serving its port.
    pub fn serves(&self) -> bool {
        matches!(self.stage, Stage::Asking | Stage::Up) && self.primary().is_some()
    }

    /// The port that the app has not been seen listening on, and when it was launched; `None`: it was, or it need not be seen (a socket that it
    /// was given listens anyway).
    pub fn unseen(&self) -> Option<(u16, Instant)> {
        let looked_for = self.stage == Stage::Looking && !matches!(self.expected.way, Way::Given { .. });
        self.primary().filter(|_| looked_for).map(|primary| (primary.port, self.launched))
    }

    /// When `Fact::Due` is due; `None`: nothing is waited for.
    pub fn next(&self) -> Option<Instant> {
        [self.next_look, self.ready_by].into_iter().flatten().min()
    }

    /// True while the next look is so far away that what looking takes may go meanwhile.
    pub fn is_patient(&self, now: Instant) -> bool {
        self.next_look.is_some_and(|at| at >= now + GROWN_PAUSE)
    }

    /// `--start-timeout`; zero where none is set.
    pub fn limit(&self) -> Duration {
        self.expected.limit.unwrap_or_default()
    }

    /// The port can no longer be lost.
    pub fn no_contest(&mut self) {
        self.expected.contested = false;
    }

    /// Nothing is looked at or asked any more.
    pub fn give_up(&mut self) {
        if self.stage != Stage::Up {
            self.stage = Stage::GivenUp;
        }
        (self.next_look, self.ready_by) = (None, None);
    }

    /// The port whose socket tells that the app is there: the first TCP one, or else the first one. A UDP socket that the app was given tells
    /// nothing.
    pub fn primary(&self) -> Option<&Spec> {
        let tcp = self.expected.ports.iter().find(|spec| spec.protocol == Protocol::Tcp);
        tcp.or_else(|| self.expected.ports.first().filter(|_| !matches!(self.expected.way, Way::Given { .. })))
    }

    /// What `fact` at `now` asks for.
    pub fn on(&mut self, now: Instant, fact: Fact) -> Vec<Do> {
        if matches!(self.stage, Stage::Asleep | Stage::Up | Stage::GivenUp) {
            return Vec::new();
        }
        match fact {
            Fact::Due => self.on_due(now),
            Fact::Seen(view) => {
                let mut todo = Vec::new();
                if self.stage == Stage::Looking {
                    self.judge(now, &view, &mut todo);
                }
                self.go_on(now, &mut todo);
                todo
            }
            Fact::Answered { healthy: true } => self.ready(now),
            Fact::Answered { healthy: false } => Vec::new(),
            Fact::Listens(here) => self.on_listens(now, &here),
            Fact::Stirs => {
                if self.stage == Stage::Looking && self.expected.way == Way::Heard {
                    let soon = now + SOON;
                    self.next_look = Some(self.next_look.map_or(soon, |at| at.min(soon)));
                }
                Vec::new()
            }
        }
    }

    /// The kernel has told nobody else: this is the event, and no look.
    fn on_listens(&mut self, now: Instant, here: &[Listener]) -> Vec<Do> {
        let mut todo = Vec::new();
        if self.stage == Stage::Looking
            && let Some(primary) = self.primary().cloned()
        {
            self.found(&primary, &mut todo);
            if !here.is_empty() {
                listens(&primary, here, &mut todo);
            }
            (self.pause, self.next_look) = (FIRST_PAUSE, Some(now + FIRST_PAUSE));
            self.go_on(now, &mut todo);
        }
        todo
    }

    fn on_due(&mut self, now: Instant) -> Vec<Do> {
        if self.ready_by.is_some_and(|at| at <= now) {
            self.ready_by = None;
            return vec![Do::NotInTime];
        }
        if self.next_look.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut todo = self.schedule(now);
        if self.stage == Stage::Looking && self.primary().is_some() {
            todo.push(Do::Look);
        } else {
            self.go_on(now, &mut todo);
        }
        todo
    }

    fn schedule(&mut self, now: Instant) -> Vec<Do> {
        // Whose calls are heard is looked at for what was said of it alone: when that is to be said, or called a fault.
        let heard = self.expected.way == Way::Heard && self.expected.target.is_none_or(|target| target.on_port);
        if heard && self.stage == Stage::Looking {
            let since = self.elsewhere_since;
            let steps = since.map(|since| [since + ELSEWHERE_TOLD, self.fault_at(since)]);
            let quiet = [self.launched + QUIET_TOLD, self.launched + QUIET_FAULT];
            self.next_look = steps.into_iter().flatten().chain(quiet).filter(|at| *at > now).min();
            return Vec::new();
        }
        let age = now.saturating_duration_since(self.launched);
        let impatient = self.ready_by.is_some();
        let cap = match age {
            _ if self.expected.contested => CONTEST_PAUSE,
            _ if age < YOUNG || impatient => YOUNG_PAUSE,
            _ if age < GROWN => GROWN_PAUSE,
            _ => OLD_PAUSE,
        };
        self.pause = (self.pause * 2).min(cap);
        self.next_look = (age < OLD || impatient).then(|| now + self.pause);
        if self.next_look.is_some() {
            return Vec::new();
        }
        let minutes = OLD.as_secs() / 60;
        vec![Do::Warn(format!("the app has not come up in {minutes} minutes: no longer looking for it"))]
    }

    /// After a look, or where there is nothing to look at: ready, or its target is asked. A target on the app's own port is asked once
    /// somebody serves there, any other at once. A socket that was handed over has been listening all the time, so its target is asked as
    /// well when the app cannot be seen taking it; but a mere connection succeeds while nobody accepts.
    fn go_on(&mut self, now: Instant, todo: &mut Vec<Do>) {
        let nothing_to_see = self.primary().is_none();
        if self.stage == Stage::Looking && nothing_to_see {
            self.stage = Stage::Asking;
        }
        let serves = self.stage == Stage::Asking;
        match self.expected.target {
            None if serves => todo.extend(self.ready(now)),
            None => {}
            Some(target) => {
                let untaken = !target.connects && self.said.contains(&Said::Untaken);
                if serves || !target.on_port || untaken {
                    todo.push(Do::Ask);
                }
            }
        }
    }

    fn judge(&mut self, now: Instant, view: &View, todo: &mut Vec<Do>) {
        let Some(primary) = self.primary().cloned() else { return };
        match view {
            // Having it open says nothing: it listens since the claim, or since the bind. Its own listen(2) does.
            View::Own { all, .. } if self.expected.way == Way::Heard => {
                self.elsewhere(now, &primary, all, todo);
                // When the next thing is to be said.
                todo.extend(self.schedule(now));
            }
            View::Own { here, all } if here.is_empty() => self.elsewhere(now, &primary, all, todo),
            View::Own { here, .. } => {
                self.found(&primary, todo);
                listens(&primary, here, todo);
            }
            View::Given { take_up, queue, all } => {
                if *take_up == TakeUp::Waits {
                    return self.found(&primary, todo);
                }
                self.elsewhere(now, &primary, all, todo);
                // Waiting for several descriptors may be waiting for others: not while it listens elsewhere, or keeps clients waiting.
                if *take_up == TakeUp::Polls && *queue == Some(0) && self.elsewhere_since.is_none() {
                    return self.found(&primary, todo);
                }
                if now.saturating_duration_since(self.launched) >= TAKE_UP_PATIENCE {
                    self.doubt(&primary, *take_up, *queue, todo);
                }
            }
        }
    }

    /// The app serves its port. What was said of it before may have been wrong.
    fn found(&mut self, primary: &Spec, todo: &mut Vec<Do>) {
        self.stage = Stage::Asking;
        self.elsewhere_since = None;
        if self.said.contains(&Said::Elsewhere) {
            todo.push(Do::Info(format!(
                "the app serves port {} now: what was said of it before no longer holds",
                primary.port
            )));
        }
    }

    /// The app was given the socket a while ago and has not been seen waiting on it.
    fn doubt(&mut self, primary: &Spec, take_up: TakeUp, queue: Option<u32>, todo: &mut Vec<Do>) {
        let port = primary.port;
        let cure = "make it take the descriptor ({fd}, LISTEN_FDS), or leave --handover off";
        let (said, line) = match (take_up, queue) {
            (TakeUp::Closed, _) => (
                Said::Closed,
                format!("the app has closed the socket it was given for port {port}: clients are refused; {cure}"),
            ),
            // It may wait in a way that cannot be seen from outside, and nobody is kept waiting.
            (TakeUp::Unseen, None | Some(0)) => {
                if self.elsewhere_since.is_none() {
                    self.found(primary, todo);
                }
                return;
            }
            (_, Some(queue)) if queue > 0 => (
                Said::Queue,
                format!(
                    "{queue} clients wait on port {port} and the app accepts none of them: it is still starting, or ignores the \
                     socket it was given; {cure}"
                ),
            ),
            _ => (
                Said::Untaken,
                format!(
                    "the app has not taken the socket it was given for port {port}: clients wait until it does; {cure}"
                ),
            ),
        };
        if self.say(said) {
            todo.push(Do::Warn(line));
        }
    }

    /// True the first time.
    fn say(&mut self, what: Said) -> bool {
        let new = !self.said.contains(&what);
        if new {
            self.said.push(what);
        }
        new
    }

    /// It does not serve its port. That it listens somewhere else is a mistake, or a side port of one that still starts: nobody can tell
    /// but by the time.
    fn elsewhere(&mut self, now: Instant, primary: &Spec, all: &[Listener], todo: &mut Vec<Do>) {
        let told: Vec<u16> = self.expected.ports.iter().map(|spec| spec.port).collect();
        let other = all.iter().find(|found| !told.contains(&found.port));
        // On one of its ports, and not on the first of them: that one is what is waited for.
        let partly = all.iter().find(|found| told.contains(&found.port) && found.port != primary.port);
        let Some(first) = other.or(partly) else {
            self.elsewhere_since = None;
            return self.quiet(now, primary, todo);
        };
        let since = *self.elsewhere_since.get_or_insert(now);
        let place = SocketAddr::new(first.addr, first.port);
        let port = primary.port;
        if now >= since + ELSEWHERE_TOLD && self.say(Said::SoFar) {
            let first = match other {
                Some(_) => String::new(),
                None => format!(", and not on port {port}, the first that it was told"),
            };
            todo.push(Do::Info(format!(
                "the app listens on {place} so far{first}; still waiting for it on port {port}"
            )));
        }
        if now < self.fault_at(since) || !self.say(Said::Elsewhere) {
            return;
        }
        if other.is_none() {
            return todo.push(Do::Warn(format!(
                "the app listens on {place}, and not on port {port}, the first that it was told: it is not ready until it does"
            )));
        }
        let loopback = if first.addr.is_loopback() {
            ", and on loopback only: unreachable from outside the container"
        } else {
            ""
        };
        let ignored = match self.expected.way {
            Way::Given { .. } => " and ignores the socket it was given (LISTEN_FDS, {fd})",
            Way::Binds | Way::Heard => "",
        };
        todo.push(Do::Warn(format!(
            "the app listens on {place}, not on port {port} as it was told{ignored}{loopback}; make it take PORT from its environment, \
             or write {{port}} into its arguments, and bind 0.0.0.0"
        )));
    }

    /// It has been seen listening nowhere. Slow starts are usual, so that is no fault at first.
    fn quiet(&mut self, now: Instant, primary: &Spec, todo: &mut Vec<Do>) {
        let (age, port) = (now.saturating_duration_since(self.launched), primary.port);
        // What it does with a socket that it was given is `doubt`'s to say.
        if matches!(self.expected.way, Way::Given { .. }) {
            return;
        }
        if age >= QUIET_FAULT && self.say(Said::QuietFault) {
            self.say(Said::Quiet);
            todo.push(Do::Warn(format!(
                "the app still listens nowhere after {}, and was told port {port} (PORT, {{port}}): look into its own log",
                advice::human(age)
            )));
        } else if age >= QUIET_TOLD && self.say(Said::Quiet) {
            todo.push(Do::Info(format!(
                "the app listens nowhere so far, after {}; still waiting for it on port {port}",
                advice::human(age)
            )));
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

    fn ready(&mut self, now: Instant) -> Vec<Do> {
        self.stage = Stage::Up;
        (self.next_look, self.ready_by) = (None, None);
        let took = now.saturating_duration_since(self.launched).as_millis();
        let line = match self.primary() {
            Some(primary) => format!("the app is ready on port {} after {took} ms", primary.port),
            None => format!("the app is ready after {took} ms"),
        };
        vec![Do::Info(line), Do::Ready]
    }
}

/// Where the app listens on its port, and what is wrong with it.
fn listens(primary: &Spec, here: &[Listener], todo: &mut Vec<Do>) {
    let mut places: Vec<IpAddr> = Vec::new();
    for found in here {
        if !places.contains(&found.addr) {
            places.push(found.addr);
        }
    }
    todo.push(Do::Listens(places));
    let everywhere = primary.addr.is_none_or(|addr| addr.is_unspecified());
    if everywhere && here.iter().all(|found| found.addr.is_loopback()) {
        todo.push(Do::Warn(format!(
            "the app listens on loopback only ({}): unreachable from outside the container; make it bind 0.0.0.0",
            show(here)
        )));
    } else if everywhere && here.iter().all(|found| !found.addr.is_unspecified()) {
        todo.push(Do::Warn(format!(
            "the app listens on {} only, not on all addresses: what asks another address, 127.0.0.1 included, is refused; make it bind \
             0.0.0.0 (HOST or HOSTNAME, where it takes its address from there)",
            show(here)
        )));
    } else if !everywhere && !here.iter().any(|found| found.answers(primary)) {
        todo.push(Do::Warn(format!(
            "the app listens on {}, not on {} as it was told; make it bind {{addr}}, or {{host}} and {{port}}, of its arguments",
            show(here),
            advice::label(primary)
        )));
    }
}

/// `127.0.0.1:80, [::1]:80`
pub fn show(listeners: &[Listener]) -> String {
    let one = |found: &Listener| SocketAddr::new(found.addr, found.port).to_string();
    listeners.iter().map(one).collect::<Vec<_>>().join(", ")
}
