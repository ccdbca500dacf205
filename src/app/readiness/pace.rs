//! Owns how often an app is polled: frequently at first, then ever more rarely, and in the end not at all, so that an app that is ready, or
//! never will be, causes no wake-ups. Must not know what a look shows.

use std::time::{Duration, Instant};

/// Delays double from `FIRST_PAUSE` to the longest delay for the app's age; after `LOOKING_ENDS` polling ends.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const YOUNG_PAUSE: Duration = Duration::from_millis(250);
const YOUNG: Duration = Duration::from_secs(10);
const GROWN_PAUSE: Duration = Duration::from_secs(1);
const GROWN: Duration = Duration::from_secs(120);
pub const OLD_PAUSE: Duration = Duration::from_secs(10);
pub const LOOKING_ENDS: Duration = Duration::from_secs(1800);
/// While the port may be lost to another process, polling must not miss an app that listens only briefly.
pub const RISK_PAUSE: Duration = Duration::from_millis(20);

/// When the next look is due.
#[derive(Debug, Clone)]
pub struct Pace {
    pause: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// No look is due.
    pub fn stopped() -> Self {
        Self { pause: FIRST_PAUSE, next: None }
    }

    /// Looks are frequent from now on.
    pub fn restart(&mut self, now: Instant) {
        (self.pause, self.next) = (FIRST_PAUSE, Some(now + FIRST_PAUSE));
    }

    pub fn stop(&mut self) {
        self.next = None;
    }

    /// The next look is due at exactly this instant.
    pub fn set(&mut self, at: Option<Instant>) {
        self.next = at;
    }

    /// The next look is due no later than this.
    pub fn hurry(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|at| at <= now)
    }

    /// The next look is so far away that the memory used for looking can be released until then.
    pub fn looks_rarely(&self, now: Instant) -> bool {
        self.next.is_some_and(|at| at >= now + GROWN_PAUSE)
    }

    /// Schedules the look after one at `now`, for an app of this age. `at_risk`: its port may still be lost. `limited`: it must be ready by
    /// some deadline, so polling continues until then.
    pub fn slow_down(&mut self, now: Instant, age: Duration, at_risk: bool, limited: bool) {
        let longest = match age {
            _ if at_risk => RISK_PAUSE,
            _ if age < YOUNG || limited => YOUNG_PAUSE,
            _ if age < GROWN => GROWN_PAUSE,
            _ => OLD_PAUSE,
        };
        self.pause = (self.pause * 2).min(longest);
        self.next = (age < LOOKING_ENDS || limited).then(|| now + self.pause);
    }
}
