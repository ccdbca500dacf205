//! Owns the times of one wait: when to poll, when to report, and how to get through an event storm. Pure: the time is
//! an argument. Must not know sockets.

use std::time::{Duration, Instant};

use super::watch::Pauses;

/// Between two log lines about the same wait.
const REPORT: Duration = Duration::from_secs(10);
/// How much later a log line may come.
const NEAR: Duration = Duration::from_secs(1);
/// More useless events than this between two polls are a storm: on a busy server, resets look like a listener that
/// closes.
const STORM: u32 = 32;
/// Delay between two tries in a storm.
const THROTTLE: Duration = Duration::from_millis(10);
/// Delay between a useless event and the look that explains it, and before an interrupted report is repeated.
const RECHECK: Duration = Duration::from_millis(50);

/// What to do after a try that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Sleep until [`Schedule::deadline`].
    Nothing,
    /// Log the holder; then call [`Schedule::reported`] or [`Schedule::not_reported`].
    Report,
    /// Look again at what holds the port; then call [`Schedule::looked`].
    Look,
    /// The time limit has passed.
    Over,
}

/// The times of one wait.
#[derive(Debug)]
pub struct Schedule {
    pauses: Pauses,
    /// When the wait times out; `None`: never.
    end: Option<Instant>,
    /// The next try without an event.
    poll: Instant,
    report: Instant,
    /// The first report is due immediately, and the wait does not time out before it.
    reported: bool,
    look: Option<Instant>,
    /// Useless events since the last poll.
    useless: u32,
    /// Events are ignored until then.
    throttled_until: Option<Instant>,
}

impl Schedule {
    /// A wait that begins at `now`; the first report is due immediately. `subscribed`: the kernel sends events.
    pub fn begin(now: Instant, mut pauses: Pauses, subscribed: bool, end: Option<Instant>) -> Self {
        let poll = now + pauses.next(subscribed);
        Self { pauses, end, poll, report: now, reported: false, look: None, useless: 0, throttled_until: None }
    }

    /// When something is due, with or without events.
    pub fn deadline(&self) -> Instant {
        let due = self.due();
        self.throttled_until.map_or(due, |throttled_until| throttled_until.min(due))
    }

    /// True until the first report is made.
    pub fn is_new(&self) -> bool {
        !self.reported
    }

    /// True while only the deadline may wake the wait.
    pub fn is_throttled(&self) -> bool {
        self.throttled_until.is_some()
    }

    /// Called on each wake-up. False: a storm is throttled, so receive no events and do not try.
    pub fn admits(&mut self, now: Instant) -> bool {
        if now < self.deadline() && self.is_throttled() {
            return false;
        }
        self.throttled_until = None;
        true
    }

    /// The port is still busy at `now`; `event`: the try was due to an event.
    pub fn still_busy(&mut self, now: Instant, event: bool, subscribed: bool) -> Due {
        if now >= self.poll {
            self.poll = now + self.pauses.next(subscribed);
            self.useless = 0;
        }
        if event {
            self.useless = self.useless.saturating_add(1);
            self.look_no_later_than(now + RECHECK);
            self.throttled_until = (self.useless > STORM).then(|| now + THROTTLE);
        }
        let over = self.reported && self.end.is_some_and(|end| end <= now);
        if over {
            Due::Over
        } else if now >= self.report {
            Due::Report
        } else if self.look.is_some_and(|at| now >= at) {
            Due::Look
        } else {
            Due::Nothing
        }
    }

    /// The report has been made; `look`: when the next look is useful. `event`: events arrived meanwhile, so the report
    /// may be stale.
    pub fn reported(&mut self, now: Instant, look: Option<Instant>, event: bool) {
        self.reported = true;
        self.report = now + REPORT;
        self.look = look;
        if event {
            self.look_no_later_than(now + RECHECK);
        }
    }

    /// The report was interrupted: it is due again soon.
    pub fn not_reported(&mut self, now: Instant) {
        self.report = now + RECHECK;
    }

    /// A look has been made; `look`: when the next one is useful; `None`: an event or the next poll decides.
    pub fn looked(&mut self, look: Option<Instant>) {
        self.look = look;
    }

    fn look_no_later_than(&mut self, at: Instant) {
        self.look = Some(self.look.map_or(at, |look| look.min(at)));
    }

    fn due(&self) -> Instant {
        if !self.reported {
            return self.poll.min(self.report);
        }
        // A report that is nearly due comes with the next poll.
        let alone = (self.poll > self.report + NEAR).then_some(self.report);
        [alone, self.look, self.end].into_iter().flatten().fold(self.poll, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Due, Pauses, Schedule};
    use crate::port::policy::Backoff;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A wait that polls every `poll` ms and times out after `end` ms, and its start.
    fn schedule(poll: u64, end: Option<u64>) -> (Schedule, Instant) {
        let now = Instant::now();
        let pauses = Pauses::new(Backoff { min: ms(poll), max: ms(poll) });
        (Schedule::begin(now, pauses, true, end.map(|end| now + ms(end))), now)
    }

    /// The same after its first report.
    fn reported(poll: u64, end: Option<u64>) -> (Schedule, Instant) {
        let (mut schedule, now) = schedule(poll, end);
        schedule.reported(now, None, false);
        (schedule, now)
    }

    #[test]
    fn the_first_report_is_immediate_even_after_the_time_limit() {
        for end in [None, Some(0), Some(5)] {
            let (mut schedule, begun) = schedule(1000, end);
            assert_eq!(schedule.deadline(), begun);
            assert_eq!(schedule.still_busy(begun + ms(6), false, true), Due::Report, "{end:?}");
            schedule.reported(begun + ms(6), None, false);
            let after = if end.is_some() { Due::Over } else { Due::Nothing };
            assert_eq!(schedule.still_busy(begun + ms(6), false, true), after, "{end:?}");
        }
    }

    #[test]
    fn an_interrupted_report_is_due_again_soon_without_a_busy_loop() {
        let (mut schedule, begun) = schedule(1000, Some(5));
        schedule.not_reported(begun + ms(10));
        assert_eq!(schedule.still_busy(begun + ms(10), false, true), Due::Nothing);
        assert_eq!(schedule.deadline(), begun + ms(60));
        assert_eq!(schedule.still_busy(begun + ms(60), false, true), Due::Report);
    }

    /// Each row: the delay between polls, the time limit, and when the deadline wakes the wait with what is then due.
    #[test]
    fn what_is_due_without_events() {
        type Wakes = &'static [(u64, Due)];
        let table: [(u64, Option<u64>, Wakes); 4] = [
            // The report comes with the nearest poll.
            (4000, None, &[(4000, Due::Nothing), (8000, Due::Nothing), (10_000, Due::Report)]),
            (5500, None, &[(5500, Due::Nothing), (11_000, Due::Report)]),
            (60_000, Some(15_000), &[(10_000, Due::Report), (15_000, Due::Over)]),
            (1000, Some(2500), &[(1000, Due::Nothing), (2000, Due::Nothing), (2500, Due::Over)]),
        ];
        for (poll, end, wakes) in table {
            let (mut schedule, begun) = reported(poll, end);
            for (at, due) in wakes {
                let now = begun + ms(*at);
                assert_eq!(schedule.deadline(), now, "poll {poll}, end {end:?}: {at}");
                assert!(schedule.admits(now));
                assert_eq!(schedule.still_busy(now, false, true), *due, "poll {poll}, end {end:?}: {at}");
                if *due == Due::Report {
                    schedule.reported(now, None, false);
                }
            }
        }
    }

    #[test]
    fn a_useless_event_is_followed_by_one_look() {
        let (mut schedule, begun) = reported(60_000, None);
        assert_eq!(schedule.still_busy(begun + ms(100), true, true), Due::Nothing);
        assert_eq!(schedule.still_busy(begun + ms(120), true, true), Due::Nothing);
        assert_eq!(schedule.deadline(), begun + ms(150), "the first event's look is not put off by the second");
        assert_eq!(schedule.still_busy(begun + ms(150), false, true), Due::Look);
        // A TIME_WAIT that expires by itself.
        schedule.looked(Some(begun + ms(900)));
        assert_eq!(schedule.deadline(), begun + ms(900));
        assert_eq!(schedule.still_busy(begun + ms(900), false, true), Due::Look);
        schedule.looked(None);
        assert!(schedule.deadline() > begun + ms(9000));
        // Events that arrive during the report are newer than it.
        schedule.reported(begun + ms(1000), Some(begun + ms(5000)), true);
        assert_eq!(schedule.deadline(), begun + ms(1050));
    }

    #[test]
    fn a_storm_is_throttled_until_the_next_poll() {
        let (mut schedule, begun) = reported(1000, None);
        let mut tries = 0;
        let mut now = begun;
        // An event every 100 µs for two seconds.
        while now < begun + ms(2000) {
            now += Duration::from_micros(100);
            if schedule.admits(now) {
                tries += 1;
                if schedule.still_busy(now, true, true) == Due::Look {
                    schedule.looked(None);
                }
            }
        }
        assert!((200..=300).contains(&tries), "{tries} tries");
        // The throttle delays nothing that is due.
        let (mut schedule, begun) = reported(5, None);
        for _ in 0..40 {
            schedule.still_busy(begun, true, true);
        }
        assert!(schedule.is_throttled());
        assert_eq!(schedule.deadline(), begun + ms(5));
        assert!(!schedule.admits(begun + ms(4)) && schedule.admits(begun + ms(5)) && !schedule.is_throttled());
    }
}
