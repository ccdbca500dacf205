//! Owns the health probe: what is asked, how, and what the phase of `run` allows. Must not know supervision.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::exit::Code;
use crate::port::holder;
use crate::state::{self, Found, State};

pub mod decide;
pub mod host;
pub mod own;
pub mod phase;
pub mod probe;
pub mod question;
pub mod settings;
pub mod target;
pub mod terms;
pub mod url;
pub mod verdict;

use decide::{Plan, decide};
use probe::clock::Clock;
use probe::parting::Parting;
use question::Question;
use settings::{Healthcheck, Subject};
use terms::Terms;
use verdict::Verdict;

/// A last try with less time than this left would tell nothing.
const SHORTEST_TRY: Duration = Duration::from_millis(10);

/// How many addresses a reason names.
const MAX_PLACES: usize = 4;

/// What a healthcheck has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// For stdout: the verdict with its line's end; empty where nothing is to be said.
    pub line: String,
    /// For stderr: settings that turned out to be needed and are bad, one line each, without the line's end.
    pub errors: Vec<String>,
}

/// `healthcheck`: one verdict, told by `tell` as soon as it is known. Leave of the servers is taken after that.
pub fn run(told: &Healthcheck, tell: impl FnOnce(&Said)) -> Code {
    let begun = Instant::now();
    let (mut verdict, mut parting) = attempt(told, told.terms.timeout);
    if !told.wait.is_zero() {
        let whole = Clock::start(told.wait.saturating_sub(begun.elapsed()));
        while !verdict.healthy && pause(told, whole, &mut parting) {
            // No later try outlives the whole. One that was cut short and used up its time tells less than the one before it.
            let (timeout, tried) = (told.terms.timeout.min(whole.left()), Instant::now());
            let (last, left) = attempt(told, timeout);
            parting = left;
            let starved = timeout < told.terms.timeout && tried.elapsed() >= timeout;
            if last.healthy || !starved {
                verdict = last;
            }
        }
    }
    let code = if verdict.healthy { Code::OK } else { Code::NO };
    let line = if verdict.healthy && told.quiet { String::new() } else { verdict.line(begun.elapsed()) };
    let errors = if verdict.needs_settings { told.subject.unreadable.clone() } else { Vec::new() };
    tell(&Said { line, errors });
    parting.take_leave();
    code
}

/// Pauses until the next try, which leaves time to take leave of the last one's servers. An interval that does not fit any more is cut so
/// that one last try has its time before the end; false when there is no time for any.
fn pause(told: &Healthcheck, whole: Clock, parting: &mut Parting) -> bool {
    let left = whole.left();
    if left < SHORTEST_TRY {
        return false;
    }
    let interval = if told.interval < left { told.interval } else { left - told.terms.timeout.min(left / 2) };
    let clock = Clock::start(interval);
    std::mem::take(parting).take_leave_in(interval);
    clock.sleep();
    whole.left() >= SHORTEST_TRY / 2
}

/// One try. The state is read anew each time: `run` may come, change its phase, or go.
fn attempt(told: &Healthcheck, timeout: Duration) -> (Verdict, Parting) {
    let verdict = match decide(&told.subject, || look(told)) {
        Plan::Told { healthy, about, reason } => Verdict { healthy, about, reason, ..Verdict::default() },
        Plan::NeedsSettings { reason } => {
            Verdict { about: "settings".to_owned(), reason, needs_settings: true, ..Verdict::default() }
        }
        Plan::Ask { question, note, own } => {
            let answer = probe::ask(&question, &told.terms, own, timeout);
            let (healthy, reason) = match answer.outcome {
                Ok(reason) => (true, reason),
                Err(reason) if reason.starts_with(probe::wire::REFUSED) => {
                    (false, decide::with(reason, elsewhere(&question)))
                }
                Err(reason) => (false, reason),
            };
            let reason = decide::with(reason, note);
            let verdict =
                Verdict { healthy, about: answer.shown, status: answer.status, reason, needs_settings: false };
            return (verdict, answer.parting);
        }
    };
    (verdict, Parting::default())
}

/// Where somebody does listen on the port that loopback refused. Asked only then: it is one question to the kernel more.
fn elsewhere(question: &Question) -> Option<String> {
    let port = question.local_port()?;
    let mut places: Vec<String> = Vec::new();
    for found in holder::listening(port).ok()? {
        // Whoever listens on all addresses has come after we were refused, or something between refuses: not where to ask instead.
        if found.addr.is_unspecified() {
            return None;
        }
        let place = SocketAddr::new(found.addr, port).to_string();
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let more = places.len().saturating_sub(MAX_PLACES);
    places.truncate(MAX_PLACES);
    let places = Some(places.join(", ")).filter(|places| !places.is_empty())?;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("something listens on {places}{more} only: ask there by a whole URL, or make it bind 0.0.0.0"))
}

fn look(told: &Healthcheck) -> Found {
    state::believe(told.state_dir.as_deref(), &told.subject.ports)
}

/// Asks once, for `run` itself: `state` is its own, so there is none to be believed.
///
/// # Errors
/// Why the app is not healthy, on one line.
pub fn ask_once(subject: &Subject, terms: &Terms, state: State) -> Result<(), String> {
    // It is asked by a child of `run`.
    let pid = nix::unistd::getppid().as_raw();
    let found = || Found::Believed { state, path: PathBuf::new(), pid };
    match decide(subject, found) {
        Plan::Told { healthy: true, .. } => Ok(()),
        Plan::Told { reason, .. } | Plan::NeedsSettings { reason } => Err(reason),
        Plan::Ask { question, own, .. } => {
            let answer = probe::ask(&question, terms, own, terms.timeout);
            // Here the answer is told by the end of the child that asked, so leaving comes first.
            answer.parting.take_leave();
            // There is no verdict's line around it that has the status.
            answer.outcome.map(drop).map_err(|reason| match answer.status {
                Some(status) => format!("status {status}: {reason}"),
                None => reason,
            })
        }
    }
}
