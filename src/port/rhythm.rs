//! Owns the times of one wait: when the next try is due without an event, when a report is, and how a storm of events is sat out. Pure:
//! the clock comes in as an argument. Must not know sockets.

use std::time::{Duration, Instant};

use super::watch::Pauses;

/// Between two log lines about the same wait.
const REPORT: Duration = Duration::from_secs(10);
/// How much later it may come.
const NEAR: Duration = Duration::from_secs(1);
/// So many events in vain between two ticks of the net are a storm: resets of a busy server look like the end of a listener.
const STORM: u32 = 32;
/// The pause between two tries in a storm.
const SHELTER: Duration = Duration::from_millis(10);
/// Between an event that did not help and the look that finds out why; and between a report that was given up and the next one.
const RECHECK: Duration = Duration::from_millis(50);

/// What is due after a try in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Sleep until [`Rhythm::deadline`].
    Nothing,
    /// Say who has the port; then call [`Rhythm::reported`] or [`Rhythm::not_reported`].
    Report,
    /// Look again at what holds the port; then call [`Rhythm::looked`].
    Look,
    /// The time is over.
    Over,
}

/// The clock of one wait.
#[derive(Debug)]
pub struct Rhythm {
    pauses: Pauses,
    /// When the wait is over; `None`: never.
    end: Option<Instant>,
    /// The next try that no event asks for.
    net: Instant,
    report: Instant,
    /// The first report comes at once and alone, and the wait is not over before it.
    reported: bool,
    look: Option<Instant>,
    /// Events in vain since the last tick of the net.
    vain: u32,
    /// Until then events wake nobody.
    shelter: Option<Instant>,
}

impl Rhythm {
    /// A wait that begins at `now`; the first report is due at once. `hears`: the kernel sends events.
    pub fn begin(now: Instant, mut pauses: Pauses, hears: bool, end: Option<Instant>) -> Self {
        let net = now + pauses.next(hears);
        Self { pauses, end, net, report: now, reported: false, look: None, vain: 0, shelter: None }
    }

    /// When something is due, whatever happens until then.
    pub fn deadline(&self) -> Instant {
        let due = self.due();
        self.shelter.map_or(due, |shelter| shelter.min(due))
    }

    /// True until the first report is made.
    pub fn is_new(&self) -> bool {
        !self.reported
    }

    /// True while only the clock may wake the wait.
    pub fn takes_shelter(&self) -> bool {
        self.shelter.is_some()
    }

    /// Somebody woke the wait. False: it takes shelter from a storm and neither hears nor tries now.
    pub fn wakes(&mut self, now: Instant) -> bool {
        if now < self.deadline() && self.takes_shelter() {
            return false;
        }
        self.shelter = None;
        true
    }

    /// The port is still busy at `now`; `event`: an event had asked for the try.
    pub fn in_vain(&mut self, now: Instant, event: bool, hears: bool) -> Due {
        if now >= self.net {
            self.net = now + self.pauses.next(hears);
            self.vain = 0;
        }
        if event {
            self.vain = self.vain.saturating_add(1);
            self.look_by(now + RECHECK);
            self.shelter = (self.vain > STORM).then(|| now + SHELTER);
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

    /// The report is made; `look`: when another look is worth it. `vain`: events came meanwhile, so it is older than what happened.
    pub fn reported(&mut self, now: Instant, look: Option<Instant>, vain: bool) {
        self.reported = true;
        self.report = now + REPORT;
        self.look = look;
        if vain {
            self.look_by(now + RECHECK);
        }
    }

    /// The caller wanted to be let go before the report was made: it is due again soon.
    pub fn not_reported(&mut self, now: Instant) {
        self.report = now + RECHECK;
    }

    /// Somebody has looked; `look`: when another look is worth it; `None`: an event or the net will say.
    pub fn looked(&mut self, look: Option<Instant>) {
        self.look = look;
    }

    fn look_by(&mut self, at: Instant) {
        self.look = Some(self.look.map_or(at, |look| look.min(at)));
    }

    fn due(&self) -> Instant {
        if !self.reported {
            return self.net.min(self.report);
        }
        // A report that is nearly due comes with the net's own wake-up.
        let alone = (self.net > self.report + NEAR).then_some(self.report);
        [alone, self.look, self.end].into_iter().flatten().fold(self.net, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Due, Pauses, Rhythm};
    use crate::port::policy::Backoff;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A wait whose net comes every `net` ms and that ends after `end` ms, and its beginning.
    fn rhythm(net: u64, end: Option<u64>) -> (Rhythm, Instant) {
        let now = Instant::now();
        let pauses = Pauses::new(Backoff { min: ms(net), max: ms(net) });
        (Rhythm::begin(now, pauses, true, end.map(|end| now + ms(end))), now)
    }

    /// The same with its first report made.
    fn reported(net: u64, end: Option<u64>) -> (Rhythm, Instant) {
        let (mut rhythm, now) = rhythm(net, end);
        rhythm.reported(now, None, false);
        (rhythm, now)
    }

    #[test]
    fn the_first_report_comes_at_once_even_if_the_time_is_over() {
        for end in [None, Some(0), Some(5)] {
            let (mut rhythm, begun) = rhythm(1000, end);
            assert_eq!(rhythm.deadline(), begun);
            assert_eq!(rhythm.in_vain(begun + ms(6), false, true), Due::Report, "{end:?}");
            rhythm.reported(begun + ms(6), None, false);
            let after = if end.is_some() { Due::Over } else { Due::Nothing };
            assert_eq!(rhythm.in_vain(begun + ms(6), false, true), after, "{end:?}");
        }
    }

    #[test]
    fn a_report_that_was_given_up_is_due_soon_again_and_no_busy_loop() {
        let (mut rhythm, begun) = rhythm(1000, Some(5));
        rhythm.not_reported(begun + ms(10));
        assert_eq!(rhythm.in_vain(begun + ms(10), false, true), Due::Nothing);
        assert_eq!(rhythm.deadline(), begun + ms(60));
        assert_eq!(rhythm.in_vain(begun + ms(60), false, true), Due::Report);
    }

    /// Each row: the net's pause, the end, when the wait wakes by the clock alone and what is due then.
    #[test]
    fn what_the_clock_brings() {
        type Wakes = &'static [(u64, Due)];
        let table: [(u64, Option<u64>, Wakes); 4] = [
            // The report comes with the net's tick that is near to it.
            (4000, None, &[(4000, Due::Nothing), (8000, Due::Nothing), (10_000, Due::Report)]),
            (5500, None, &[(5500, Due::Nothing), (11_000, Due::Report)]),
            (60_000, Some(15_000), &[(10_000, Due::Report), (15_000, Due::Over)]),
            (1000, Some(2500), &[(1000, Due::Nothing), (2000, Due::Nothing), (2500, Due::Over)]),
        ];
        for (net, end, wakes) in table {
            let (mut rhythm, begun) = reported(net, end);
            for (at, due) in wakes {
                let now = begun + ms(*at);
                assert_eq!(rhythm.deadline(), now, "net {net}, end {end:?}: {at}");
                assert!(rhythm.wakes(now));
                assert_eq!(rhythm.in_vain(now, false, true), *due, "net {net}, end {end:?}: {at}");
                if *due == Due::Report {
                    rhythm.reported(now, None, false);
                }
            }
        }
    }

    #[test]
    fn an_event_in_vain_is_looked_into_once() {
        let (mut rhythm, begun) = reported(60_000, None);
        assert_eq!(rhythm.in_vain(begun + ms(100), true, true), Due::Nothing);
        assert_eq!(rhythm.in_vain(begun + ms(120), true, true), Due::Nothing);
        assert_eq!(rhythm.deadline(), begun + ms(150), "the first event's look is not put off by the second");
        assert_eq!(rhythm.in_vain(begun + ms(150), false, true), Due::Look);
        // A TIME_WAIT that ends by itself.
        rhythm.looked(Some(begun + ms(900)));
        assert_eq!(rhythm.deadline(), begun + ms(900));
        assert_eq!(rhythm.in_vain(begun + ms(900), false, true), Due::Look);
        rhythm.looked(None);
        assert!(rhythm.deadline() > begun + ms(9000));
        // What came while the report was made is newer than it.
        rhythm.reported(begun + ms(1000), Some(begun + ms(5000)), true);
        assert_eq!(rhythm.deadline(), begun + ms(1050));
    }

    #[test]
    fn a_storm_is_sat_out_a_shelter_at_a_time_until_the_net_ticks() {
        let (mut rhythm, begun) = reported(1000, None);
        let mut tries = 0;
        let mut now = begun;
        // An event every 100 µs for two seconds.
        while now < begun + ms(2000) {
            now += Duration::from_micros(100);
            if rhythm.wakes(now) {
                tries += 1;
                if rhythm.in_vain(now, true, true) == Due::Look {
                    rhythm.looked(None);
                }
            }
        }
        assert!((200..=300).contains(&tries), "{tries} tries");
        // Nothing that is due is slept through.
        let (mut rhythm, begun) = reported(5, None);
        for _ in 0..40 {
            rhythm.in_vain(begun, true, true);
        }
        assert!(rhythm.takes_shelter());
        assert_eq!(rhythm.deadline(), begun + ms(5));
        assert!(!rhythm.wakes(begun + ms(4)) && rhythm.wakes(begun + ms(5)) && !rhythm.takes_shelter());
    }
}
