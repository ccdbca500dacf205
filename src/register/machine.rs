//! Owns what to do with a registry next, and what to log: a pure state machine from wishes and answers to acts. Must
//! not know how a registry is queried, or any clock except the monotonic one that is passed in.

use std::time::{Duration, Instant};

/// What PID 1 wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Announced,
    Withdrawn,
    /// Withdrawn, and then the process exits.
    Gone,
}

/// A request to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Grant,
    /// Under this lease.
    Put(u64),
    Renew(u64),
    Revoke(u64),
}

/// The registry's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Granted(u64),
    Done,
    /// The lease is unknown: it has expired, or the registry has lost its data.
    Unknown,
    Failed(String),
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Do(Act),
    /// Wait until then, or until the wish changes.
    Wait(Option<Instant>),
    Leave,
}

/// What to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Announced,
    Withdrawn,
    /// The lease is lost, and the entry with it.
    Lost,
    /// Logged once, however long it lasts.
    Unreachable(String),
    Restored,
}

/// The first delay after a failure; it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The state machine.
#[derive(Debug)]
pub struct Machine {
    ttl: Duration,
    wish: Wish,
    lease: Option<Lease>,
    failures: u32,
    /// Nothing is tried before then.
    retry_at: Option<Instant>,
    /// An outage has been logged.
    unreachable: bool,
}

#[derive(Debug)]
struct Lease {
    id: u64,
    /// The entry is stored under it.
    put: bool,
    renew_at: Instant,
    /// When it expires by itself.
    ends: Instant,
}

impl Machine {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, wish: Wish::Withdrawn, lease: None, failures: 0, retry_at: None, unreachable: false }
    }

    /// Sets the wish; a new one is tried immediately.
    pub fn wish(&mut self, wish: Wish) {
        if wish != self.wish {
            self.wish = wish;
            self.retry_at = None;
        }
    }

    /// What to do at `now`.
    pub fn step(&mut self, now: Instant) -> Step {
        if self.wish != Wish::Announced && self.lease.as_ref().is_some_and(|lease| lease.ends <= now) {
            self.lease = None;
        }
        let delay = self.retry_at.filter(|until| *until > now);
        match (self.wish, &self.lease) {
            (Wish::Gone, None) => Step::Leave,
            // There is time for one try only: the lease expires anyway.
            (Wish::Gone, Some(_)) if delay.is_some() => Step::Leave,
            (Wish::Withdrawn, None) => Step::Wait(None),
            _ if delay.is_some() => Step::Wait(delay),
            (Wish::Gone | Wish::Withdrawn, Some(lease)) => Step::Do(Act::Revoke(lease.id)),
            (Wish::Announced, None) => Step::Do(Act::Grant),
            (Wish::Announced, Some(lease)) if !lease.put => Step::Do(Act::Put(lease.id)),
            (Wish::Announced, Some(lease)) if lease.renew_at <= now => Step::Do(Act::Renew(lease.id)),
            (Wish::Announced, Some(lease)) => Step::Wait(Some(lease.renew_at)),
        }
    }

    /// Handles the answer to `act`, received at `now`.
    pub fn on(&mut self, now: Instant, act: Act, answer: Answer) -> Option<Report> {
        if let Answer::Failed(why) = answer {
            self.retry_at = Some(now + self.delay());
            self.failures = self.failures.saturating_add(1);
            return (!std::mem::replace(&mut self.unreachable, true)).then_some(Report::Unreachable(why));
        }
        (self.failures, self.retry_at) = (0, None);
        let renew_at = now + self.ttl / 3;
        match (act, answer) {
            (_, Answer::Granted(id)) => {
                self.lease = Some(Lease { id, put: false, renew_at, ends: now + self.ttl });
                None
            }
            (Act::Revoke(_), _) => {
                self.lease = None;
                self.unreachable = false;
                Some(Report::Withdrawn)
            }
            (_, Answer::Unknown) => {
                self.lease = None;
                (!self.unreachable).then_some(Report::Lost)
            }
            (act, _) => {
                let lease = self.lease.as_mut()?;
                lease.put |= matches!(act, Act::Put(_));
                // A put does not renew the lease.
                if matches!(act, Act::Renew(_)) {
                    (lease.renew_at, lease.ends) = (renew_at, now + self.ttl);
                }
                match (std::mem::take(&mut self.unreachable), act) {
                    (true, _) => Some(Report::Restored),
                    (false, Act::Put(_)) => Some(Report::Announced),
                    (false, _) => None,
                }
            }
        }
    }

    /// Short enough to put the entry back within one TTL of the registry's return.
    fn delay(&self) -> Duration {
        FIRST_DELAY.saturating_mul(1 << self.failures.min(10)).min(MAX_DELAY).min(self.ttl / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    /// A state machine that has put its entry under lease 7.
    fn announced(now: Instant) -> Machine {
        let mut machine = Machine::new(TTL);
        assert_eq!(machine.step(now), Step::Wait(None));
        machine.wish(Wish::Announced);
        assert_eq!(machine.step(now), Step::Do(Act::Grant));
        assert_eq!(machine.on(now, Act::Grant, Answer::Granted(7)), None);
        assert_eq!(machine.step(now), Step::Do(Act::Put(7)));
        assert_eq!(machine.on(now, Act::Put(7), Answer::Done), Some(Report::Announced));
        machine
    }

    #[test]
    fn nothing_is_put_before_it_is_wished_and_everything_is_withdrawn() {
        let now = Instant::now();
        let mut machine = announced(now);
        assert_eq!(machine.step(now), Step::Wait(Some(now + TTL / 3)));
        machine.wish(Wish::Withdrawn);
        assert_eq!(machine.step(now), Step::Do(Act::Revoke(7)));
        assert_eq!(machine.on(now, Act::Revoke(7), Answer::Done), Some(Report::Withdrawn));
        assert_eq!(machine.step(now), Step::Wait(None));
        machine.wish(Wish::Announced);
        assert_eq!(machine.step(now), Step::Do(Act::Grant));
        machine.wish(Wish::Gone);
        assert_eq!(machine.step(now), Step::Leave);
    }

    #[test]
    fn a_lease_is_renewed_and_a_lost_one_replaced() {
        let now = Instant::now();
        let mut machine = announced(now);
        let later = now + TTL / 3;
        assert_eq!(machine.step(later), Step::Do(Act::Renew(7)));
        assert_eq!(machine.on(later, Act::Renew(7), Answer::Done), None);
        assert_eq!(machine.step(later), Step::Wait(Some(later + TTL / 3)));
        // Long after it has expired, as after a STOP: query the registry instead of assuming that.
        let late = later + TTL * 10;
        assert_eq!(machine.step(late), Step::Do(Act::Renew(7)));
        assert_eq!(machine.on(late, Act::Renew(7), Answer::Unknown), Some(Report::Lost));
        assert_eq!(machine.step(late), Step::Do(Act::Grant));
        machine.on(late, Act::Grant, Answer::Granted(8));
        // The registry lost its data between the two.
        assert_eq!(machine.on(late, Act::Put(8), Answer::Unknown), Some(Report::Lost));
        assert_eq!(machine.step(late), Step::Do(Act::Grant));
    }

    #[test]
    fn an_unreachable_registry_is_logged_twice_and_queried_within_a_ttl() {
        for ttl in [5, 15, 3600].map(Duration::from_secs) {
            let mut now = Instant::now();
            let mut machine = Machine::new(ttl);
            machine.wish(Wish::Announced);
            let mut said = Vec::new();
            for _ in 0..50 {
                assert_eq!(machine.step(now), Step::Do(Act::Grant));
                said.extend(machine.on(now, Act::Grant, Answer::Failed("refused".into())));
                let Step::Wait(Some(until)) = machine.step(now) else { panic!("no pause") };
                assert!(until > now && until - now <= (ttl / 3).min(MAX_DELAY));
                now = until;
            }
            machine.on(now, Act::Grant, Answer::Granted(1));
            said.extend(machine.on(now, Act::Put(1), Answer::Done));
            assert_eq!(said, [Report::Unreachable("refused".into()), Report::Restored]);
        }
    }

    #[test]
    fn a_withdrawal_is_retried_until_the_lease_expires_and_an_exit_tries_once() {
        let now = Instant::now();
        let failed = || Answer::Failed("timed out".into());
        let mut machine = announced(now);
        machine.wish(Wish::Withdrawn);
        assert_eq!(machine.step(now), Step::Do(Act::Revoke(7)));
        assert!(matches!(machine.on(now, Act::Revoke(7), failed()), Some(Report::Unreachable(_))));
        assert_eq!(machine.step(now + FIRST_DELAY), Step::Do(Act::Revoke(7)));
        assert_eq!(machine.step(now + TTL), Step::Wait(None));
        // A lease that the registry does not know counts as revoked.
        let mut machine = announced(now);
        machine.wish(Wish::Withdrawn);
        assert_eq!(machine.on(now, Act::Revoke(7), Answer::Unknown), Some(Report::Withdrawn));
        let mut machine = announced(now);
        // A delay from before does not prevent the one try at the end.
        machine.on(now, Act::Renew(7), failed());
        machine.wish(Wish::Gone);
        assert_eq!(machine.step(now), Step::Do(Act::Revoke(7)));
        machine.on(now, Act::Revoke(7), failed());
        assert_eq!(machine.step(now), Step::Leave);
    }
}
