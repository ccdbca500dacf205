//! Owns the watch over an app that is up (`--exit-on-unhealthy`): when liveness is asked, and how many failures in a row are too many. Pure
//! but for the child that asks. Must not know how an app is stopped.

use std::time::{Duration, Instant};

use super::inquiry::Inquiry;
use crate::setting::value::{duration, is};
use crate::state::State;
use crate::sys::process::{self, End};

/// When an app counts as unhealthy, and is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitOnUnhealthy {
    /// How often liveness is asked. More than zero.
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

/// The watch, for one launch.
pub struct Vigil {
    terms: ExitOnUnhealthy,
    inquiry: Inquiry,
    beat: Beat,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Healthy,
    /// So many failures in a row, which are not too many.
    Failing(u32),
    /// It is to be stopped.
    Unhealthy,
}

impl Vigil {
    pub fn new(terms: ExitOnUnhealthy, inquiry: Inquiry) -> Self {
        Self { terms, inquiry, beat: Beat::default() }
    }

    /// Whether the app is one to be asked now: it is ready, and nobody has asked it to stop.
    pub fn mind(&mut self, now: Instant, ready: bool) {
        self.beat.mind(now, ready, self.terms);
    }

    /// When [`Vigil::due`] is.
    pub fn deadline(&self) -> Option<Instant> {
        self.beat.next
    }

    /// Asks, if it is time to. Who is stopped, by a debugger or by hand, is not asked: it could not answer.
    pub fn due(&mut self, now: Instant, app: i32, state: &State) {
        if self.beat.due(now, self.terms) && !process::is_stopped(app) {
            self.inquiry.ask(state);
            if !self.inquiry.is_out() {
                tracing::debug!("liveness: {}", self.reason());
            }
        }
    }

    /// A child of ours has ended: what its answer means, if it is the one that asked.
    pub fn answered(&mut self, pid: i32, end: End, app: i32) -> Option<Verdict> {
        let healthy = self.inquiry.answered(pid, end)?;
        // It may have been stopped while it was asked.
        if !healthy && process::is_stopped(app) {
            return None;
        }
        self.beat.answered(healthy, self.terms)
    }

    /// What was asked, and what was answered last.
    pub fn reason(&self) -> String {
        let said = self.inquiry.last_answer().filter(|answer| !answer.is_empty());
        format!("{}: {}", self.inquiry.target(), said.unwrap_or("no answer: who asked was ended"))
    }

    pub fn failures(&self) -> u32 {
        self.terms.failures
    }

    /// Nothing is asked any more. The child that was out, if one was, is killed and still to be reaped.
    pub fn withdraw(&mut self) -> Option<i32> {
        self.beat = Beat::default();
        self.inquiry.withdraw()
    }
}

/// The beat as a machine.
#[derive(Debug, Default)]
struct Beat {
    /// `None`: nobody is to be asked.
    next: Option<Instant>,
    failed: u32,
}

impl Beat {
    fn mind(&mut self, now: Instant, ready: bool, terms: ExitOnUnhealthy) {
        match (ready, self.next) {
            (true, None) => *self = Self { next: now.checked_add(terms.every), failed: 0 },
            (false, Some(_)) => *self = Self::default(),
            _ => {}
        }
    }

    /// Whether it is time to ask; then the next time is set.
    fn due(&mut self, now: Instant, terms: ExitOnUnhealthy) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = now.checked_add(terms.every);
        }
        due
    }

    fn answered(&mut self, healthy: bool, terms: ExitOnUnhealthy) -> Option<Verdict> {
        self.next?;
        self.failed = if healthy { 0 } else { self.failed.saturating_add(1) };
        Some(match self.failed {
            0 => Verdict::Healthy,
            failed if failed >= terms.failures => Verdict::Unhealthy,
            failed => Verdict::Failing(failed),
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
        let mut beat = Beat::default();
        assert!(!beat.due(at, terms) && beat.next.is_none());
        assert_eq!(beat.answered(false, terms), None);
        beat.mind(at, true, terms);
        beat.mind(at + every / 2, true, terms);
        assert_eq!(beat.next, Some(at + every));
        assert!(!beat.due(at + every / 2, terms) && beat.due(at + every, terms) && !beat.due(at + every, terms));
        for (healthy, verdict) in [
            (false, Verdict::Failing(1)),
            (false, Verdict::Failing(2)),
            (true, Verdict::Healthy),
            (false, Verdict::Failing(1)),
            (false, Verdict::Failing(2)),
            (false, Verdict::Unhealthy),
        ] {
            assert_eq!(beat.answered(healthy, terms), Some(verdict));
        }
        beat.mind(at, false, terms);
        assert_eq!((beat.next, beat.answered(false, terms)), (None, None));
        beat.mind(at, true, terms);
        assert_eq!(beat.answered(false, terms), Some(Verdict::Failing(1)));
    }
}
