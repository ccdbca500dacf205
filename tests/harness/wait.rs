//! Owns how a test waits: for a condition, with a deadline. Must not know what is waited for.

use std::time::{Duration, Instant};

/// How long anything may take before the test fails. A good run never takes that long, not even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds. For what sends no event (a line of `/proc`, a file that appears); descriptors are polled by `Running`.
///
/// # Panics
/// If it does not hold within [`PATIENCE`]; the message names `what`.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, &mut condition), "gave up after {PATIENCE:?}: {what}");
}

/// Whether `condition` becomes true within `time`.
pub fn holds_within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        // A delay of two milliseconds.
        // SAFETY: no descriptors are passed, so the kernel reads no memory.
        unsafe { libc::poll(std::ptr::null_mut(), 0, 2) };
    }
}
