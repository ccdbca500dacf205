//! Owns what is done to a registry next, and what is said of it: a pure machine from wishes and answers to acts. Must not know how a
//! registry is asked, nor any clock but the one it is handed, which never jumps.

use std::time::{Duration, Instant};

/// What PID 1 wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Announced,
    Withdrawn,
    /// Withdrawn, and then an end.
    Gone,
}

/// What is asked of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Grant,
    /// Under this lease.
    Put(u64),
    Renew(u64),
    Revoke(u64),
}

/// What it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Granted(u64),
    Done,
    /// It knows no such lease: ended, or it has lost its data.
    Unknown,
    Failed(String),
}

/// What is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Do(Act),
    /// Until then, or until there is another wish.
    Wait(Option<Instant>),
    Leave,
}

/// What is worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Say {
    Announced,
    Withdrawn,
    /// The lease is lost, and the entry with it.
    Lost,
    /// Once, however long it takes.
    Away(String),
    Back,
}

/// The first pause after a failure; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The machine.
#[derive(Debug)]
pub struct Machine {
    ttl: Duration,
    wish: Wish,
    lease: Option<Lease>,
    failures: u32,
    /// Nothing is tried before then.
    pause_until: Option<Instant>,
    /// It was said that the registry is away.
    away: bool,
}

#[derive(Debug)]
struct Lease {
    id: u64,
    /// The entry stands under it.
    put: bool,
    renew_at: Instant,
    /// It has ended by itself by then.
    ends: Instant,
}

impl Machine {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, wish: Wish::Withdrawn, lease: None, failures: 0, pause_until: None, away: false }
    }

    /// Takes a wish; a new one is tried at once.
    pub fn wish(&mut self, wish: Wish) {
        if wish != self.wish {
            self.wish = wish;
            self.pause_until = None;
        }
    }

    /// What is next at `now`.
    pub fn step(&mut self, now: Instant) -> Step {
        if self.wish != Wish::Announced && self.lease.as_ref().is_some_and(|lease| lease.ends <= now) {
            self.lease = None;
        }
        let pause = self.pause_until.filter(|until| *until > now);
        match (self.wish, &self.lease) {
            (Wish::Gone, None) => Step::Leave,
            // One try is all there is time for: the lease does the rest.
            (Wish::Gone, Some(_)) if pause.is_some() => Step::Leave,
            (Wish::Withdrawn, None) => Step::Wait(None),
            _ if pause.is_some() => Step::Wait(pause),
            (Wish::Gone | Wish::Withdrawn, Some(lease)) => Step::Do(Act::Revoke(lease.id)),
            (Wish::Announced, None) => Step::Do(Act::Grant),
            (Wish::Announced, Some(lease)) if !lease.put => Step::Do(Act::Put(lease.id)),
            (Wish::Announced, Some(lease)) if lease.renew_at <= now => Step::Do(Act::Renew(lease.id)),
            (Wish::Announced, Some(lease)) => Step::Wait(Some(lease.renew_at)),
        }
    }

    /// The answer to `act`, come at `now`.
    pub fn on(&mut self, now: Instant, act: Act, answer: Answer) -> Option<Say> {
        if let Answer::Failed(why) = answer {
            self.pause_until = Some(now + self.pause());
            self.failures = self.failures.saturating_add(1);
            return (!std::mem::replace(&mut self.away, true)).then_some(Say::Away(why));
        }
        (self.failures, self.pause_until) = (0, None);
        let renew_at = now + self.ttl / 3;
        match (act, answer) {
            (_, Answer::Granted(id)) => {
                self.lease = Some(Lease { id, put: false, renew_at, ends: now + self.ttl });
                None
            }
            (Act::Revoke(_), _) => {
                self.lease = None;
                self.away = false;
                Some(Say::Withdrawn)
            }
            (_, Answer::Unknown) => {
                self.lease = None;
                (!self.away).then_some(Say::Lost)
            }
            (act, _) => {
                let lease = self.lease.as_mut()?;
                lease.put |= matches!(act, Act::Put(_));
                // A put does not renew.
                if matches!(act, Act::Renew(_)) {
                    (lease.renew_at, lease.ends) = (renew_at, now + self.ttl);
                }
                match (std::mem::take(&mut self.away), act) {
                    (true, _) => Some(Say::Back),
                    (false, Act::Put(_)) => Some(Say::Announced),
                    (false, _) => None,
                }
            }
        }
    }

    /// Short enough for the entry to be back within a TTL of the registry.
    fn pause(&self) -> Duration {
        PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE).min(self.ttl / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    /// A machine that has put its entry under lease 7.
    fn announced(now: Instant) -> Machine {
        let mut machine = Machine::new(TTL);
        assert_eq!(machine.step(now), Step::Wait(None));
        machine.wish(Wish::Announced);
        assert_eq!(machine.step(now), Step::Do(Act::Grant));
        assert_eq!(machine.on(now, Act::Grant, Answer::Granted(7)), None);
        assert_eq!(machine.step(now), Step::Do(Act::Put(7)));
        assert_eq!(machine.on(now, Act::Put(7), Answer::Done), Some(Say::Announced));
        machine
    }

    #[test]
    fn nothing_is_put_before_it_is_wished_and_all_is_taken_back() {
        let now = Instant::now();
        let mut machine = announced(now);
        assert_eq!(machine.step(now), Step::Wait(Some(now + TTL / 3)));
        machine.wish(Wish::Withdrawn);
        assert_eq!(machine.step(now), Step::Do(Act::Revoke(7)));
        assert_eq!(machine.on(now, Act::Revoke(7), Answer::Done), Some(Say::Withdrawn));
        assert_eq!(machine.step(now), Step::Wait(None));
        machine.wish(Wish::Announced);
        assert_eq!(machine.step(now), Step::Do(Act::Grant));
        machine.wish(Wish::Gone);
        assert_eq!(machine.step(now), Step::Leave);
    }

    #[test]
    fn a_lease_is_renewed_and_one_that_is_lost_made_anew() {
        let now = Instant::now();
        let mut machine = announced(now);
        let later = now + TTL / 3;
        assert_eq!(machine.step(later), Step::Do(Act::Renew(7)));
        assert_eq!(machine.on(later, Act::Renew(7), Answer::Done), None);
        assert_eq!(machine.step(later), Step::Wait(Some(later + TTL / 3)));
        // Long after it has ended, as after a STOP: it is asked, not guessed.
        let late = later + TTL * 10;
        assert_eq!(machine.step(late), Step::Do(Act::Renew(7)));
        assert_eq!(machine.on(late, Act::Renew(7), Answer::Unknown), Some(Say::Lost));
        assert_eq!(machine.step(late), Step::Do(Act::Grant));
        machine.on(late, Act::Grant, Answer::Granted(8));
        // Wiped between the two.
        assert_eq!(machine.on(late, Act::Put(8), Answer::Unknown), Some(Say::Lost));
        assert_eq!(machine.step(late), Step::Do(Act::Grant));
    }

    #[test]
    fn a_registry_that_is_away_costs_two_lines_and_is_asked_within_a_ttl() {
        for ttl in [5, 15, 3600].map(Duration::from_secs) {
            let mut now = Instant::now();
            let mut machine = Machine::new(ttl);
            machine.wish(Wish::Announced);
            let mut said = Vec::new();
            for _ in 0..50 {
                assert_eq!(machine.step(now), Step::Do(Act::Grant));
                said.extend(machine.on(now, Act::Grant, Answer::Failed("refused".into())));
                let Step::Wait(Some(until)) = machine.step(now) else { panic!("no pause") };
                assert!(until > now && until - now <= (ttl / 3).min(LONGEST_PAUSE));
                now = until;
            }
            machine.on(now, Act::Grant, Answer::Granted(1));
            said.extend(machine.on(now, Act::Put(1), Answer::Done));
            assert_eq!(said, [Say::Away("refused".into()), Say::Back]);
        }
    }

    #[test]
    fn a_withdrawal_is_tried_until_the_lease_has_ended_and_an_end_only_once() {
        let now = Instant::now();
        let failed = || Answer::Failed("timed out".into());
        let mut machine = announced(now);
        machine.wish(Wish::Withdrawn);
        assert_eq!(machine.step(now), Step::Do(Act::Revoke(7)));
        assert!(matches!(machine.on(now, Act::Revoke(7), failed()), Some(Say::Away(_))));
        assert_eq!(machine.step(now + PAUSE), Step::Do(Act::Revoke(7)));
        assert_eq!(machine.step(now + TTL), Step::Wait(None));
        // A lease that is not known any more is as good as revoked.
        let mut machine = announced(now);
        machine.wish(Wish::Withdrawn);
        assert_eq!(machine.on(now, Act::Revoke(7), Answer::Unknown), Some(Say::Withdrawn));
        let mut machine = announced(now);
        // A pause from before does not keep the end from its one try.
        machine.on(now, Act::Renew(7), failed());
        machine.wish(Wish::Gone);
        assert_eq!(machine.step(now), Step::Do(Act::Revoke(7)));
        machine.on(now, Act::Revoke(7), failed());
        assert_eq!(machine.step(now), Step::Leave);
    }
}
