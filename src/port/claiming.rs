//! Owns claiming as a state machine that never sleeps: which port comes first, when to wait, when to fall back, when to
//! give up. The caller sleeps: a blocking loop before the launch, or the event loop beside a running app. Must not know
//! which.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Hold, Tried};
use super::claim::{Claim, Policy, Stop, ascending, v6_only};
use super::holder::{self, Depth};
use super::peers::Peers;
use super::policy::{Fallback, Wait};
use super::spec::{Protocol, Spec};
use super::wait::{MAX_INTERRUPTED, Port, Progress, Waiting};
use super::{advice, fallback, range};
use crate::error::Error;

/// Delay before a diagnosis that was interrupted is repeated.
const SOON: Duration = Duration::from_millis(50);

/// The result of a step.
#[derive(Debug)]
pub enum Step {
    /// All ports are claimed, in the order configured. The state machine is finished.
    Ours(Vec<Claim>),
    /// Sleep until [`Claiming::deadline`] or until one of [`Claiming::descriptors`] is readable, then step again.
    /// Stepping early costs one try and does no harm.
    Waits,
}

/// The ports that are being claimed.
#[derive(Debug)]
pub struct Claiming {
    specs: Vec<Spec>,
    policy: Policy,
    /// Positions in `specs`, in the order in which they are claimed.
    order: Vec<usize>,
    /// How many of `order` are claimed.
    settled: usize,
    attempts: Vec<Attempt>,
    waited: Vec<Duration>,
    /// Other instances that may share the ports, and the meeting points of those that do.
    peers: Option<Box<dyn Peers>>,
    meetings: Vec<Option<OwnedFd>>,
    /// There was a wait since all ports were last bound in one go, so an earlier one may be lost by now.
    waited_between: bool,
    started: Instant,
    /// When it became the turn of the first port that is not claimed.
    turn: Option<Instant>,
    waiting: Option<Waiting>,
    /// `waiting` has begun, and [`Claiming::take_begun`] has not returned it yet.
    begun: bool,
    /// How often the diagnosis was interrupted, and when it is repeated.
    interruptions: u32,
    diagnose_at: Option<Instant>,
}

impl Claiming {
    /// Tries each port once, so that a port that can never be claimed fails before another one is waited for.
    ///
    /// # Errors
    /// `Cannot`, one line for each port that can never be claimed.
    pub fn begin(specs: &[Spec], policy: Policy) -> Result<Self, Stop> {
        let mut claiming = Self {
            specs: specs.to_vec(),
            policy,
            order: ascending(specs),
            settled: 0,
            attempts: specs.iter().map(|spec| Attempt::to(policy.hold, spec, v6_only(spec, specs))).collect(),
            waited: vec![Duration::ZERO; specs.len()],
            peers: None,
            meetings: specs.iter().map(|_| None).collect(),
            waited_between: false,
            started: Instant::now(),
            turn: None,
            waiting: None,
            begun: false,
            interruptions: 0,
            diagnose_at: None,
        };
        claiming.try_all()?;
        Ok(claiming)
    }

    /// Lets these instances share their ports with us.
    pub fn with_peers(self, peers: Option<Box<dyn Peers>>) -> Self {
        Self { peers, ..self }
    }

    /// What wakes the claim before its deadline: a subscription to closed sockets, and the exit of known holders. Empty
    /// during an event storm, when only the deadline counts, so query this before each sleep.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.waiting.iter().flat_map(Waiting::descriptors)
    }

    /// When the next step is due at the latest. Once the claim has finished: an instant in the past.
    pub fn deadline(&self) -> Instant {
        self.diagnose_at.or_else(|| self.waiting.as_ref().map(Waiting::deadline)).unwrap_or(self.started)
    }

    /// The port for which the last step started a wait; once per wait.
    pub fn take_begun(&mut self) -> Option<&Spec> {
        if !std::mem::take(&mut self.begun) {
            return None;
        }
        self.order.get(self.settled).and_then(|position| self.specs.get(*position))
    }

    /// Continues after a sleep that ended at `now`. `interrupted` returns whether the caller has other work.
    ///
    /// It is called about once per millisecond during the search of /proc for the holder's name, the only part of a step
    /// that takes long. If it returns true, so does the step; the search is repeated later, and skipped after a few
    /// interruptions.
    ///
    /// # Errors
    /// `Cannot` for a port that can never be claimed, `PortBusy` with the diagnosis when the time limit has passed.
    pub fn step(&mut self, now: Instant, interrupted: &mut dyn FnMut() -> bool) -> Result<Step, Stop> {
        loop {
            while let Some(position) = self.order.get(self.settled).copied() {
                if !self.settle(position, now, interrupted)? {
                    return Ok(Step::Waits);
                }
                self.settled += 1;
            }
            if !self.release_all_if_one_was_lost() {
                return self.take_claims().map(Step::Ours);
            }
            self.settled = 0;
        }
    }

    /// Binds every port once. Releases all those above the first busy one, which would otherwise be held while we wait
    /// for a lower one.
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

    /// Claims the port at `position`, with a fallback if necessary. False: it is being waited for.
    fn settle(&mut self, position: usize, now: Instant, interrupted: &mut dyn FnMut() -> bool) -> Result<bool, Stop> {
        let started = *self.turn.get_or_insert(now);
        match self.proceed(position, (started, now), interrupted)? {
            Progress::Waits => return Ok(false),
            Progress::Ours => {}
            Progress::Over => {
                if !self.fall_back(position) && !self.give_up(position, interrupted)? {
                    return Ok(false);
                }
            }
        }
        if let Some(waited) = self.waited.get_mut(position) {
            *waited = started.elapsed();
        }
        (self.turn, self.waiting, self.begun) = (None, None, false);
        (self.interruptions, self.diagnose_at) = (0, None);
        Ok(true)
    }

    /// Tries once, or continues the wait.
    fn proceed(
        &mut self,
        position: usize,
        (started, now): (Instant, Instant),
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Progress, Stop> {
        let (Some(attempt), Some(spec)) = (self.attempts.get_mut(position), self.specs.get(position)) else {
            return Ok(Progress::Ours);
        };
        let Some(meeting) = self.meetings.get_mut(position) else { return Ok(Progress::Ours) };
        let peers = self.peers.as_deref_mut();
        let mut port = Port { spec, attempt, policy: &self.policy, peers, meeting };
        if let Some(waiting) = &mut self.waiting {
            return waiting.step(&mut port, now, interrupted);
        }
        if port.acquire(interrupted)? {
            return Ok(Progress::Ours);
        }
        let end = match self.policy.wait {
            Wait::Forever => None,
            Wait::For(budget) => self.started.checked_add(budget),
        };
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(Progress::Over);
        }
        self.waited_between = true;
        self.waiting = Waiting::begin(&mut port, started, end, interrupted)?;
        self.begun = self.waiting.is_some();
        Ok(if self.begun { Progress::Waits } else { Progress::Ours })
    }

    /// A bound socket that does not listen does not prevent another process from listening on its port, and that may have
    /// happened during the wait for a later port. Then all ports are released, to be claimed again within the same time
    /// limit. True: they were.
    fn release_all_if_one_was_lost(&mut self) -> bool {
        if self.policy.hold != Hold::Probe || !std::mem::take(&mut self.waited_between) || self.specs.len() < 2 {
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
        // The kernel takes ports for outgoing connections from this range, so the next start may find it busy.
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

    /// The ports that a fallback must not take: those of any spec, whatever its protocol, and those already claimed for
    /// this one.
    fn avoid(&self, protocol: Protocol) -> Vec<u16> {
        let same = self.specs.iter().zip(&self.attempts).filter(|(spec, _)| spec.protocol == protocol);
        let claimed = same.filter_map(|(_, attempt)| attempt.port());
        self.specs.iter().map(|spec| spec.port).chain(claimed).collect()
    }

    /// Gives up with a diagnosis: the port that could not be claimed, and every later one that is busy too.
    /// `Ok(false)`: the caller interrupted it.
    fn give_up(&mut self, position: usize, interrupted: &mut dyn FnMut() -> bool) -> Result<bool, Stop> {
        let mut lines = Vec::new();
        let mut stopped = false;
        let depth = if self.interruptions < MAX_INTERRUPTED { Depth::Programs } else { Depth::Sockets };
        for other in self.order.iter().skip_while(|other| **other != position) {
            let (Some(attempt), Some(spec)) = (self.attempts.get_mut(*other), self.specs.get(*other)) else { continue };
            let busy = *other == position || matches!(attempt.bind(), Tried::Busy);
            attempt.release();
            if busy {
                let look = holder::look_while(spec, depth, &mut || {
                    stopped = stopped || interrupted();
                    !stopped
                });
                lines.extend(advice::busy(spec, &look, self.policy.wait, self.policy.fallback, &self.policy.told));
            }
        }
        if stopped {
            self.interruptions += 1;
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
