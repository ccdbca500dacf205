//! Owns the wait for one busy port: subscribe, try, let the caller sleep until something may have changed, retry. Must
//! not know other ports, who sleeps, or what follows a timeout.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Tried};
use super::claim::{Policy, Stop};
use super::holder::{self, Depth, Look, State};
use super::peers::Peers;
use super::policy::Wait;
use super::schedule::{Due, Schedule};
use super::spec::Spec;
use super::watch::{Pauses, Watch};
use super::{advice, range};
use crate::error::Error;
use crate::log::Live;

/// Until this much of `--wait` has passed, the log still names the whole of it.
const NEGLIGIBLE: Duration = Duration::from_millis(250);
/// A TIME_WAIT timer fires up to a second later than announced: from then on, look this often.
const TIMER_SLACK: Duration = Duration::from_millis(100);
/// After this many interrupted searches of /proc in a row, the report is made without one: the holder stays unnamed.
pub const MAX_INTERRUPTED: u32 = 3;

/// One port, and the borrowed parts of the claim that a try needs.
pub struct Port<'a> {
    pub spec: &'a Spec,
    pub attempt: &'a mut Attempt,
    pub policy: &'a Policy,
    /// Other instances that may share it.
    pub peers: Option<&'a mut (dyn Peers + 'static)>,
    /// Their meeting point, once they have shared it.
    pub meeting: &'a mut Option<OwnedFd>,
}

impl Port<'_> {
    /// One try.
    ///
    /// # Errors
    /// A retry would not help.
    pub fn acquire(&mut self, interrupted: &mut dyn FnMut() -> bool) -> Result<bool, Stop> {
        match self.attempt.acquire() {
            Tried::Ours => Ok(true),
            // The holder may be an instance of our group: request the port before any wait, and on each retry.
            Tried::Busy => {
                if let Some(shared) = self.peers.as_mut().and_then(|peers| peers.request(self.spec, interrupted)) {
                    self.attempt.adopt(shared.socket);
                    *self.meeting = Some(shared.meeting);
                }
                Ok(self.meeting.is_some())
            }
            Tried::Never(error) => Err(Stop::Error(Error::Cannot(vec![advice::never(self.spec, &error)]))),
        }
    }
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Ours,
    Waits,
    /// The time limit has passed.
    Over,
}

/// The wait for one busy port.
#[derive(Debug)]
pub struct Waiting {
    watch: Watch,
    schedule: Schedule,
    started: Instant,
    /// `None`: for ever.
    end: Option<Instant>,
    interruptions: u32,
    /// [`Waiting::begin`] has just tried: report first, then try again.
    just_tried: bool,
    /// The status line on a terminal, between the lines of the log.
    status_line: Option<StatusLine>,
}

/// A line on the terminal with the holder and the time waited, redrawn every second.
#[derive(Debug)]
struct StatusLine {
    live: Live,
    next: Instant,
    /// The holder, once known.
    held: Option<String>,
}

/// Between two redraws.
const TICK: Duration = Duration::from_secs(1);

impl StatusLine {
    /// Redraws the line if it is due. Nothing is shown before the holder is known.
    fn draw(&mut self, spec: &Spec, started: Instant, end: Option<Instant>) {
        let now = Instant::now();
        let Some(held) = self.held.as_ref().filter(|_| now >= self.next) else { return };
        let left = match end {
            Some(end) => format!("{}s left", end.saturating_duration_since(now).as_millis().div_ceil(1000)),
            None => format!("for {}s so far", now.saturating_duration_since(started).as_secs()),
        };
        self.live.draw(&format!("waiting for {}, {left}: held by {held}", advice::label(spec)));
        self.next = now + TICK;
    }
}

impl Waiting {
    /// Subscribes, then tries again: a port released before the subscription causes no event. `None`: that try claimed
    /// the port.
    ///
    /// # Errors
    /// The port can never be claimed.
    pub fn begin(
        port: &mut Port<'_>,
        started: Instant,
        end: Option<Instant>,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Self>, Stop> {
        let watch = Watch::open(port.spec.port, port.spec.protocol);
        if port.acquire(interrupted)? {
            return Ok(None);
        }
        let schedule = Schedule::begin(Instant::now(), Pauses::new(port.policy.backoff), watch.is_subscribed(), end);
        let live = Live::begin().filter(|_| port.policy.told.alone);
        let status_line = live.map(|live| StatusLine { live, next: Instant::now(), held: None });
        Ok(Some(Self { watch, schedule, started, end, interruptions: 0, just_tried: true, status_line }))
    }

    /// What wakes the wait before its deadline; nothing during an event storm.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let subscribed = !self.schedule.is_throttled();
        self.watch.descriptors().filter(move |_| subscribed)
    }

    /// When the next step is due at the latest.
    pub fn deadline(&self) -> Instant {
        let drawn = self
            .status_line
            .as_ref()
            .filter(|status_line| status_line.held.is_some())
            .map(|status_line| status_line.next);
        drawn.map_or(self.schedule.deadline(), |drawn| drawn.min(self.schedule.deadline()))
    }

    /// Continues after a sleep that ended at `now`. A report searches /proc, which takes long with ten thousand
    /// processes. Like the wait itself, the search receives events and retries, and it stops when `interrupted` returns
    /// true, to be repeated later.
    ///
    /// # Errors
    /// The port can never be claimed.
    pub fn step(
        &mut self,
        port: &mut Port<'_>,
        now: Instant,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Progress, Stop> {
        let progress = self.proceed(port, now, interrupted)?;
        // After the try, which matters more.
        if let Some(status_line) = self.status_line.as_mut().filter(|_| progress == Progress::Waits) {
            status_line.draw(port.spec, self.started, self.end);
        }
        Ok(progress)
    }

    fn proceed(
        &mut self,
        port: &mut Port<'_>,
        now: Instant,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Progress, Stop> {
        if std::mem::take(&mut self.just_tried) {
            return self.report(port, interrupted);
        }
        if !self.schedule.admits(now) {
            return Ok(Progress::Waits);
        }
        // Events received so far are covered by the try below; later ones wake the wait again.
        let event = self.watch.take_events();
        // Do nothing between the event and the try: this is the reaction time.
        if port.acquire(interrupted)? {
            return Ok(self.ours(port));
        }
        match self.schedule.still_busy(now, event, self.watch.is_subscribed()) {
            Due::Nothing => Ok(Progress::Waits),
            Due::Over => Ok(Progress::Over),
            Due::Look => {
                let at = self.refocus(&holder::look(port.spec, Depth::Sockets));
                self.schedule.looked(at);
                Ok(Progress::Waits)
            }
            Due::Report => self.report(port, interrupted),
        }
    }

    fn ours(&self, port: &Port<'_>) -> Progress {
        let (what, took) = (advice::label(port.spec), advice::human(self.started.elapsed()));
        tracing::info!(port = port.spec.port, "{what} is ours after {took}");
        Progress::Ours
    }

    /// Finds the holder, follows its processes, and logs it.
    fn report(&mut self, port: &mut Port<'_>, interrupted: &mut dyn FnMut() -> bool) -> Result<Progress, Stop> {
        // Before the search, which takes long with many processes.
        let limit = match self.end {
            Some(end) => format!("for up to {}", advice::human(left(end, port.policy.wait))),
            None => "for ever".to_owned(),
        };
        let (mut tried, mut woken_in_vain, mut stopped) = (Ok(false), false, false);
        let depth = if self.interruptions < MAX_INTERRUPTED { Depth::Programs } else { Depth::Sockets };
        let look = holder::look_while(port.spec, depth, &mut || {
            let event = self.watch.take_events();
            woken_in_vain |= event;
            if event {
                tried = port.acquire(interrupted);
            }
            stopped = matches!(tried, Ok(false)) && interrupted();
            matches!(tried, Ok(false)) && !stopped
        });
        if tried? {
            return Ok(self.ours(port));
        }
        if stopped {
            self.interruptions += 1;
            self.schedule.not_reported(Instant::now());
            return Ok(Progress::Waits);
        }
        self.interruptions = 0;
        self.watch.follow(look.pids());
        if let Some(status_line) = &mut self.status_line {
            status_line.held = Some(look.to_string());
        }
        if self.schedule.is_new() {
            log_first(port.spec, &limit, &look);
        } else {
            let (what, port, waited) =
                (advice::label(port.spec), port.spec.port, advice::human(self.started.elapsed()));
            tracing::info!(port, "{what} is busy for {waited} now, still waiting {limit}: held by {look}");
        }
        let at = self.refocus(&look);
        self.schedule.reported(Instant::now(), at, woken_in_vain);
        Ok(Progress::Waits)
    }

    /// Narrows the watch to the kind of holder that was found, and returns when to look again; `None`: an event or the polling fallback
    /// decides.
    fn refocus(&mut self, look: &Look) -> Option<Instant> {
        let now = Instant::now();
        if self.watch.count_connections(look.only_connections()) {
            // A connection may have closed after the look and before the watch included connections.
            return Some(now);
        }
        look.time_wait().map(|left| now + left + TIMER_SLACK)
    }
}

fn log_first(spec: &Spec, limit: &str, look: &Look) {
    let (what, port) = (advice::label(spec), spec.port);
    tracing::info!(port, "{what} is busy, waiting {limit}: held by {look}");
    let ephemeral = range::local().contains(&port);
    if ephemeral && look.holders.iter().any(|holder| holder.state == State::Client) {
        tracing::warn!(
            port,
            "{what} lies in net.ipv4.ip_local_port_range and an outgoing connection has it: \
            take a port outside, or reserve it for the next start: {}",
            range::reserve(port)
        );
    } else if ephemeral {
        tracing::debug!(port, "{what} lies in net.ipv4.ip_local_port_range: any outgoing connection may take it");
    }
}

/// The time until `end`, for a log line: all of `--wait` if only an insignificant part of it has passed.
fn left(end: Instant, wait: Wait) -> Duration {
    let left = end.saturating_duration_since(Instant::now());
    match wait {
        Wait::For(whole) if whole.saturating_sub(left) < NEGLIGIBLE.min(whole / 2) => whole,
        _ => rounded(left),
    }
}

/// Rounded to a tenth of a second: a millisecond after the start, a minute is still shown as a minute.
fn rounded(left: Duration) -> Duration {
    let tenths = (left.as_millis() + 50) / 100;
    Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX))
}
