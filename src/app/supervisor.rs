//! Owns the life of the app from its launch to the end of all that it leaves behind: a pure machine from events to actions. Must not know
//! how an action is done, or read a clock: every instant comes in with its event.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::exit_map::ExitMap;
use super::signal::SignalMap;
use crate::exit::Code;
use crate::state::Phase;
use crate::sys::process::End;
use crate::sys::signal;

/// How long reberth waits for KILL to work before it leaves anyway: only a process stuck in the kernel survives it that long.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// How the app is stopped, and what comes of its end: settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopPolicy {
    pub signal_map: SignalMap,
    pub exit_map: ExitMap,
    /// Zero: a request to stop is forwarded at once.
    pub drain: Duration,
    /// Zero: never KILL.
    pub grace: Duration,
}

/// Where reberth runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// PID 1 never stops itself: nobody would be left to continue it.
    pub pid1: bool,
    /// There is a controlling terminal, so the app may be stopped by it, and a shell may wait to hear of that.
    pub has_terminal: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// reberth received this signal, from someone else.
    Signal(i32),
    /// The app was stopped by this signal; `in_front`: its group has the terminal.
    AppStopped { by: i32, in_front: bool },
    /// The app has ended. `leftovers`: other children of ours are still there; `again`: it will be launched once more; `never_listened`: it
    /// was told a port, and was not seen listening.
    AppEnded { end: End, leftovers: bool, again: bool, never_listened: Option<NeverListened> },
    /// A child has ended, and others are still there.
    ChildGone,
    /// The last child has ended.
    LastChildGone,
    /// `deadline` has come.
    Due,
    /// reberth gives up on the app, and ends with this code whatever it exits with.
    GiveUp(Code),
    /// The app is up and unhealthy: it is stopped, and reberth ends with 1, or what the map makes of that.
    Unhealthy,
}

/// The port that an app never listened on, and how long it had for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeverListened {
    pub port: u16,
    pub lived: Duration,
}

/// What is to be done, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send the signal to the app, or its group, as the scope says.
    Forward(i32),
    /// CONT to the app's group: it is stopped.
    Continue,
    /// KILL the app.
    KillApp,
    /// Send the signal to everything left of the tree.
    SignalTree(i32),
    /// Stop reberth itself until somebody continues it.
    Suspend,
    Publish(Phase),
    /// All is over: leave with this code.
    Finish(Code),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// The stop signal waits until then.
    Draining {
        until: Instant,
        signal: i32,
    },
    /// The app was asked to stop.
    Stopping,
    /// The app is gone, and what is left of its tree was asked to stop.
    Tidying,
    /// What is left has been sent KILL.
    Killing {
        until: Instant,
    },
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Supervisor {
    policy: StopPolicy,
    surroundings: Surroundings,
    stage: Stage,
    /// When KILL is due: one deadline for the app and its leftovers. `None`: the grace has not begun, or never ends.
    kill_at: Option<Instant>,
    grace_begun: bool,
    /// The code to end with, whatever the app's own code is.
    forced: Option<Code>,
    /// That code is there because the app was unhealthy.
    unhealthy: bool,
    /// The first request to stop that came, as the map says.
    stop_signal: Option<i32>,
    /// The app was stopped by a signal, and nobody has continued it through us.
    stopped: bool,
    /// A signal that stops the app was forwarded, so it is not the terminal that stops it.
    stop_forwarded: bool,
    code: Code,
}

/// A signal that asks a program to stop: what starts drain and grace.
pub fn asks_to_stop(signal: i32) -> bool {
    matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT)
}

/// What a signal does to reberth while there is no app to forward it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It ends reberth, as this signal would.
    Ends(i32),
    /// It stops reberth until somebody continues it.
    Suspends,
    Nothing,
}

/// The effect of a signal without an app: it is mapped, and then acts as on any program without handlers. `parent_death` is the signal that
/// reports the death of reberth's parent, and ends reberth whichever it is. `ignored`: whether a signal was ignored by whoever started
/// reberth, as HUP is by nohup(1).
pub fn effect_without_app(
    map: &SignalMap,
    received: i32,
    parent_death: Option<i32>,
    ignored: impl Fn(i32) -> bool,
) -> Effect {
    let orphaned = parent_death == Some(received) && received != libc::SIGCHLD;
    match map.apply(received) {
        None => Effect::Nothing,
        Some(signal) if asks_to_stop(signal) || orphaned => Effect::Ends(signal),
        Some(signal) if suspends(signal) || signal == libc::SIGSTOP => Effect::Suspends,
        Some(signal) if signal::ends_by_default(signal) && !ignored(signal) => Effect::Ends(signal),
        Some(_) => Effect::Nothing,
    }
}

/// A stop signal that a program may catch.
fn suspends(signal: i32) -> bool {
    matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)
}

impl Supervisor {
    pub fn new(policy: StopPolicy, surroundings: Surroundings) -> Self {
        Self {
            policy,
            surroundings,
            stage: Stage::Running,
            kill_at: None,
            grace_begun: false,
            forced: None,
            unhealthy: false,
            stop_signal: None,
            stopped: false,
            stop_forwarded: false,
            code: Code::OK,
        }
    }

    /// When `Event::Due` is due; `None`: only an event from outside can change anything.
    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Running => None,
            Stage::Draining { until, .. } | Stage::Killing { until } => Some(until),
            Stage::Stopping | Stage::Tidying => self.kill_at,
        }
    }

    /// True once somebody asked the app to stop; from then on its end is no accident.
    pub fn stop_asked(&self) -> bool {
        self.stop_signal.is_some() || self.forced.is_some()
    }

    /// A signal has come while the app is gone and about to be launched again. It acts as in any wait without an app. True: the launch is
    /// off.
    pub fn call_off(&mut self, received: i32, ignored: impl Fn(i32) -> bool) -> bool {
        let effect = effect_without_app(&self.policy.signal_map, received, None, ignored);
        if let Effect::Ends(signal) = effect {
            self.stop_signal.get_or_insert(signal);
        }
        matches!(effect, Effect::Ends(_))
    }

    /// The first signal that asked the app to stop, as the map says.
    pub fn stop_signal(&self) -> Option<i32> {
        self.stop_signal
    }

    /// True once the app was asked to stop, or is gone.
    pub fn is_stopping(&self) -> bool {
        !matches!(self.stage, Stage::Running | Stage::Draining { .. })
    }

    /// True while the app is there and nobody asked it to stop.
    pub fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// What `event` at `now` asks for.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Signal(received) => self.on_signal(now, received),
            Event::AppStopped { by, in_front } => self.on_stopped(by, in_front),
            Event::AppEnded { end, leftovers, again, never_listened } => {
                self.on_ended(now, end, leftovers, again, never_listened)
            }
            Event::ChildGone => match self.stage {
                // One of them may have forked once more before the signal reached it.
                Stage::Killing { .. } => vec![Action::SignalTree(libc::SIGKILL)],
                _ => Vec::new(),
            },
            Event::LastChildGone => match self.stage {
                Stage::Tidying | Stage::Killing { .. } => {
                    info!("everything the app left behind has ended");
                    vec![Action::Finish(self.code)]
                }
                _ => Vec::new(),
            },
            Event::Due => self.on_due(now),
            Event::GiveUp(code) => self.give_up(now, code),
            Event::Unhealthy => {
                let actions = self.give_up(now, Code(self.policy.exit_map.apply(Code::NO.0)));
                self.unhealthy = !actions.is_empty();
                actions
            }
        }
    }

    fn on_signal(&mut self, now: Instant, received: i32) -> Vec<Action> {
        let Some(forwarded) = self.policy.signal_map.apply(received) else {
            debug!("{} dropped, as --signal-map says", signal::name(received));
            return Vec::new();
        };
        // Either side of the map counts: `TERM=USR1` is still a request to stop, and so is `HUP=TERM`.
        let stop = asks_to_stop(received) || asks_to_stop(forwarded);
        if stop && self.stop_signal.is_none() {
            self.stop_signal = Some(forwarded);
        }
        let mut actions = match self.stage {
            Stage::Running if stop && !self.policy.drain.is_zero() => {
                info!(
                    "{} received: not ready from now on, the app gets {} in {:?} (--drain); a second signal ends the drain",
                    signal::name(received),
                    signal::name(forwarded),
                    self.policy.drain
                );
                self.stage = Stage::Draining { until: now + self.policy.drain, signal: forwarded };
                vec![Action::Publish(Phase::Draining)]
            }
            Stage::Running if stop => self.stop(now, received, forwarded),
            // It ends the drain: the app gets what was held back for it, and this one too if it is another.
            Stage::Draining { signal: held, .. } if stop => {
                let mut actions = self.stop(now, held, held);
                if forwarded != held {
                    actions.push(Action::Forward(forwarded));
                }
                actions
            }
            // A repeated request reaches whoever is left.
            Stage::Tidying | Stage::Killing { .. } if stop => vec![Action::SignalTree(forwarded)],
            Stage::Tidying | Stage::Killing { .. } => Vec::new(),
            Stage::Running | Stage::Draining { .. } | Stage::Stopping => {
                debug!("{} forwarded", signal::name(forwarded));
                self.stop_forwarded |= suspends(forwarded);
                let mut actions = vec![Action::Forward(forwarded)];
                if forwarded == libc::SIGCONT {
                    (self.stopped, self.stop_forwarded) = (false, false);
                } else if stop {
                    actions.extend(self.wake());
                }
                actions
            }
        };
        if suspends(received) && !self.surroundings.pid1 {
            actions.push(Action::Suspend);
        }
        actions
    }

    /// Passes a request to stop on, and starts the grace.
    fn stop(&mut self, now: Instant, received: i32, forwarded: i32) -> Vec<Action> {
        let mut actions = vec![Action::Forward(forwarded)];
        actions.extend(self.wake());
        if self.stage == Stage::Running {
            actions.insert(0, Action::Publish(Phase::Draining));
        }
        self.stage = Stage::Stopping;
        self.begin_grace(now);
        let name = signal::name(forwarded);
        let what = if received == forwarded { name } else { format!("{} as {name}", signal::name(received)) };
        if self.policy.grace.is_zero() {
            info!("{what} forwarded to the app; waiting for it as long as it takes (--grace 0s)");
        } else {
            info!("{what} forwarded to the app; SIGKILL in {:?} (--grace)", self.policy.grace);
        }
        actions
    }

    fn begin_grace(&mut self, now: Instant) {
        if !self.grace_begun {
            self.grace_begun = true;
            self.kill_at = (!self.policy.grace.is_zero()).then(|| now + self.policy.grace);
        }
    }

    /// A stopped app does not take a signal until it is continued, which is why systemd sends CONT after TERM.
    fn wake(&mut self) -> Option<Action> {
        std::mem::take(&mut self.stopped).then_some(Action::Continue)
    }

    fn on_stopped(&mut self, by: i32, in_front: bool) -> Vec<Action> {
        self.stopped = true;
        // It may have been stopped before it was told to end, and be reported only now.
        if self.stage == Stage::Stopping && !self.stop_forwarded {
            return self.wake().into_iter().collect();
        }
        if !self.surroundings.has_terminal {
            return Vec::new();
        }
        if !self.surroundings.pid1 {
            // The stop key reached the app's group and not ours: the shell has its prompt back only when we stop too. A STOP from elsewhere
            // leaves us running, unless the stopped app would keep the terminal.
            let with_it = suspends(by) || in_front;
            return if with_it { vec![Action::Suspend] } else { Vec::new() };
        }
        if suspends(by) && !self.stop_forwarded {
            info!("the terminal stopped the app ({}), and here nobody could continue it: continued", signal::name(by));
            return self.wake().into_iter().collect();
        }
        Vec::new()
    }

    fn on_ended(
        &mut self,
        now: Instant,
        end: End,
        leftovers: bool,
        again: bool,
        never_listened: Option<NeverListened>,
    ) -> Vec<Action> {
        let own = match end {
            End::Code(code) => Code(code),
            End::Signal(signal) => Code::signalled(signal),
        };
        self.code = self.forced.unwrap_or_else(|| Code(self.policy.exit_map.apply(own.0)));
        self.say_ended(end, own, never_listened.filter(|_| !again));
        if !leftovers {
            return vec![Action::Finish(self.code)];
        }
        let killed_already = self.grace_begun && !self.policy.grace.is_zero() && self.kill_at.is_none();
        self.begin_grace(now);
        self.stage = Stage::Tidying;
        let mut actions = vec![Action::SignalTree(libc::SIGTERM)];
        if !again {
            actions.insert(0, Action::Publish(Phase::Exited));
        }
        if killed_already || self.kill_at.is_some_and(|at| at <= now) {
            actions.extend(self.kill_tree(now));
        } else {
            info!("the app left processes behind: SIGTERM sent to them");
        }
        actions
    }

    fn say_ended(&self, end: End, own: Code, never_listened: Option<NeverListened>) {
        let mut how = match end {
            End::Code(code) => format!("the app exited with code {code}"),
            End::Signal(signal) => format!("the app was ended by {}", signal::name(signal)),
        };
        // A user who stops an app that is still starting knows why it does not listen.
        if let Some(NeverListened { port, lived }) =
            never_listened.filter(|_| !self.stop_asked() && self.forced.is_none())
        {
            let _ = write!(how, " after {} ms, and was never seen listening on port {port}", lived.as_millis());
            if own != Code::OK {
                let then =
                    if self.code == own { String::new() } else { format!("; reberth exits with {}", self.code.0) };
                return warn!("{how}{then}");
            }
        }
        if self.unhealthy {
            info!("{how}; reberth exits with {}: the app was unhealthy (--exit-on-unhealthy)", self.code.0);
        } else if self.code == Code::OK && own == Code::OK && !self.stop_asked() {
            // A program that did its work and ended is not worth a line.
            debug!("{how}");
        } else if self.code == own {
            info!("{how}");
        } else {
            info!("{how}; reberth exits with {}", self.code.0);
        }
    }

    fn on_due(&mut self, now: Instant) -> Vec<Action> {
        match self.stage {
            Stage::Running => Vec::new(),
            Stage::Draining { signal, .. } => self.stop(now, signal, signal),
            Stage::Stopping => {
                warn!("the app did not end within {:?} (--grace): sending SIGKILL", self.policy.grace);
                self.kill_at = None;
                vec![Action::KillApp]
            }
            Stage::Tidying => self.kill_tree(now),
            Stage::Killing { .. } => {
                warn!("some processes survive SIGKILL, or cannot be found without /proc: leaving them to the kernel");
                vec![Action::Finish(self.code)]
            }
        }
    }

    fn kill_tree(&mut self, now: Instant) -> Vec<Action> {
        warn!("what the app left behind did not end within {:?} (--grace): sending SIGKILL", self.policy.grace);
        self.kill_at = None;
        self.stage = Stage::Killing { until: now + KILL_PATIENCE };
        vec![Action::SignalTree(libc::SIGKILL)]
    }

    fn give_up(&mut self, now: Instant, code: Code) -> Vec<Action> {
        if self.stage != Stage::Running {
            return Vec::new();
        }
        self.forced = Some(code);
        // An app that stops on another signal is stopped with that one; a dropped TERM must not keep it alive here.
        let stop = self.policy.signal_map.apply(libc::SIGTERM).unwrap_or(libc::SIGTERM);
        self.stop(now, stop, stop)
    }
}

#[cfg(test)]
mod tests;
