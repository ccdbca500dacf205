//! Owns the health probe: what is asked, how, and what the phase of `run` allows. Must not know supervision.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::Healthcheck;
use crate::exit::Code;
use crate::state::{self, Found, State};

pub mod decide;
pub mod phase;
pub mod probe;
pub mod target;
pub mod verdict;

use decide::{Plan, decide};
use probe::clock::Clock;
use verdict::Verdict;

/// A last try with less time than this left would tell nothing.
const SHORTEST_TRY: Duration = Duration::from_millis(10);

/// What a healthcheck has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// [`Code::OK`] or [`Code::NO`].
    pub code: Code,
    /// For stdout: the verdict with its line's end; empty where nothing is to be said.
    pub line: String,
    /// For stderr: settings that turned out to be needed and are bad, one line each, without the line's end.
    pub errors: Vec<String>,
}

/// `healthcheck`: one verdict.
pub fn run(terms: &Healthcheck) -> Said {
    let begun = Instant::now();
    let mut verdict = attempt(terms, terms.timeout);
    if !terms.wait.is_zero() {
        let whole = Clock::start(terms.wait.saturating_sub(begun.elapsed()));
        while !verdict.healthy && pause(terms, whole) {
            // No later try outlives the whole. One that was cut short and used up its time tells less than the one before it.
            let (timeout, tried) = (terms.timeout.min(whole.left()), Instant::now());
            let last = attempt(terms, timeout);
            let starved = timeout < terms.timeout && tried.elapsed() >= timeout;
            if last.healthy || !starved {
                verdict = last;
            }
        }
    }
    let code = if verdict.healthy { Code::OK } else { Code::NO };
    let line = if verdict.healthy && terms.quiet { String::new() } else { verdict.line(begun.elapsed()) };
    let errors = if verdict.needs_settings { terms.unreadable.clone() } else { Vec::new() };
    Said { code, line, errors }
}

/// Pauses until the next try. An interval that does not fit any more is cut so that one last try has its time before the end; false
/// when there is no time for any.
fn pause(terms: &Healthcheck, whole: Clock) -> bool {
    let left = whole.left();
    if left < SHORTEST_TRY {
        return false;
    }
    let interval = if terms.interval < left { terms.interval } else { left - terms.timeout.min(left / 2) };
    Clock::start(interval).sleep();
    whole.left() >= SHORTEST_TRY / 2
}

/// One try. The state is read anew each time: `run` may come, change its phase, or go.
fn attempt(terms: &Healthcheck, timeout: Duration) -> Verdict {
    match decide(terms, || look(terms)) {
        Plan::Told { healthy, about, reason } => Verdict { healthy, about, reason, ..Verdict::default() },
        Plan::NeedsSettings { reason } => {
            Verdict { about: "settings".to_owned(), reason, needs_settings: true, ..Verdict::default() }
        }
        Plan::Ask { question, note } => {
            let answer = probe::ask(&question, terms, timeout);
            let (healthy, reason) = match answer.outcome {
                Ok(reason) => (true, reason),
                Err(reason) => (false, reason),
            };
            let reason = decide::with(reason, note);
            Verdict { healthy, about: answer.shown, status: answer.status, reason, needs_settings: false }
        }
    }
}

fn look(terms: &Healthcheck) -> Found {
    state::believe(terms.state_dir.as_deref(), &terms.ports)
}

/// Asks once what readiness asks, for `run` itself: `state` is its own, so there is none to be believed.
///
/// # Errors
/// Why the app is not healthy, on one line.
pub fn ask_once(terms: &Healthcheck, state: State) -> Result<(), String> {
    let found = || Found::Believed { state, path: PathBuf::new(), pid: 0 };
    match decide(terms, found) {
        Plan::Told { healthy: true, .. } => Ok(()),
        Plan::Told { reason, .. } | Plan::NeedsSettings { reason } => Err(reason),
        Plan::Ask { question, .. } => probe::ask(&question, terms, terms.timeout).outcome.map(drop),
    }
}
