//! Owns the wait for one busy port: subscribe, try, let the caller sleep until something may have changed, try again. Must not know
//! other ports, who sleeps, or what comes after the time is over.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Tried};
use super::claim::{Policy, Stop};
use super::company::Company;
use super::holder::{self, Depth, Look, State};
use super::policy::Wait;
use super::rhythm::{Due, Rhythm};
use super::spec::Spec;
use super::watch::{Pauses, Watch};
use super::{advice, range};
use crate::error::Error;
use crate::log::Live;

/// So much of a wait is not worth mentioning.
const BEGUN: Duration = Duration::from_millis(250);
/// A TIME_WAIT's timer runs later than it says, up to a second: looked at so often from then on.
const LATE: Duration = Duration::from_millis(100);
/// So many walks through /proc in a row are given up for the caller's sake. Then it is done without: the holder stays unnamed.
pub const GIVEN_UP: u32 = 3;

/// One port and what is tried for it.
pub struct Port<'a> {
    pub spec: &'a Spec,
    pub attempt: &'a mut Attempt,
    pub policy: &'a Policy,
    /// Others who may share it.
    pub company: Option<&'a mut (dyn Company + 'static)>,
    /// Where those who share it meet, once it is theirs too.
    pub meeting: &'a mut Option<OwnedFd>,
}

impl Port<'_> {
    /// One try.
    ///
    /// # Errors
    /// Waiting would not help.
    pub fn acquire(&mut self, interrupted: &mut dyn FnMut() -> bool) -> Result<bool, Stop> {
        match self.attempt.acquire() {
            Tried::Ours => Ok(true),
            // Whoever has it may be one of us: asked before any wait, and again at each try.
            Tried::Busy => {
                if let Some(lent) = self.company.as_mut().and_then(|company| company.join(self.spec, interrupted)) {
                    self.attempt.adopt(lent.socket);
                    *self.meeting = Some(lent.meeting);
                }
                Ok(self.meeting.is_some())
            }
            Tried::Never(error) => Err(Stop::Error(Error::Cannot(vec![advice::never(self.spec, &error)]))),
        }
    }
}

/// How far a wait is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    Ours,
    Waits,
    /// The time is over.
    Over,
}

/// The wait for one busy port.
#[derive(Debug)]
pub struct Waiting {
    watch: Watch,
    rhythm: Rhythm,
    started: Instant,
    /// `None`: for ever.
    end: Option<Instant>,
    given_up: u32,
    /// Subscribed and tried just now: the report comes before the next try.
    fresh: bool,
    /// What is seen of the wait on a terminal, between the lines of the log.
    picture: Option<Picture>,
}

/// A line on the terminal that says who has the port and how long it is waited for, drawn anew each second.
#[derive(Debug)]
struct Picture {
    live: Live,
    next: Instant,
    /// Who has it, once that is known.
    held: Option<String>,
}

/// Between two drawings.
const TICK: Duration = Duration::from_secs(1);

impl Picture {
    /// Draws it where it is due. There is nothing to show before the holder is known.
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
    /// Subscribes, and tries again then: what was freed in between would wake nobody. `None`: that try made the port ours.
    ///
    /// # Errors
    /// The port turns out to be one that can never be had.
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
        let rhythm = Rhythm::begin(Instant::now(), Pauses::new(port.policy.backoff), watch.hears(), end);
        let live = Live::begin().filter(|_| port.policy.told.alone);
        let picture = live.map(|live| Picture { live, next: Instant::now(), held: None });
        Ok(Some(Self { watch, rhythm, started, end, given_up: 0, fresh: true, picture }))
    }

    /// What wakes the wait before its deadline. In a storm of events nothing does.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let hears = !self.rhythm.takes_shelter();
        self.watch.descriptors().filter(move |_| hears)
    }

    /// When the wait goes on, whatever happens.
    pub fn deadline(&self) -> Instant {
        let drawn = self.picture.as_ref().filter(|picture| picture.held.is_some()).map(|picture| picture.next);
        drawn.map_or(self.rhythm.deadline(), |drawn| drawn.min(self.rhythm.deadline()))
    }

    /// Goes on after a sleep that ended at `now`. A report walks through /proc, which takes long among ten thousand programs: it hears and
    /// tries as the wait does, and is given up when `interrupted` says so, to be made again later.
    ///
    /// # Errors
    /// The port turns out to be one that can never be had.
    pub fn step(
        &mut self,
        port: &mut Port<'_>,
        now: Instant,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Went, Stop> {
        let went = self.go_on(port, now, interrupted)?;
        // After the try, which is what counts.
        if let Some(picture) = self.picture.as_mut().filter(|_| went == Went::Waits) {
            picture.draw(port.spec, self.started, self.end);
        }
        Ok(went)
    }

    fn go_on(
        &mut self,
        port: &mut Port<'_>,
        now: Instant,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Went, Stop> {
        if std::mem::take(&mut self.fresh) {
            return self.report(port, interrupted);
        }
        if !self.rhythm.wakes(now) {
            return Ok(Went::Waits);
        }
        // What came before this look is tried for here, and what comes after it wakes again.
        let event = self.watch.hear();
        // Nothing between the event and the try: this is the reaction time.
        if port.acquire(interrupted)? {
            return Ok(self.ours(port));
        }
        match self.rhythm.in_vain(now, event, self.watch.hears()) {
            Due::Nothing => Ok(Went::Waits),
            Due::Over => Ok(Went::Over),
            Due::Look => {
                let at = self.aim(&holder::look(port.spec, Depth::Sockets));
                self.rhythm.looked(at);
                Ok(Went::Waits)
            }
            Due::Report => self.report(port, interrupted),
        }
    }

    fn ours(&self, port: &Port<'_>) -> Went {
        let (what, took) = (advice::label(port.spec), advice::human(self.started.elapsed()));
        tracing::info!(port = port.spec.port, "{what} is ours after {took}");
        Went::Ours
    }

    /// Finds out who has the port, follows them, and says so.
    fn report(&mut self, port: &mut Port<'_>, interrupted: &mut dyn FnMut() -> bool) -> Result<Went, Stop> {
        // Before the look, which takes its time among many programs.
        let limit = match self.end {
            Some(end) => format!("for up to {}", advice::human(left(end, port.policy.wait))),
            None => "for ever".to_owned(),
        };
        let (mut tried, mut vain, mut given_up) = (Ok(false), false, false);
        let depth = if self.given_up < GIVEN_UP { Depth::Programs } else { Depth::Sockets };
        let look = holder::look_while(port.spec, depth, &mut || {
            let event = self.watch.hear();
            vain |= event;
            if event {
                tried = port.acquire(interrupted);
            }
            given_up = matches!(tried, Ok(false)) && interrupted();
            matches!(tried, Ok(false)) && !given_up
        });
        if tried? {
            return Ok(self.ours(port));
        }
        if given_up {
            self.given_up += 1;
            self.rhythm.not_reported(Instant::now());
            return Ok(Went::Waits);
        }
        self.given_up = 0;
        self.watch.follow(look.pids());
        if let Some(picture) = &mut self.picture {
            picture.held = Some(look.to_string());
        }
        if self.rhythm.is_new() {
            say_first(port.spec, &limit, &look);
        } else {
            let (what, port, waited) =
                (advice::label(port.spec), port.spec.port, advice::human(self.started.elapsed()));
            tracing::info!(port, "{what} is busy for {waited} now, still waiting {limit}: held by {look}");
        }
        let at = self.aim(&look);
        self.rhythm.reported(Instant::now(), at, vain);
        Ok(Went::Waits)
    }

    /// Points the watch at what holds the port, and tells when to look again; `None`: an event or the net will say.
    fn aim(&mut self, look: &Look) -> Option<Instant> {
        let now = Instant::now();
        if self.watch.count_connections(look.only_connections()) {
            // A connection may have ended after the look and before the watch heard connections.
            return Some(now);
        }
        look.time_wait().map(|left| now + left + LATE)
    }
}

fn say_first(spec: &Spec, limit: &str, look: &Look) {
    let (what, port) = (advice::label(spec), spec.port);
    tracing::info!(port, "{what} is busy, waiting {limit}: held by {look}");
    let ephemeral = range::local().contains(&port);
    if ephemeral && look.holders.iter().any(|holder| holder.state == State::Client) {
        tracing::warn!(
            port,
            "{what} lies in net.ipv4.ip_local_port_range and an outgoing connection has it: \
            take a port outside, or reserve it for the next time: {}",
            range::reserve(port)
        );
    } else if ephemeral {
        tracing::debug!(port, "{what} lies in net.ipv4.ip_local_port_range: any outgoing connection may take it");
    }
}

/// What is left until `end`, for a reader: the whole of `--wait` while nothing worth mentioning is gone of it.
fn left(end: Instant, wait: Wait) -> Duration {
    let left = end.saturating_duration_since(Instant::now());
    match wait {
        Wait::For(whole) if whole.saturating_sub(left) < BEGUN.min(whole / 2) => whole,
        _ => rounded(left),
    }
}

/// To a tenth of a second: what is left of a minute a millisecond after its start is a minute.
fn rounded(left: Duration) -> Duration {
    let tenths = (left.as_millis() + 50) / 100;
    Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX))
}
