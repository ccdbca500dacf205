//! Owns the wait of `--after`: targets that have to be healthy before anything is claimed, all asked at once. Must not know how a target is
//! asked, or what comes after the wait.
//!
//! `Patience` is a pure machine: what is due, what came of it, what is said. Each probe is a child, so that no slow server keeps a signal
//! waiting.

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

/// Between two log lines about the wait.
const REPORT: Duration = Duration::from_secs(10);

/// So many targets are named in one line. When the time is over, each has a line of its own.
const LISTED: usize = 10;

/// Waits until all targets are healthy. They are asked on these terms.
///
/// # Errors
/// `NotHealthy` when the time is over; `Ended` by a signal. A child that still asks is killed then, and has to be reaped.
pub fn wait(config: &Run, terms: &Terms, state: &State, signals: &EarlySignals<'_>) -> Result<(), Stop> {
    let mut probers: Vec<Prober> = config.after.iter().map(|target| prober(target, terms)).collect();
    let names = config.after.iter().map(ToString::to_string).collect();
    let mut patience = Patience::begin(names, config.after_wait, config.backoff, Instant::now());
    let outcome = loop {
        let now = Instant::now();
        let mut over = None;
        for next in patience.due(now) {
            match next {
                Action::Ask(at) => {
                    let Some(prober) = probers.get_mut(at) else { continue };
                    prober.probe(state);
                    if !prober.is_probing() {
                        patience.answered(now, at, Err(reason(prober)));
                    }
                }
                Action::Info(line) => info!("{line}"),
                Action::Done => over = Some(Ok(())),
                Action::Over(lines) => over = Some(Err(Stop::Error(Error::NotHealthy(lines)))),
            }
        }
        if let Some(over) = over {
            break over;
        }
        let heard = wait_readable(&mut [PollFd::new(signals.fd(), PollFlags::POLLIN)], patience.deadline());
        if heard.first() != Some(&true) {
            continue;
        }
        let mut ended = Vec::new();
        let stop = signals.take(&mut |pid, end| ended.push((pid, end))).break_value();
        let now = Instant::now();
        for (pid, end) in ended {
            for (at, prober) in probers.iter_mut().enumerate() {
                if let Some(healthy) = prober.ended(pid, end) {
                    patience.answered(now, at, if healthy { Ok(()) } else { Err(reason(prober)) });
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
    let said = prober.last_failure().filter(|reason| !reason.is_empty());
    said.unwrap_or("no answer: who asked was ended").to_owned()
}

/// People read the line, and engines cut one of 16 KiB in two.
fn listed(mut words: Vec<String>, between: &str) -> String {
    let more = words.len().saturating_sub(LISTED);
    if more > 0 {
        words.truncate(LISTED);
        words.push(format!("and {more} more"));
    }
    words.join(between)
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// Probe the target with this number.
    Ask(usize),
    Info(String),
    /// All are healthy.
    Done,
    /// The time is over: a line for each that is not healthy, and one that helps.
    Over(Vec<String>),
}

/// One target that is waited for.
#[derive(Debug)]
struct Dependency {
    name: String,
    pauses: Pauses,
    stage: Stage,
    /// Why it was not healthy when it answered last.
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asked,
    /// Until then.
    Pausing(Instant),
    Healthy,
}

/// The wait as a machine: every instant comes in with its call.
#[derive(Debug)]
struct Patience {
    all: Vec<Dependency>,
    wait: Wait,
    began: Instant,
    /// `None`: for ever.
    end: Option<Instant>,
    report: Instant,
    /// The wait was worth a line, so its end is worth one too.
    said: bool,
}

impl Patience {
    fn begin(names: Vec<String>, wait: Wait, backoff: Backoff, now: Instant) -> Self {
        let one = |name| Dependency { name, pauses: Pauses::new(backoff), stage: Stage::Pausing(now), reason: None };
        let end = match wait {
            Wait::For(time) => now.checked_add(time),
            Wait::Forever => None,
        };
        Self { all: names.into_iter().map(one).collect(), wait, began: now, end, report: now + REPORT, said: false }
    }

    /// When something is due, even if nothing is answered until then.
    fn deadline(&self) -> Option<Instant> {
        let pauses = self.all.iter().filter_map(|one| match one.stage {
            Stage::Pausing(until) => Some(until),
            Stage::Asked | Stage::Healthy => None,
        });
        let end = self.end.filter(|_| self.may_end());
        pauses.chain(end).chain(Some(self.report)).min()
    }

    /// A wait of no time at all is one try, and a probe has a timeout of its own.
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
            let line = format!("{} healthy after {took}: going on (--after)", self.names(true));
            return vec![Action::Info(line), Action::Done];
        }
        if self.may_end() && self.end.is_some_and(|end| end <= now) {
            return vec![Action::Over(self.over(&took))];
        }
        let mut todo = Vec::new();
        if !self.said && self.all.iter().any(|one| one.reason.is_some()) && self.all_have_answered() {
            self.said = true;
            todo.push(Action::Info(format!("waiting {} until healthy (--after): {}", self.limit(now), self.open())));
        }
        if now >= self.report {
            (self.report, self.said) = (now + REPORT, true);
            let line = format!("still waiting {} after {took} (--after): {}", self.limit(now), self.open());
            todo.push(Action::Info(line));
        }
        for (at, one) in self.all.iter_mut().enumerate() {
            if matches!(one.stage, Stage::Pausing(until) if until <= now) {
                one.stage = Stage::Asked;
                todo.push(Action::Ask(at));
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
                one.stage = Stage::Pausing(now + one.pauses.next(false));
            }
        }
    }

    fn limit(&self, now: Instant) -> String {
        match self.end {
            // To a tenth of a second: a user who has set a minute reads a minute.
            Some(end) => {
                let tenths = (end.saturating_duration_since(now).as_millis() + 50) / 100;
                format!("for up to {}", human(Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX))))
            }
            None => "for ever".to_owned(),
        }
    }

    /// `tcp://db:5432: connection refused; dns:web: …`
    fn open(&self) -> String {
        let open = self.all.iter().filter(|one| one.stage != Stage::Healthy);
        let words = open.map(|one| format!("{}: {}", one.name, one.reason.as_deref().unwrap_or("no answer yet")));
        listed(words.collect(), "; ")
    }

    /// The names of those that are, or are not, healthy, with their verb.
    fn names(&self, healthy: bool) -> String {
        let these = self.all.iter().filter(|one| (one.stage == Stage::Healthy) == healthy);
        let names: Vec<String> = these.map(|one| one.name.clone()).collect();
        let verb = if names.len() == 1 { "is" } else { "are" };
        format!("{} {verb}", listed(names, ", "))
    }

    fn over(&self, took: &str) -> Vec<String> {
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

/// The text form of one target of `--after`. It has to name a host: on the app's own port the old instance would answer.
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

    fn begin(names: &[&str], wait: Wait) -> (Patience, Instant) {
        let now = Instant::now();
        let backoff = Backoff { min: 10 * MS, max: 10 * MS };
        (Patience::begin(names.iter().map(|name| (*name).to_owned()).collect(), wait, backoff, now), now)
    }

    #[test]
    fn all_are_asked_at_once_and_the_healthy_never_again() {
        let (mut patience, at) = begin(&["a", "b"], Wait::For(1000 * MS));
        assert_eq!(patience.due(at), [Action::Ask(0), Action::Ask(1)]);
        assert_eq!(patience.due(at), []);
        patience.answered(at, 0, Ok(()));
        patience.answered(at, 1, Err("no".into()));
        assert_eq!(patience.due(at), [Action::Info("waiting for up to 1s until healthy (--after): b: no".into())]);
        assert!(patience.deadline().unwrap() <= at + 10 * MS);
        assert_eq!(patience.due(at + 10 * MS), [Action::Ask(1)]);
        patience.answered(at + 20 * MS, 1, Ok(()));
        let done = "a, b are healthy after 20ms: going on (--after)";
        assert_eq!(patience.due(at + 20 * MS), [Action::Info(done.into()), Action::Done]);
    }

    #[test]
    fn the_time_is_over_for_those_that_have_answered_once() {
        let (mut patience, at) = begin(&["a", "b"], Wait::For(Duration::ZERO));
        assert_eq!(patience.due(at), [Action::Ask(0), Action::Ask(1)]);
        patience.answered(at, 0, Err("no".into()));
        // The other's first answer may still come. Meanwhile the time is not over.
        assert!(!patience.due(at + MS).iter().any(|next| matches!(next, Action::Over(_))));
        patience.answered(at + 900 * MS, 1, Err("never".into()));
        let over = patience.due(at + 900 * MS);
        let [Action::Over(lines)] = over.as_slice() else { panic!("{over:?}") };
        assert_eq!(lines[0], "--after a: not healthy after 900ms: no");
        assert_eq!(lines[1], "--after b: not healthy after 900ms: never");
        assert!(lines.len() == 3 && lines[2].contains("--after-wait (REBERTH_AFTER_WAIT), which is 0ms"), "{lines:?}");
    }

    #[test]
    fn a_crowd_is_counted_in_a_line_and_named_at_the_end() {
        let names: Vec<String> = (1..=12).map(|at| format!("t{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (mut patience, at) = begin(&names, Wait::For(1000 * MS));
        patience.due(at);
        (0..12).for_each(|one| patience.answered(at, one, Err("no".into())));
        let said = patience.due(at);
        assert!(matches!(&said[..], [Action::Info(line)] if line.ends_with("; t10: no; and 2 more")), "{said:?}");
        let over = patience.due(at + 1000 * MS);
        assert!(matches!(&over[..], [Action::Over(lines)] if lines.len() == 13), "{over:?}");
        (0..12).for_each(|one| patience.answered(at, one, Ok(())));
        let done = patience.due(at);
        assert!(
            matches!(&done[..], [Action::Info(line), Action::Done] if line.contains("t10, and 2 more are healthy")),
            "{done:?}"
        );
    }

    /// A probe with a timeout longer than the budget does not prolong the wait, and is named meanwhile.
    #[test]
    fn one_that_never_answers_is_told_and_is_over_in_time() {
        let (mut patience, at) = begin(&["a"], Wait::For(15_000 * MS));
        assert_eq!(patience.due(at), [Action::Ask(0)]);
        let line = "still waiting for up to 5s after 10s (--after): a: no answer yet";
        assert_eq!(patience.due(at + 10_000 * MS), [Action::Info(line.into())]);
        assert_eq!(patience.deadline(), Some(at + 15_000 * MS));
        let over = patience.due(at + 15_000 * MS);
        assert!(matches!(&over[..], [Action::Over(lines)] if lines[0].ends_with("after 15s: no answer")), "{over:?}");
    }

    #[test]
    fn forever_has_no_end_and_says_so_every_ten_seconds() {
        let (mut patience, at) = begin(&["a"], Wait::Forever);
        patience.due(at);
        patience.answered(at, 0, Err("no".into()));
        assert!(
            matches!(&patience.due(at)[..], [Action::Info(line), ..] if line.contains("waiting for ever until healthy"))
        );
        let mut lines = 0;
        for second in 1..=35 {
            let now = at + second * 1000 * MS;
            for next in patience.due(now) {
                match next {
                    Action::Ask(one) => patience.answered(now, one, Err(format!("no {second}"))),
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
