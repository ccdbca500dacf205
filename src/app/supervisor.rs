//! Owns the life of the app, from its launch until everything it left behind has exited: a state machine from events to actions, pure except
//! for its log lines. Must not know how an action is performed, or read a clock: every event carries its instant.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::exit_map::ExitMap;
use super::signal::SignalMap;
use crate::exit::Code;
use crate::state::Phase;
use crate::sys::process::End;
use crate::sys::signal;

/// How long reberth waits for KILL to work before it exits anyway: only a process stuck in the kernel survives KILL that long.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// The settings for stopping the app and for its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopPolicy {
    pub signal_map: SignalMap,
    pub exit_map: ExitMap,
    /// Zero: a stop request is forwarded immediately.
    pub drain: Duration,
    /// Zero: never send KILL.
    pub grace: Duration,
}

/// Where reberth runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// PID 1 never suspends itself: no process could continue it.
    pub pid1: bool,
    /// There is a controlling terminal, which may suspend the app; a shell may wait for that.
    pub has_terminal: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// reberth received this signal from another process.
    Signal(i32),
    /// The app was suspended by this signal (STOP, TSTP, TTIN, TTOU); `in_foreground`: its group is in the foreground of the terminal.
    AppSuspended { by: i32, in_foreground: bool },
    /// The app has exited. `leftovers`: reberth has other children left; `again`: the app will be launched again; `never_listened`: it was
    /// given a port, and was not seen listening on it.
    AppEnded { end: End, leftovers: bool, again: bool, never_listened: Option<NeverListened> },
    /// A child has exited, and others are left.
    ChildGone,
    /// The last child has exited.
    LastChildGone,
    /// The `deadline` has passed.
    Due,
    /// reberth gives up on the app, and exits with this code, one of its own, whatever the app exits with. The exit map does not
    /// apply to these.
    GiveUp(Code),
    /// The app is ready and unhealthy: it is stopped, and reberth exits with 1, or with what the exit map makes of 1.
    Unhealthy,
}

/// The port that the app never listened on, and how long it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeverListened {
    pub port: u16,
    pub lived: Duration,
}

/// What the caller has to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send the signal to the app or to its group, as the scope says.
    Forward(i32),
    /// Send CONT to the app's group, because a signal has suspended it.
    Continue,
    /// Send KILL to the app.
    KillApp,
    /// Send the signal to everything left of the app's tree.
    SignalTree(i32),
    /// Suspend reberth itself until another process continues it.
    Suspend,
    Publish(Phase),
    /// Everything is done: exit with this code.
    Finish(Code),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// The stop signal is held back until this instant.
    Draining {
        until: Instant,
        signal: i32,
    },
    /// The app has been sent its stop signal.
    Stopping,
    /// The app has exited, and what is left of its tree has been sent TERM.
    EndingLeftovers,
    /// What is left has been sent KILL.
    KillingLeftovers {
        until: Instant,
    },
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Supervisor {
    policy: StopPolicy,
    surroundings: Surroundings,
    stage: Stage,
    /// When KILL is due: one deadline for the app and its leftovers. `None`: the grace has not begun, or never ends.
    kill_at: Option<Instant>,
    grace_begun: bool,
    /// KILL has been sent to the app.
    killed: bool,
    /// The code to exit with, whatever the app exits with.
    forced: Option<Code>,
    /// `forced` was set because the app was unhealthy.
    unhealthy: bool,
    /// The first stop request received, as `--signal-map` maps it.
    stop_signal: Option<i32>,
    /// The app was suspended by a signal, and no CONT has been sent through reberth since.
    suspended: bool,
    /// reberth forwarded a TSTP, TTIN or TTOU: the app is suspended on request, not by the terminal, so it is not continued.
    suspend_forwarded: bool,
    code: Code,
}

/// A signal that requests a program to stop: it starts drain and grace.
pub fn requests_stop(signal: i32) -> bool {
    matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT)
}

/// What a signal does to reberth while there is no app to forward it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It terminates reberth, as this signal would.
    Terminates(i32),
    /// It suspends reberth until another process continues it.
    Suspends,
    Nothing,
}

/// The effect of a signal without an app: the signal is mapped, and then acts as on any program without handlers. `parent_death` is the
/// signal that reports the death of reberth's parent; it terminates reberth whichever signal it is. `ignored`: whether a signal was already
/// ignored when reberth was started, as HUP is by nohup(1).
pub fn effect_without_app(
    map: &SignalMap,
    received: i32,
    parent_death: Option<i32>,
    ignored: impl Fn(i32) -> bool,
) -> Effect {
    let orphaned = parent_death == Some(received) && received != libc::SIGCHLD;
    match map.apply(received) {
        None => Effect::Nothing,
        Some(signal) if requests_stop(signal) || orphaned => Effect::Terminates(signal),
        Some(signal) if suspends(signal) || signal == libc::SIGSTOP => Effect::Suspends,
        Some(signal) if signal::ends_by_default(signal) && !ignored(signal) => Effect::Terminates(signal),
        Some(_) => Effect::Nothing,
    }
}

/// A signal that suspends a program, and that the program may catch; STOP is the one that it cannot.
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
            killed: false,
            forced: None,
            unhealthy: false,
            stop_signal: None,
            suspended: false,
            suspend_forwarded: false,
            code: Code::OK,
        }
    }

    /// When `Event::Due` is due; `None`: only an external event can change anything.
    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Running => None,
            Stage::Draining { until, .. } | Stage::KillingLeftovers { until } => Some(until),
            Stage::Stopping | Stage::EndingLeftovers => self.kill_at,
        }
    }

    /// True once the app has been requested to stop, by a signal or by reberth, even if a drain still holds the request back. From then on
    /// its exit is expected.
    pub fn stop_requested(&self) -> bool {
        self.stop_signal.is_some() || self.forced.is_some()
    }

    /// Handles a signal that arrives after the app has exited and before its next launch, as in any wait without an app. True: there will
    /// be no next launch, and `stop_signal` is what reberth's exit code is made of (`init`).
    pub fn call_off(&mut self, received: i32, ignored: impl Fn(i32) -> bool) -> bool {
        let effect = effect_without_app(&self.policy.signal_map, received, None, ignored);
        if let Effect::Terminates(signal) = effect {
            self.stop_signal.get_or_insert(signal);
        }
        matches!(effect, Effect::Terminates(_))
    }

    /// The first signal that requested the app to stop, after mapping.
    pub fn stop_signal(&self) -> Option<i32> {
        self.stop_signal
    }

    /// True once the app has been sent its stop signal, or has exited.
    pub fn stop_sent(&self) -> bool {
        !matches!(self.stage, Stage::Running | Stage::Draining { .. })
    }

    /// True while the app runs and has not been requested to stop.
    pub fn is_undisturbed(&self) -> bool {
        self.stage == Stage::Running
    }

    /// The actions for `event` at `now`.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Signal(received) => self.on_signal(now, received),
            Event::AppSuspended { by, in_foreground } => self.on_suspended(by, in_foreground),
            Event::AppEnded { end, leftovers, again, never_listened } => {
                self.on_ended(now, end, leftovers, again, never_listened)
            }
            Event::ChildGone => match self.stage {
                // A process may have forked again before KILL reached it.
                Stage::KillingLeftovers { .. } => vec![Action::SignalTree(libc::SIGKILL)],
                _ => Vec::new(),
            },
            Event::LastChildGone => match self.stage {
                Stage::EndingLeftovers | Stage::KillingLeftovers { .. } => {
                    info!("everything the app left behind has exited");
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
            debug!("{} dropped by --signal-map", signal::name(received));
            return Vec::new();
        };
        // Either side of the map counts: `TERM=USR1` is still a stop request, and so is `HUP=TERM`.
        let stop = requests_stop(received) || requests_stop(forwarded);
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
            // A second request ends the drain: the app gets the signal held back, and this one too if it differs.
            Stage::Draining { signal: held, .. } if stop => {
                let mut actions = self.stop(now, held, held);
                if forwarded != held {
                    actions.push(Action::Forward(forwarded));
                }
                actions
            }
            // A repeated request reaches the processes that are left.
            Stage::EndingLeftovers | Stage::KillingLeftovers { .. } if stop => vec![Action::SignalTree(forwarded)],
            Stage::EndingLeftovers | Stage::KillingLeftovers { .. } => Vec::new(),
            Stage::Running | Stage::Draining { .. } | Stage::Stopping => {
                debug!("{} forwarded", signal::name(forwarded));
                self.suspend_forwarded |= suspends(forwarded);
                let mut actions = vec![Action::Forward(forwarded)];
                if forwarded == libc::SIGCONT {
                    (self.suspended, self.suspend_forwarded) = (false, false);
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

    /// Forwards a stop request, and starts the grace.
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

    /// A suspended process handles no signal until it is continued, which is why systemd sends CONT after TERM.
    fn wake(&mut self) -> Option<Action> {
        std::mem::take(&mut self.suspended).then_some(Action::Continue)
    }

    fn on_suspended(&mut self, by: i32, in_foreground: bool) -> Vec<Action> {
        self.suspended = true;
        // It may have been suspended before the stop request; the kernel reports that only now.
        if self.stage == Stage::Stopping && !self.suspend_forwarded {
            return self.wake().into_iter().collect();
        }
        if !self.surroundings.has_terminal {
            return Vec::new();
        }
        if !self.surroundings.pid1 {
            // Ctrl-Z reached the app's group but not reberth's: the shell gets its prompt back only when reberth is suspended too. A STOP
            // from another process leaves reberth running, unless the suspended app would keep the terminal.
            let with_it = suspends(by) || in_foreground;
            return if with_it { vec![Action::Suspend] } else { Vec::new() };
        }
        if suspends(by) && !self.suspend_forwarded {
            info!(
                "the terminal stopped the app ({}), and no shell here could continue it: continued",
                signal::name(by)
            );
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
        self.log_exit(end, own, never_listened.filter(|_| !again));
        if !leftovers {
            return vec![Action::Finish(self.code)];
        }
        self.begin_grace(now);
        self.stage = Stage::EndingLeftovers;
        let mut actions = vec![Action::SignalTree(libc::SIGTERM)];
        if !again {
            actions.insert(0, Action::Publish(Phase::Exited));
        }
        if self.killed || self.kill_at.is_some_and(|at| at <= now) {
            warn!("the app left processes behind, and the grace (--grace) was already over: sending SIGKILL to them");
            actions.extend(self.kill_tree(now));
        } else {
            info!("the app left processes behind: SIGTERM sent to them");
        }
        actions
    }

    fn log_exit(&self, end: End, own: Code, never_listened: Option<NeverListened>) {
        let mut how = match end {
            End::Code(code) => format!("the app exited with code {code}"),
            End::Signal(signal) => format!("the app was ended by {}", signal::name(signal)),
        };
        // A user who stops a starting app knows why it does not listen.
        if let Some(NeverListened { port, lived }) = never_listened.filter(|_| !self.stop_requested()) {
            let _ = write!(how, " after {} ms, and was never seen listening on port {port}", lived.as_millis());
            if own != Code::OK {
                let then =
                    if self.code == own { String::new() } else { format!("; reberth exits with {}", self.code.0) };
                return warn!("{how}{then}");
            }
        }
        if self.unhealthy {
            info!("{how}; reberth exits with {}: the app was unhealthy (--exit-on-unhealthy)", self.code.0);
        } else if self.code == Code::OK && own == Code::OK && !self.stop_requested() {
            // A program that did its work and exited is not worth a line.
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
                warn!("the app did not exit within {:?} (--grace): sending SIGKILL", self.policy.grace);
                self.kill_at = None;
                self.killed = true;
                vec![Action::KillApp]
            }
            Stage::EndingLeftovers => {
                warn!(
                    "processes left behind by the app did not exit within {:?} (--grace): sending SIGKILL",
                    self.policy.grace
                );
                self.kill_tree(now)
            }
            Stage::KillingLeftovers { .. } => {
                warn!("some processes survive SIGKILL, or cannot be found without /proc: leaving them to the kernel");
                vec![Action::Finish(self.code)]
            }
        }
    }

    fn kill_tree(&mut self, now: Instant) -> Vec<Action> {
        self.kill_at = None;
        self.stage = Stage::KillingLeftovers { until: now + KILL_PATIENCE };
        vec![Action::SignalTree(libc::SIGKILL)]
    }

    fn give_up(&mut self, now: Instant, code: Code) -> Vec<Action> {
        if self.stage != Stage::Running {
            return Vec::new();
        }
        self.forced = Some(code);
        // The app may be stopped by another signal than TERM: apply the map. A map that drops TERM must not keep the app alive here.
        let stop = self.policy.signal_map.apply(libc::SIGTERM).unwrap_or(libc::SIGTERM);
        self.stop(now, stop, stop)
    }
}

#[cfg(test)]
mod tests;
