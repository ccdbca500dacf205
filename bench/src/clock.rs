//! Owns time: the one clock, and pauses. Must not know what is timed.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

pub const MICROSECOND: i64 = 1_000;
pub const MILLISECOND: i64 = 1_000_000;
pub const SECOND: i64 = 1_000_000_000;

/// CLOCK_MONOTONIC in nanoseconds: the same for all processes of the machine, so that one may tell another when something happened.
pub fn now() -> i64 {
    // Linux has had this clock for ever.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.tv_sec() * SECOND + time.tv_nsec())
}

/// Sleeps; not at all where nothing is left.
pub fn pause(nanoseconds: i64) {
    std::thread::sleep(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)));
}
