//! Owns the wait of `--after`: the targets that must be healthy before anything is claimed, all probed in parallel. Must not know how a
//! target is probed, or what follows the wait.
//!
//! `DependencyWait` is a pure state machine: which probes are due, what they answered, what to log. Each probe runs in a child process, so
//! a slow server never delays a signal.

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use tracing::info;

use super::early_signals::EarlySignals;
use super::prober::Prober;
use super::settings::Run;
use crate::error::Error;
use crate::health::settings::Subject;
use crate::health::target::Target;
use crate::health::terms::Terms;
use crate::port::advice::human;
use crate::port::claim::Stop;
use crate::port::policy::{Backoff, Wait};
use crate::port::watch::Pauses;
use crate::setting::value::shown;
use crate::state::State;
use crate::sys::descriptor::wait_readable;

/// The time between two log lines about the wait.
const REPORT: Duration = Duration::from_secs(10);

/// How many targets one line names. After a timeout each target gets its own line.
const LISTED: usize = 10;

/// Waits until all targets are healthy.
///
/// # Errors
/// `NotHealthy` on a timeout; `Ended` by a signal. Probes still running are killed then, and have yet to be reaped.
pub fn wait(config: &Run, terms: &Terms, state: &State, signals: &EarlySignals<'_>) -> Result<(), Stop> {
    let mut probers: Vec<Prober> = config.after.iter().map(|target| prober(target, terms)).collect();
    let names = config.after.iter().map(ToString::to_string).collect();
    let mut machine = DependencyWait::begin(names, config.after_wait, config.backoff, Instant::now());
    let outcome = loop {
        let now = Instant::now();
        let mut over = None;
        for next in machine.due(now) {
            match next {
                Action::Probe(at) => {
                    let Some(prober) = probers.get_mut(at) else { continue };
                    prober.probe(state);
                    if !prober.is_probing() {
                        machine.answered(now, at, Err(reason(prober)));
                    }
                }
                Action::Info(line) => info!("{line}"),
                Action::Done => over = Some(Ok(())),
                Action::TimedOut(lines) => over = Some(Err(Stop::Error(Error::NotHealthy(lines)))),
            }
        }
        if let Some(over) = over {
            break over;
        }
        let readable = wait_readable(&mut [PollFd::new(signals.fd(), PollFlags::POLLIN)], machine.deadline());
        if readable.first() != Some(&true) {
            continue;
        }
        let mut ended = Vec::new();
        let stop = signals.take(&mut |pid, end| ended.push((pid, end))).break_value();
        let now = Instant::now();
        for (pid, end) in ended {
            for (at, prober) in probers.iter_mut().enumerate() {
                if let Some(healthy) = prober.ended(pid, end) {
                    machine.answered(now, at, if healthy { Ok(()) } else { Err(reason(prober)) });
                }
            }
        }
        if let Some(stop) = stop {
            break Err(stop);
        }
    };
    for prober in &mut probers {
        prober.cancel();
    }
    outcome
}

fn prober(target: &Target, terms: &Terms) -> Prober {
    let subject = Subject { target: Some(target.clone()), ..Subject::default() };
    Prober::new(target.clone(), subject, Box::new(terms.clone()))
}

fn reason(prober: &Prober) -> String {
    let reason = prober.last_failure().filter(|reason| !reason.is_empty());
    reason.unwrap_or("no answer: the probe was killed").to_owned()
}

/// The lines are for people, and container engines split a line of more than 16 KiB.
fn listed(mut words: Vec<String>, between: &str) -> String {
    let more = words.len().saturating_sub(LISTED);
    if more > 0 {
        words.truncate(LISTED);
        words.push(format!("and {more} more"));
    }
    words.join(between)
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// Probe the target with this index.
    Probe(usize),
    Info(String),
    /// All are healthy.
    Done,
    /// The time limit has passed: one line for each target that is not healthy, and one with the next step.
    TimedOut(Vec<String>),
}

/// One target.
#[derive(Debug)]
struct Dependency {
    name: String,
    pauses: Pauses,
    stage: Stage,
    /// Why its last probe failed.
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Probing,
    /// The next probe is due at this instant.
    Delayed(Instant),
    Healthy,
}

/// The state machine. It reads no clock: every call passes the time.
#[derive(Debug)]
struct DependencyWait {
    all: Vec<Dependency>,
    wait: Wait,
    began: Instant,
    /// `None`: no time limit.
    end: Option<Instant>,
    report: Instant,
    /// The wait has been logged, so its end is logged too.
    logged: bool,
}

impl DependencyWait {
    fn begin(names: Vec<String>, wait: Wait, backoff: Backoff, now: Instant) -> Self {
        let one = |name| Dependency { name, pauses: Pauses::new(backoff), stage: Stage::Delayed(now), reason: None };
        let end = match wait {
            Wait::For(time) => now.checked_add(time),
            Wait::Forever => None,
        };
        Self { all: names.into_iter().map(one).collect(), wait, began: now, end, report: now + REPORT, logged: false }
    }

    /// When [`DependencyWait::due`] has something to do, even if no probe answers before.
    fn deadline(&self) -> Option<Instant> {
        let pauses = self.all.iter().filter_map(|one| match one.stage {
            Stage::Delayed(until) => Some(until),
            Stage::Probing | Stage::Healthy => None,
        });
        let end = self.end.filter(|_| self.may_end());
        pauses.chain(end).chain(Some(self.report)).min()
    }

    /// A wait of zero means one try, which is limited by the timeout of the probe.
    fn may_end(&self) -> bool {
        self.wait != Wait::For(Duration::ZERO) || self.all_have_answered()
    }

    fn all_have_answered(&self) -> bool {
        self.all.iter().all(|one| one.stage == Stage::Healthy || one.reason.is_some())
    }

    /// What is to be done at `now`.
    fn due(&mut self, now: Instant) -> Vec<Action> {
        let took = human(now.saturating_duration_since(self.began));
        if self.all.iter().all(|one| one.stage == Stage::Healthy) {
            let line = format!("{} healthy after {took}: continuing (--after)", self.names(true));
            return vec![Action::Info(line), Action::Done];
        }
        if self.may_end() && self.end.is_some_and(|end| end <= now) {
            return vec![Action::TimedOut(self.timeout_lines(&took))];
        }
        let mut todo = Vec::new();
        if !self.logged && self.all.iter().any(|one| one.reason.is_some()) && self.all_have_answered() {
            self.logged = true;
            todo.push(Action::Info(format!(
                "waiting {} until healthy (--after): {}",
                self.limit(now),
                self.unhealthy()
            )));
        }
        if now >= self.report {
            (self.report, self.logged) = (now + REPORT, true);
            let line = format!("still waiting {} after {took} (--after): {}", self.limit(now), self.unhealthy());
            todo.push(Action::Info(line));
        }
        for (at, one) in self.all.iter_mut().enumerate() {
            if matches!(one.stage, Stage::Delayed(until) if until <= now) {
                one.stage = Stage::Probing;
                todo.push(Action::Probe(at));
            }
        }
        todo
    }

    fn answered(&mut self, now: Instant, at: usize, answer: Result<(), String>) {
        let Some(one) = self.all.get_mut(at) else { return };
        match answer {
            Ok(()) => one.stage = Stage::Healthy,
            Err(reason) => {
                one.reason = Some(reason);
                one.stage = Stage::Delayed(now + one.pauses.next(false));
            }
        }
    }

    fn limit(&self, now: Instant) -> String {
        match self.end {
            // Rounded to a tenth of a second, so that a limit of one minute is logged as one minute.
            Some(end) => {
                let tenths = (end.saturating_duration_since(now).as_millis() + 50) / 100;
                format!("for up to {}", human(Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX))))
            }
            None => "for ever".to_owned(),
        }
    }

    /// `tcp://db:5432: connection refused; dns:web: …`
    fn unhealthy(&self) -> String {
        let open = self.all.iter().filter(|one| one.stage != Stage::Healthy);
        let words = open.map(|one| format!("{}: {}", one.name, one.reason.as_deref().unwrap_or("no answer yet")));
        listed(words.collect(), "; ")
    }

    /// The names of the targets that are (or are not) healthy, with the verb.
    fn names(&self, healthy: bool) -> String {
        let these = self.all.iter().filter(|one| (one.stage == Stage::Healthy) == healthy);
        let names: Vec<String> = these.map(|one| one.name.clone()).collect();
        let verb = if names.len() == 1 { "is" } else { "are" };
        format!("{} {verb}", listed(names, ", "))
    }

    fn timeout_lines(&self, took: &str) -> Vec<String> {
        let open = self.all.iter().filter(|one| one.stage != Stage::Healthy);
        let mut lines: Vec<String> = open
            .map(|one| {
                format!(
                    "--after {}: not healthy after {took}: {}",
                    one.name,
                    one.reason.as_deref().unwrap_or("no answer")
                )
            })
            .collect();
        let set = match self.wait {
            Wait::For(time) => human(time),
            Wait::Forever => "forever".to_owned(),
        };
        lines.push(format!(
            "the app is not started: start what is missing, or wait longer with --after-wait (REBERTH_AFTER_WAIT), which is {set}"
        ));
        lines
    }
}

/// The text form of one target of `--after`. It must name a host: on the app's own port the previous instance would answer.
pub fn target(text: &str) -> Result<Target, String> {
    let decoded = text.replace("%2C", ",").replace("%2c", ",");
    let target: Target = decoded.parse().map_err(|reason| format!("{}: {reason}", shown(text)))?;
    if target.needs_port() {
        return Err(format!(
            "{}: on the app's own port the old instance would answer: name a host, such as tcp://db:5432 or http://web/ready",
            shown(text)
        ));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn begin(names: &[&str], wait: Wait) -> (DependencyWait, Instant) {
        let now = Instant::now();
        let backoff = Backoff { min: 10 * MS, max: 10 * MS };
        (DependencyWait::begin(names.iter().map(|name| (*name).to_owned()).collect(), wait, backoff, now), now)
    }

    #[test]
    fn all_are_probed_in_parallel_and_healthy_ones_never_again() {
        let (mut machine, at) = begin(&["a", "b"], Wait::For(1000 * MS));
        assert_eq!(machine.due(at), [Action::Probe(0), Action::Probe(1)]);
        assert_eq!(machine.due(at), []);
        machine.answered(at, 0, Ok(()));
        machine.answered(at, 1, Err("no".into()));
        assert_eq!(machine.due(at), [Action::Info("waiting for up to 1s until healthy (--after): b: no".into())]);
        assert!(machine.deadline().unwrap() <= at + 10 * MS);
        assert_eq!(machine.due(at + 10 * MS), [Action::Probe(1)]);
        machine.answered(at + 20 * MS, 1, Ok(()));
        let done = "a, b are healthy after 20ms: continuing (--after)";
        assert_eq!(machine.due(at + 20 * MS), [Action::Info(done.into()), Action::Done]);
    }

    #[test]
    fn the_time_is_over_for_those_that_have_answered_once() {
        let (mut machine, at) = begin(&["a", "b"], Wait::For(Duration::ZERO));
        assert_eq!(machine.due(at), [Action::Probe(0), Action::Probe(1)]);
        machine.answered(at, 0, Err("no".into()));
        // The first answer of the other target may still arrive; the wait has not timed out before that.
        assert!(!machine.due(at + MS).iter().any(|next| matches!(next, Action::TimedOut(_))));
        machine.answered(at + 900 * MS, 1, Err("never".into()));
        let over = machine.due(at + 900 * MS);
        let [Action::TimedOut(lines)] = over.as_slice() else { panic!("{over:?}") };
        assert_eq!(lines[0], "--after a: not healthy after 900ms: no");
        assert_eq!(lines[1], "--after b: not healthy after 900ms: never");
        assert!(lines.len() == 3 && lines[2].contains("--after-wait (REBERTH_AFTER_WAIT), which is 0ms"), "{lines:?}");
    }

    #[test]
    fn many_targets_are_counted_in_a_line_and_all_named_at_the_end() {
        let names: Vec<String> = (1..=12).map(|at| format!("t{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (mut machine, at) = begin(&names, Wait::For(1000 * MS));
        machine.due(at);
        (0..12).for_each(|one| machine.answered(at, one, Err("no".into())));
        let actions = machine.due(at);
        assert!(matches!(&actions[..], [Action::Info(line)] if line.ends_with("; t10: no; and 2 more")), "{actions:?}");
        let over = machine.due(at + 1000 * MS);
        assert!(matches!(&over[..], [Action::TimedOut(lines)] if lines.len() == 13), "{over:?}");
        (0..12).for_each(|one| machine.answered(at, one, Ok(())));
        let done = machine.due(at);
        assert!(
            matches!(&done[..], [Action::Info(line), Action::Done] if line.contains("t10, and 2 more are healthy")),
            "{done:?}"
        );
    }

    /// A probe whose timeout exceeds the time limit does not prolong the wait, and its target is named meanwhile.
    #[test]
    fn a_target_that_never_answers_is_logged_and_times_out() {
        let (mut machine, at) = begin(&["a"], Wait::For(15_000 * MS));
        assert_eq!(machine.due(at), [Action::Probe(0)]);
        let line = "still waiting for up to 5s after 10s (--after): a: no answer yet";
        assert_eq!(machine.due(at + 10_000 * MS), [Action::Info(line.into())]);
        assert_eq!(machine.deadline(), Some(at + 15_000 * MS));
        let over = machine.due(at + 15_000 * MS);
        assert!(
            matches!(&over[..], [Action::TimedOut(lines)] if lines[0].ends_with("after 15s: no answer")),
            "{over:?}"
        );
    }

    #[test]
    fn forever_never_times_out_and_logs_every_ten_seconds() {
        let (mut machine, at) = begin(&["a"], Wait::Forever);
        machine.due(at);
        machine.answered(at, 0, Err("no".into()));
        assert!(
            matches!(&machine.due(at)[..], [Action::Info(line), ..] if line.contains("waiting for ever until healthy"))
        );
        let mut lines = 0;
        for second in 1..=35 {
            let now = at + second * 1000 * MS;
            for next in machine.due(now) {
                match next {
                    Action::Probe(one) => machine.answered(now, one, Err(format!("no {second}"))),
                    Action::Info(line) => {
                        lines += 1;
                        assert!(line.contains(&format!("no {}", second - 1)), "{second}: {line}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(lines, 3);
    }
}
