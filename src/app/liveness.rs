//! Owns the liveness probes of a ready app (`--exit-on-unhealthy`): when the next one is due, and how many consecutive failures are too
//! many. Pure except for the probe's child process. Must not know how an app is stopped.

use std::time::{Duration, Instant};

use super::prober::Prober;
use crate::setting::value::{duration, is};
use crate::state::State;
use crate::sys::process::{self, End};

/// When an app counts as unhealthy, and is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitOnUnhealthy {
    /// The time between two probes. More than zero.
    pub every: Duration,
    /// The number of consecutive failures. At least 1.
    pub failures: u32,
}

/// The text form of `--exit-on-unhealthy`. `off` and `0` disable it, so that a flag can override a variable.
pub fn every(text: &str) -> Result<Option<Duration>, String> {
    if is(text, "off") {
        return Ok(None);
    }
    duration(text).map(|time| Some(time).filter(|time| !time.is_zero())).map_err(|reason| format!("{reason}; or off"))
}

/// The liveness of one launch.
pub struct Liveness {
    limits: ExitOnUnhealthy,
    prober: Prober,
    schedule: Schedule,
}

/// The verdict after a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive {
    Yes,
    /// This many consecutive failures, fewer than the limit.
    Failing(u32),
    /// The limit of consecutive failures is reached: the app is to be stopped.
    No,
}

impl Liveness {
    pub fn new(limits: ExitOnUnhealthy, prober: Prober) -> Self {
        Self { limits, prober, schedule: Schedule::default() }
    }

    /// Starts probing once the app is ready, and stops when it is not ready any more or has been requested to stop.
    pub fn set_active(&mut self, now: Instant, active: bool) {
        self.schedule.set_active(now, active, self.limits);
    }

    /// When [`Liveness::probe_if_due`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.schedule.next
    }

    /// Starts a probe that is due. An app that is stopped, by a debugger or by hand, cannot answer and is not probed.
    pub fn probe_if_due(&mut self, now: Instant, app: i32, state: &State) {
        if self.schedule.is_due(now, self.limits) && !process::is_stopped(app) {
            self.prober.probe(state);
            if !self.prober.is_probing() {
                tracing::debug!("liveness: {}", self.last_failure());
            }
        }
    }

    /// A child of reberth has exited: the verdict, if the child was the probe.
    pub fn ended(&mut self, pid: i32, end: End, app: i32) -> Option<Alive> {
        let healthy = self.prober.ended(pid, end)?;
        // The app may have been stopped during the probe.
        if !healthy && process::is_stopped(app) {
            return None;
        }
        self.schedule.answered(healthy, self.limits)
    }

    /// The target, and why its last probe failed.
    pub fn last_failure(&self) -> String {
        let reason = self.prober.last_failure().filter(|reason| !reason.is_empty());
        format!("{}: {}", self.prober.target(), reason.unwrap_or("no answer: the probe was killed"))
    }

    /// How many consecutive failures are too many.
    pub fn limit(&self) -> u32 {
        self.limits.failures
    }

    /// Stops probing. Returns the pid of a running probe, which is killed but not yet reaped.
    pub fn cancel(&mut self) -> Option<i32> {
        self.schedule = Schedule::default();
        self.prober.cancel()
    }
}

/// When the next probe is due, and how many have failed consecutively.
#[derive(Debug, Default)]
struct Schedule {
    /// `None`: the app is not probed.
    next: Option<Instant>,
    failed: u32,
}

impl Schedule {
    fn set_active(&mut self, now: Instant, active: bool, limits: ExitOnUnhealthy) {
        match (active, self.next) {
            (true, None) => *self = Self { next: now.checked_add(limits.every), failed: 0 },
            (false, Some(_)) => *self = Self::default(),
            _ => {}
        }
    }

    /// Whether a probe is due; if so, schedules the next one.
    fn is_due(&mut self, now: Instant, limits: ExitOnUnhealthy) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = now.checked_add(limits.every);
        }
        due
    }

    fn answered(&mut self, healthy: bool, limits: ExitOnUnhealthy) -> Option<Alive> {
        self.next?;
        self.failed = if healthy { 0 } else { self.failed.saturating_add(1) };
        Some(match self.failed {
            0 => Alive::Yes,
            failed if failed >= limits.failures => Alive::No,
            failed => Alive::Failing(failed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_consecutive_failures_of_a_ready_app_count() {
        let every = Duration::from_secs(5);
        let limits = ExitOnUnhealthy { every, failures: 3 };
        let at = Instant::now();
        let mut schedule = Schedule::default();
        assert!(!schedule.is_due(at, limits) && schedule.next.is_none());
        assert_eq!(schedule.answered(false, limits), None);
        schedule.set_active(at, true, limits);
        schedule.set_active(at + every / 2, true, limits);
        assert_eq!(schedule.next, Some(at + every));
        assert!(
            !schedule.is_due(at + every / 2, limits)
                && schedule.is_due(at + every, limits)
                && !schedule.is_due(at + every, limits)
        );
        for (healthy, alive) in [
            (false, Alive::Failing(1)),
            (false, Alive::Failing(2)),
            (true, Alive::Yes),
            (false, Alive::Failing(1)),
            (false, Alive::Failing(2)),
            (false, Alive::No),
        ] {
            assert_eq!(schedule.answered(healthy, limits), Some(alive));
        }
        schedule.set_active(at, false, limits);
        assert_eq!((schedule.next, schedule.answered(false, limits)), (None, None));
        schedule.set_active(at, true, limits);
        assert_eq!(schedule.answered(false, limits), Some(Alive::Failing(1)));
    }
}
