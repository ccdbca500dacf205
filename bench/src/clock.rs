//! Owns time: the only clock, and pauses. Must not know what is timed.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

pub const MICROSECOND: i64 = 1_000;
pub const MILLISECOND: i64 = 1_000_000;
pub const SECOND: i64 = 1_000_000_000;

/// CLOCK_MONOTONIC in nanoseconds: the same for all processes of the machine, so that one can send another the time of an event.
pub fn now() -> i64 {
    // Every Linux kernel has this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.tv_sec() * SECOND + time.tv_nsec())
}

/// Sleeps; returns immediately if no time is left.
pub fn pause(nanoseconds: i64) {
    std::thread::sleep(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)));
}
