//! Owns the liveness probes of an app that is ready (`--exit-on-unhealthy`): when the next one is due, and how many failures in a row are
//! too many. Pure but for the child that asks. Must not know how an app is stopped.

use std::time::{Duration, Instant};

use super::prober::Prober;
use crate::setting::value::{duration, is};
use crate::state::State;
use crate::sys::process::{self, End};

/// When an app counts as unhealthy, and is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitOnUnhealthy {
    /// How often liveness is probed. More than zero.
    pub every: Duration,
    /// So many failures in a row. At least 1.
    pub failures: u32,
}

/// The text form of `--exit-on-unhealthy`. `off` and `0` switch it off, so that a flag can beat a variable.
pub fn every(text: &str) -> Result<Option<Duration>, String> {
    if is(text, "off") {
        return Ok(None);
    }
    duration(text).map(|time| Some(time).filter(|time| !time.is_zero())).map_err(|reason| format!("{reason}; or off"))
}

/// The liveness of one launch.
pub struct Liveness {
    terms: ExitOnUnhealthy,
    prober: Prober,
    schedule: Schedule,
}

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive {
    Yes,
    /// So many failures in a row, which are not too many.
    Failing(u32),
    /// Too many failures in a row: it is to be stopped.
    No,
}

impl Liveness {
    pub fn new(terms: ExitOnUnhealthy, prober: Prober) -> Self {
        Self { terms, prober, schedule: Schedule::default() }
    }

    /// Starts probing an app that has become ready, or stops where it is not ready any more or was asked to stop.
    pub fn set_active(&mut self, now: Instant, active: bool) {
        self.schedule.set_active(now, active, self.terms);
    }

    /// When [`Liveness::probe_if_due`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.schedule.next
    }

    /// Starts the probe that is due. An app that is stopped, by a debugger or by hand, could not answer and is not asked.
    pub fn probe_if_due(&mut self, now: Instant, app: i32, state: &State) {
        if self.schedule.is_due(now, self.terms) && !process::is_stopped(app) {
            self.prober.probe(state);
            if !self.prober.is_probing() {
                tracing::debug!("liveness: {}", self.last_failure());
            }
        }
    }

    /// A child of ours has ended: what that comes to, if it is the one that asked.
    pub fn ended(&mut self, pid: i32, end: End, app: i32) -> Option<Alive> {
        let healthy = self.prober.ended(pid, end)?;
        // It may have been stopped while it was asked.
        if !healthy && process::is_stopped(app) {
            return None;
        }
        self.schedule.answered(healthy, self.terms)
    }

    /// The target, and why its last probe failed.
    pub fn last_failure(&self) -> String {
        let said = self.prober.last_failure().filter(|reason| !reason.is_empty());
        format!("{}: {}", self.prober.target(), said.unwrap_or("no answer: who asked was ended"))
    }

    /// How many failures in a row are too many.
    pub fn limit(&self) -> u32 {
        self.terms.failures
    }

    /// Stops probing. The pid of the child that was asking, if one was: it is killed, and has still to be reaped.
    pub fn cancel(&mut self) -> Option<i32> {
        self.schedule = Schedule::default();
        self.prober.cancel()
    }
}

/// When the next probe is due, and how many have failed in a row.
#[derive(Debug, Default)]
struct Schedule {
    /// `None`: the app is not probed.
    next: Option<Instant>,
    failed: u32,
}

impl Schedule {
    fn set_active(&mut self, now: Instant, active: bool, terms: ExitOnUnhealthy) {
        match (active, self.next) {
            (true, None) => *self = Self { next: now.checked_add(terms.every), failed: 0 },
            (false, Some(_)) => *self = Self::default(),
            _ => {}
        }
    }

    /// Whether a probe is due; if so the next one is set.
    fn is_due(&mut self, now: Instant, terms: ExitOnUnhealthy) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = now.checked_add(terms.every);
        }
        due
    }

    fn answered(&mut self, healthy: bool, terms: ExitOnUnhealthy) -> Option<Alive> {
        self.next?;
        self.failed = if healthy { 0 } else { self.failed.saturating_add(1) };
        Some(match self.failed {
            0 => Alive::Yes,
            failed if failed >= terms.failures => Alive::No,
            failed => Alive::Failing(failed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_count_and_only_while_it_is_ready() {
        let every = Duration::from_secs(5);
        let terms = ExitOnUnhealthy { every, failures: 3 };
        let at = Instant::now();
        let mut schedule = Schedule::default();
        assert!(!schedule.is_due(at, terms) && schedule.next.is_none());
        assert_eq!(schedule.answered(false, terms), None);
        schedule.set_active(at, true, terms);
        schedule.set_active(at + every / 2, true, terms);
        assert_eq!(schedule.next, Some(at + every));
        assert!(
            !schedule.is_due(at + every / 2, terms)
                && schedule.is_due(at + every, terms)
                && !schedule.is_due(at + every, terms)
        );
        for (healthy, alive) in [
            (false, Alive::Failing(1)),
            (false, Alive::Failing(2)),
            (true, Alive::Yes),
            (false, Alive::Failing(1)),
            (false, Alive::Failing(2)),
            (false, Alive::No),
        ] {
            assert_eq!(schedule.answered(healthy, terms), Some(alive));
        }
        schedule.set_active(at, false, terms);
        assert_eq!((schedule.next, schedule.answered(false, terms)), (None, None));
        schedule.set_active(at, true, terms);
        assert_eq!(schedule.answered(false, terms), Some(Alive::Failing(1)));
    }
}
