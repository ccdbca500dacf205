//! Owns `healthcheck`: one verdict from the state file, the settings and the server's answer. Must not know supervision.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::exit::Code;
use crate::port::holder;
use crate::state::{self, Found, State};

pub mod acceptor;
pub mod decide;
pub mod host;
pub mod phase;
pub mod probe;
pub mod resolved;
pub mod settings;
pub mod target;
pub mod terms;
pub mod url;
pub mod verdict;

use decide::{Plan, decide};
use probe::closing::Closing;
use probe::deadline::Deadline;
use resolved::ResolvedTarget;
use settings::{Healthcheck, Subject};
use terms::Terms;
use verdict::Verdict;

/// With less time than this left, another attempt would only time out.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(10);

/// How many listening addresses a reason lists.
const MAX_PLACES: usize = 4;

/// What `healthcheck` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// For stdout: the verdict with its newline. Empty with `--quiet` and a healthy verdict.
    pub line: String,
    /// For stderr: bad settings that this verdict needed, one per line, without the newline.
    pub errors: Vec<String>,
}

/// Runs `healthcheck`. Passes the verdict to `report` as soon as it is known and closes connections gracefully only afterwards.
pub fn run(settings: &Healthcheck, report: impl FnOnce(&Report)) -> Code {
    let started = Instant::now();
    let (mut verdict, mut closing) = attempt(settings, settings.terms.timeout);
    if !settings.wait.is_zero() {
        let overall = Deadline::after(settings.wait.saturating_sub(started.elapsed()));
        while !verdict.healthy && pause(settings, overall, &mut closing) {
            // No attempt outlives `--wait`. If that left it too little time to finish, the previous verdict says more than its timeout.
            let (timeout, tried) = (settings.terms.timeout.min(overall.remaining()), Instant::now());
            let (last, open) = attempt(settings, timeout);
            closing = open;
            let starved = timeout < settings.terms.timeout && tried.elapsed() >= timeout;
            if last.healthy || !starved {
                verdict = last;
            }
        }
    }
    let code = if verdict.healthy { Code::OK } else { Code::NO };
    let line = if verdict.healthy && settings.quiet { String::new() } else { verdict.line(started.elapsed()) };
    let errors = if verdict.needs_settings { settings.subject.deferred_errors.clone() } else { Vec::new() };
    report(&Report { line, errors });
    closing.close();
    code
}

/// Closes the last attempt's connections and sleeps until the next attempt. If less than an interval is left, sleeps just long enough
/// for one last attempt to fit. False: no time for another attempt.
fn pause(settings: &Healthcheck, overall: Deadline, closing: &mut Closing) -> bool {
    let left = overall.remaining();
    if left < SHORTEST_ATTEMPT {
        return false;
    }
    let interval =
        if settings.interval < left { settings.interval } else { left - settings.terms.timeout.min(left / 2) };
    let deadline = Deadline::after(interval);
    std::mem::take(closing).close_within(interval);
    deadline.sleep();
    overall.remaining() >= SHORTEST_ATTEMPT / 2
}

/// One attempt. Reads the state file each time, because `run` may start, change its phase or exit in between.
fn attempt(settings: &Healthcheck, timeout: Duration) -> (Verdict, Closing) {
    let verdict = match decide(&settings.subject, || look(settings)) {
        Plan::Decided { healthy, about, reason } => Verdict { healthy, about, reason, ..Verdict::default() },
        Plan::NeedsSettings { reason } => {
            Verdict { about: "settings".to_owned(), reason, needs_settings: true, ..Verdict::default() }
        }
        Plan::Ask { resolved, note, own } => {
            let answer = probe::run(&resolved, &settings.terms, own, timeout);
            let (healthy, reason) = match answer.outcome {
                Ok(reason) => (true, reason),
                Err(reason) if reason.starts_with(probe::wire::REFUSED) => {
                    (false, decide::with(reason, elsewhere(&resolved)))
                }
                Err(reason) => (false, reason),
            };
            let reason = decide::with(reason, note);
            let verdict =
                Verdict { healthy, about: answer.shown, status: answer.status, reason, needs_settings: false };
            return (verdict, answer.closing);
        }
    };
    (verdict, Closing::default())
}

/// Where the port is listened on if loopback refused the connection. Costs a kernel query, so it runs only after a refusal.
fn elsewhere(resolved: &ResolvedTarget) -> Option<String> {
    let port = resolved.local_port()?;
    let mut places: Vec<String> = Vec::new();
    for found in holder::listening(port).ok()? {
        // A wildcard listener includes loopback: it appeared after the refusal, or a firewall refuses. No other address would help.
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
    Some(format!("something listens on {places}{more} only: check it there with a full URL, or make it bind 0.0.0.0"))
}

fn look(settings: &Healthcheck) -> Found {
    state::believe(settings.state_dir.as_deref(), &settings.subject.ports)
}

/// One attempt for `run` itself, from a child process of it. `state` comes from `run` in memory, so no state file is read.
///
/// # Errors
/// Why the app is not healthy, on one line.
pub fn ask_once(subject: &Subject, terms: &Terms, state: State) -> Result<(), String> {
    // `own` needs the pid of `run`, and this process is its child.
    let pid = nix::unistd::getppid().as_raw();
    let found = || Found::Believed { state, path: PathBuf::new(), pid };
    match decide(subject, found) {
        Plan::Decided { healthy: true, .. } => Ok(()),
        Plan::Decided { reason, .. } | Plan::NeedsSettings { reason } => Err(reason),
        Plan::Ask { resolved, own, .. } => {
            let answer = probe::run(&resolved, terms, own, terms.timeout);
            // The child reports by exiting, so it closes the connections first.
            answer.closing.close();
            // No verdict line surrounds this reason, so it has to carry the status.
            answer.outcome.map(drop).map_err(|reason| match answer.status {
                Some(status) => format!("status {status}: {reason}"),
                None => reason,
            })
        }
    }
}
