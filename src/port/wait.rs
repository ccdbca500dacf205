//! Owns the wait for one busy port: subscribe, try, sleep until something may have changed, try again. Must not know other ports, or
//! what comes after the time is over.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Tried};
use super::claim::{Hear, Policy, Stop};
use super::holder::{self, Depth, Look, State};
use super::spec::Spec;
use super::watch::{Pauses, Wake, Watch};
use super::{advice, range};
use crate::config::Wait;
use crate::error::Error;

/// Between two log lines about the same wait.
const REPORT: Duration = Duration::from_secs(10);
/// How much later it may come.
const NEAR: Duration = Duration::from_secs(1);
/// So many events in vain between two ticks of the net are a storm: resets of a busy server look like the end of a listener.
const STORM: u32 = 32;
/// The pause between two tries in a storm.
const SHELTER: Duration = Duration::from_millis(10);
/// So much of a wait is not worth mentioning.
const BEGUN: Duration = Duration::from_millis(250);
/// Between an event that did not help and the look that finds out why.
const RECHECK: Duration = Duration::from_millis(50);
/// A TIME_WAIT's timer runs later than it says, up to a second: looked at so often from then on.
const LATE: Duration = Duration::from_millis(100);

/// One try, as far as the policy goes.
pub fn acquire(attempt: &mut Attempt, listen: bool) -> Tried {
    if listen { attempt.listen() } else { attempt.bind() }
}

/// One busy port and the time there is for it.
pub struct Waiting<'a> {
    pub spec: &'a Spec,
    pub attempt: &'a mut Attempt,
    pub policy: Policy,
    /// `None`: for ever.
    pub end: Option<Instant>,
    pub started: Instant,
}

impl Waiting<'_> {
    /// One try.
    ///
    /// # Errors
    /// Waiting would not help.
    pub fn acquire(&mut self) -> Result<bool, Stop> {
        match acquire(self.attempt, self.policy.listen) {
            Tried::Ours => Ok(true),
            Tried::Busy => Ok(false),
            Tried::Never(error) => Err(Stop::Error(Error::Cannot(vec![advice::never(self.spec, &error)]))),
        }
    }

    pub fn has_time(&self) -> bool {
        self.end.is_none_or(|end| Instant::now() < end)
    }

    /// True: the port is ours. False: the time is over.
    ///
    /// # Errors
    /// The caller heard something that ends the wait, or the port turns out to be one that can never be had.
    pub fn wait(&mut self, hear: &mut dyn Hear) -> Result<bool, Stop> {
        // Subscribe first and try again then: what was freed in between would wake nobody.
        let mut watch = Watch::open(self.spec.port, self.spec.protocol);
        if self.acquire()? {
            return Ok(true);
        }
        hear.wait_started(self.spec);
        let mut pauses = Pauses::new(self.policy.backoff);
        let Report::Waits(mut recheck) = self.report(&mut watch, hear, true)? else { return Ok(true) };
        let mut net = Instant::now() + pauses.next(watch.hears());
        let mut report = Instant::now() + REPORT;
        let mut vain = 0u32;
        while self.has_time() {
            // A report that is nearly due comes with the net's own wake-up.
            let report_alone = (net > report + NEAR).then_some(report);
            let until = [Some(net), report_alone, recheck, self.end].into_iter().flatten().min().unwrap_or(net);
            if vain > STORM && watch.rest(hear.fd(), until.min(Instant::now() + SHELTER)).heard {
                vain = 0;
            }
            let wake = listen(&mut watch, hear, until)?;
            // Nothing between the event and the try: this is the reaction time.
            if self.acquire()? {
                self.say_ours();
                return Ok(true);
            }
            let now = Instant::now();
            if now >= net {
                net = now + pauses.next(watch.hears());
                vain = 0;
            }
            if wake.event {
                vain += 1;
                recheck = Some(recheck.map_or(now + RECHECK, |at| at.min(now + RECHECK)));
            }
            if now >= report {
                let Report::Waits(at) = self.report(&mut watch, hear, false)? else { return Ok(true) };
                recheck = at;
                report = now + REPORT;
            } else if recheck.is_some_and(|at| now >= at) {
                recheck = aim(&mut watch, &holder::look(self.spec, Depth::Sockets));
            }
        }
        Ok(false)
    }

    /// What is left until `end`, for a reader: the whole of `--wait` while nothing worth mentioning is gone of it.
    fn left(&self, end: Instant) -> Duration {
        let left = end.saturating_duration_since(Instant::now());
        match self.policy.wait {
            Wait::For(whole) if whole.saturating_sub(left) < BEGUN.min(whole / 2) => whole,
            _ => rounded(left),
        }
    }

    fn say_ours(&self) {
        let (what, took) = (advice::label(self.spec), advice::human(self.started.elapsed()));
        tracing::info!(port = self.spec.port, "{what} is ours after {took}");
    }

    /// Finds out who has the port, follows them, and says so. Among ten thousand programs that takes long, so it hears all that the wait
    /// hears, and tries when the wait would.
    fn report(&mut self, watch: &mut Watch, hear: &mut dyn Hear, first: bool) -> Result<Report, Stop> {
        // Before the look, which takes its time among many programs.
        let limit = match self.end {
            Some(end) => format!("for up to {}", advice::human(self.left(end))),
            None => "for ever".to_owned(),
        };
        let (mut tried, mut vain) = (Ok(false), false);
        let spec = self.spec;
        let look = holder::look_while(spec, Depth::Programs, &mut || {
            let woken = listen(watch, hear, Instant::now());
            vain |= woken.as_ref().is_ok_and(|wake| wake.event);
            tried = woken.and_then(|wake| Ok(wake.event && self.acquire()?));
            matches!(tried, Ok(false))
        });
        if tried? {
            self.say_ours();
            return Ok(Report::Ours);
        }
        watch.follow(look.pids());
        let (what, port) = (advice::label(self.spec), self.spec.port);
        if first {
            tracing::info!(port, "{what} is busy, waiting {limit}: held by {look}");
            let ephemeral = range::local().contains(&port);
            if ephemeral && look.holders.iter().any(|holder| holder.state == State::Client) {
                tracing::warn!(
                    port,
                    "{what} lies in net.ipv4.ip_local_port_range and an outgoing connection has it: \
                    take a port outside, or set sysctl net.ipv4.ip_local_reserved_ports={port}"
                );
            } else if ephemeral {
                tracing::debug!(
                    port,
                    "{what} lies in net.ipv4.ip_local_port_range: any outgoing connection may take it"
                );
            }
        } else {
            let waited = advice::human(self.started.elapsed());
            tracing::info!(port, "{what} is busy for {waited} now, still waiting {limit}: held by {look}");
        }
        let recheck = aim(watch, &look);
        // The look is older than what happened meanwhile.
        let soon = vain.then(|| Instant::now() + RECHECK);
        Ok(Report::Waits(recheck.into_iter().chain(soon).min()))
    }
}

/// What came of a report.
enum Report {
    /// The port became ours while its holder was looked for.
    Ours,
    /// It is busy, and worth a look then; `None`: an event or the net will say.
    Waits(Option<Instant>),
}

/// Sleeps until something happens or `until` has come, and lets the caller hear what is for it.
fn listen(watch: &mut Watch, hear: &mut dyn Hear, until: Instant) -> Result<Wake, Stop> {
    let wake = watch.sleep(hear.fd(), until);
    if wake.heard
        && let ControlFlow::Break(stop) = hear.heard()
    {
        return Err(stop);
    }
    Ok(wake)
}

/// Points the watch at what holds the port, and tells when to look again; `None`: an event or the net will say.
fn aim(watch: &mut Watch, look: &Look) -> Option<Instant> {
    let now = Instant::now();
    if watch.count_connections(look.only_connections()) {
        // A connection may have ended after the look and before the watch heard connections.
        return Some(now);
    }
    look.time_wait().map(|left| now + left + LATE)
}

/// To a tenth of a second: what is left of a minute a millisecond after its start is a minute.
fn rounded(left: Duration) -> Duration {
    let tenths = (left.as_millis() + 50) / 100;
    Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX))
}
