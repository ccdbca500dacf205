//! Owns the one way a test waits: a condition and a deadline. Must not know what is waited for.

use std::time::{Duration, Instant};

/// How long anything may take before the test fails. Never reached by a good run, not even on a machine with many neighbours.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds. For what sends no event (a line of `/proc`, a file that appears); where there is a descriptor to
/// poll, `Running` polls it.
///
/// # Panics
/// When it does not hold within [`PATIENCE`]; the message names `what`.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, &mut condition), "gave up after {PATIENCE:?}: {what}");
}

/// Whether `condition` comes to hold within `time`.
pub fn holds_within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        // SAFETY: no descriptors are handed over, so the kernel reads no memory of ours; this is a pause of two milliseconds.
        unsafe { libc::poll(std::ptr::null_mut(), 0, 2) };
    }
}
