//! Owns the claim as a machine that never sleeps: which port first, when to wait, when to fall back, when to give up. Whoever drives it
//! sleeps: the straight line until the ports are ours, or the loop of a running app. Must not know which of the two.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Hold, Tried};
use super::claim::{Claim, Policy, Stop, ascending, v6_only};
use super::company::Company;
use super::holder::{self, Depth};
use super::policy::{Fallback, Wait};
use super::spec::{Protocol, Spec};
use super::wait::{GIVEN_UP, Port, Waiting, Went};
use super::{advice, fallback, range};
use crate::error::Error;

/// Between a diagnosis that was given up for the caller's sake and the next one.
const SOON: Duration = Duration::from_millis(50);

/// How far the claim is.
#[derive(Debug)]
pub enum Step {
    /// Every port is ours: the claims in the order asked. The machine is used up.
    Ours(Vec<Claim>),
    /// Sleep until [`Claiming::deadline`], or until one of [`Claiming::descriptors`] is readable, or as long as something else of the
    /// caller's takes; then step again. A step too early does no harm and costs a try.
    Waits,
}

/// The ports on their way to being claims.
#[derive(Debug)]
pub struct Claiming {
    specs: Vec<Spec>,
    policy: Policy,
    /// Positions in `specs`, in the order they are claimed.
    order: Vec<usize>,
    /// How many of `order` are ours.
    settled: usize,
    attempts: Vec<Attempt>,
    waited: Vec<Duration>,
    /// Others who may share the ports, and where those who do are met.
    company: Option<Box<dyn Company>>,
    meetings: Vec<Option<OwnedFd>>,
    /// Since all were bound together, one has been waited for.
    apart: bool,
    started: Instant,
    /// When the turn of the port after the settled ones came.
    turn: Option<Instant>,
    waiting: Option<Waiting>,
    /// `waiting` has begun, and nobody has asked yet.
    begun: bool,
    /// How often the diagnosis was given up, and when it is made again.
    given_up: u32,
    diagnose_at: Option<Instant>,
}

impl Claiming {
    /// Tries each port once, so that one that can never be had fails before another is waited for.
    ///
    /// # Errors
    /// `Cannot`, a line for each port that can never be had.
    pub fn begin(specs: &[Spec], policy: Policy) -> Result<Self, Stop> {
        let mut claiming = Self {
            specs: specs.to_vec(),
            policy,
            order: ascending(specs),
            settled: 0,
            attempts: specs.iter().map(|spec| Attempt::to(policy.hold, spec, v6_only(spec, specs))).collect(),
            waited: vec![Duration::ZERO; specs.len()],
            company: None,
            meetings: specs.iter().map(|_| None).collect(),
            apart: false,
            started: Instant::now(),
            turn: None,
            waiting: None,
            begun: false,
            given_up: 0,
            diagnose_at: None,
        };
        claiming.try_all()?;
        Ok(claiming)
    }

    /// The ports may be shared with these.
    pub fn with(self, company: Option<Box<dyn Company>>) -> Self {
        Self { company, ..self }
    }

    /// What wakes the claim before its deadline: a subscription to closed sockets, the ends of known holders. None of them in a storm of
    /// events, which only the deadline ends; so they are asked for before each sleep.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.waiting.iter().flat_map(Waiting::descriptors)
    }

    /// When the claim goes on, whatever happens. In the past after its end.
    pub fn deadline(&self) -> Instant {
        self.diagnose_at.or_else(|| self.waiting.as_ref().map(Waiting::deadline)).unwrap_or(self.started)
    }

    /// The port that began to be waited for in the last step, once for each wait.
    pub fn begun(&mut self) -> Option<&Spec> {
        if !std::mem::take(&mut self.begun) {
            return None;
        }
        self.order.get(self.settled).and_then(|position| self.specs.get(*position))
    }

    /// Goes on, after a sleep that ended at `now`.
    ///
    /// What a step may take long for is the walk through /proc for a holder's name. About every millisecond of it `interrupted` is asked
    /// whether something of the caller's own is readable: then the step returns, and the walk is made again later, a few times, and in the
    /// end left out.
    ///
    /// # Errors
    /// `Cannot` for a port that can never be had, `PortBusy` with the diagnosis when the time is over.
    pub fn step(&mut self, now: Instant, interrupted: &mut dyn FnMut() -> bool) -> Result<Step, Stop> {
        loop {
            while let Some(position) = self.order.get(self.settled).copied() {
                if !self.settle(position, now, interrupted)? {
                    return Ok(Step::Waits);
                }
                self.settled += 1;
            }
            if !self.lost_one() {
                return self.take_claims().map(Step::Ours);
            }
            self.settled = 0;
        }
    }

    /// One bind of everything. What lies above the first busy one is let go again: it would be held while we wait for a lower one.
    fn try_all(&mut self) -> Result<(), Stop> {
        let mut never = Vec::new();
        let mut busy = false;
        for position in &self.order {
            let (Some(attempt), Some(spec)) = (self.attempts.get_mut(*position), self.specs.get(*position)) else {
                continue;
            };
            match attempt.bind() {
                Tried::Ours if busy => attempt.release(),
                Tried::Ours => {}
                Tried::Busy => busy = true,
                Tried::Never(error) => never.push(advice::never(spec, &error)),
            }
        }
        if never.is_empty() { Ok(()) } else { Err(Stop::Error(Error::Cannot(never))) }
    }

    /// Makes the port at `position` ours, by falling back if it must be. False: it is waited for.
    fn settle(&mut self, position: usize, now: Instant, interrupted: &mut dyn FnMut() -> bool) -> Result<bool, Stop> {
        let started = *self.turn.get_or_insert(now);
        match self.go_on(position, (started, now), interrupted)? {
            Went::Waits => return Ok(false),
            Went::Ours => {}
            Went::Over => {
                if !self.fall_back(position) && !self.give_up(position, interrupted)? {
                    return Ok(false);
                }
            }
        }
        if let Some(waited) = self.waited.get_mut(position) {
            *waited = started.elapsed();
        }
        (self.turn, self.waiting, self.begun) = (None, None, false);
        (self.given_up, self.diagnose_at) = (0, None);
        Ok(true)
    }

    /// One try, or a step of the wait for it.
    fn go_on(
        &mut self,
        position: usize,
        (started, now): (Instant, Instant),
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Went, Stop> {
        let (Some(attempt), Some(spec)) = (self.attempts.get_mut(position), self.specs.get(position)) else {
            return Ok(Went::Ours);
        };
        let Some(meeting) = self.meetings.get_mut(position) else { return Ok(Went::Ours) };
        let company = self.company.as_deref_mut();
        let mut port = Port { spec, attempt, policy: &self.policy, company, meeting };
        if let Some(waiting) = &mut self.waiting {
            return waiting.step(&mut port, now, interrupted);
        }
        if port.acquire(interrupted)? {
            return Ok(Went::Ours);
        }
        let end = match self.policy.wait {
            Wait::Forever => None,
            Wait::For(budget) => self.started.checked_add(budget),
        };
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(Went::Over);
        }
        self.apart = true;
        self.waiting = Waiting::begin(&mut port, started, end, interrupted)?;
        self.begun = self.waiting.is_some();
        Ok(if self.begun { Went::Waits } else { Went::Ours })
    }

    /// Whether somebody listens by now on a port that was ours to bind: a silent socket keeps nobody from that, and another port may have
    /// been waited for since. Then all of them are let go, to be claimed again within the same time.
    fn lost_one(&mut self) -> bool {
        if self.policy.hold != Hold::Probe || !std::mem::take(&mut self.apart) || self.specs.len() < 2 {
            return false;
        }
        let lost = self.attempts.iter().any(Attempt::is_lost);
        if lost {
            self.attempts.iter_mut().for_each(Attempt::release);
        }
        lost
    }

    fn fall_back(&mut self, position: usize) -> bool {
        let Some(spec) = self.specs.get(position) else { return false };
        let (hold, asked) = (self.policy.hold, self.policy.fallback);
        let avoid = self.avoid(spec.protocol);
        let Some(found) = fallback::find(spec, v6_only(spec, &self.specs), hold, asked, &avoid) else { return false };
        let told = if asked == Fallback::Any { "any" } else { "next" };
        let (what, port) = (advice::label(spec), found.port().unwrap_or_default());
        let local = range::local();
        // From there the kernel takes the ports of outgoing connections, so the next start may find it gone.
        let risky = if asked != Fallback::Any && local.contains(&port) && !local.contains(&spec.port) {
            ", which lies in net.ipv4.ip_local_port_range: any outgoing connection may take it"
        } else {
            ""
        };
        tracing::warn!(port, "{what} is still busy: falling back to port {port} (--fallback {told}){risky}");
        if let Some(attempt) = self.attempts.get_mut(position) {
            *attempt = found;
        }
        true
    }

    /// The ports that a fallback of this protocol must not take: those that specs name, of either protocol, and those already claimed.
    fn avoid(&self, protocol: Protocol) -> Vec<u16> {
        let same = self.specs.iter().zip(&self.attempts).filter(|(spec, _)| spec.protocol == protocol);
        let claimed = same.filter_map(|(_, attempt)| attempt.port());
        self.specs.iter().map(|spec| spec.port).chain(claimed).collect()
    }

    /// Gives up with the diagnosis: the port that could not be had, and every later one that is busy too. `Ok(false)`: the caller wants to
    /// be let go first.
    fn give_up(&mut self, position: usize, interrupted: &mut dyn FnMut() -> bool) -> Result<bool, Stop> {
        let mut lines = Vec::new();
        let mut given_up = false;
        let depth = if self.given_up < GIVEN_UP { Depth::Programs } else { Depth::Sockets };
        for other in self.order.iter().skip_while(|other| **other != position) {
            let (Some(attempt), Some(spec)) = (self.attempts.get_mut(*other), self.specs.get(*other)) else { continue };
            let busy = *other == position || matches!(attempt.bind(), Tried::Busy);
            attempt.release();
            if busy {
                let look = holder::look_while(spec, depth, &mut || {
                    given_up = given_up || interrupted();
                    !given_up
                });
                lines.extend(advice::busy(spec, &look, self.policy.wait, self.policy.fallback, &self.policy.told));
            }
        }
        if given_up {
            self.given_up += 1;
            self.diagnose_at = Some(Instant::now() + SOON);
            return Ok(false);
        }
        Err(Stop::Error(Error::PortBusy(lines)))
    }

    fn take_claims(&mut self) -> Result<Vec<Claim>, Stop> {
        let (specs, attempts) = (std::mem::take(&mut self.specs), std::mem::take(&mut self.attempts));
        let meetings = std::mem::take(&mut self.meetings);
        let parts = specs.into_iter().zip(attempts).zip(&self.waited).zip(meetings);
        let claims = parts.map(|(((spec, attempt), waited), meeting)| {
            let tries = attempt.tries;
            let (address, socket, cookie) = attempt.into_socket()?;
            Some(Claim {
                spec,
                port: address.port(),
                addr: address.ip(),
                socket,
                cookie,
                waited: *waited,
                tries,
                meeting,
            })
        });
        claims
            .collect::<Option<Vec<Claim>>>()
            .ok_or_else(|| Stop::Error(Error::cannot("a claimed socket has no address: start again")))
    }
}
