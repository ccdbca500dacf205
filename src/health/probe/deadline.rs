//! Owns the deadline of a probe: one for all its waits, from the first connect to the last byte. Must not know what is waited for.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Practically never, yet near enough that adding it to an `Instant` cannot overflow.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A deadline, and the timeout that it was made from.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    total: Duration,
    end: Instant,
}

/// Why a wait failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The deadline has passed.
    Timeout,
    /// The system call failed.
    Failed(Errno),
}

impl Deadline {
    /// `total` from now.
    pub fn after(total: Duration) -> Self {
        let total = total.min(FAR);
        Self { total, end: Instant::now() + total }
    }

    /// The timeout, for messages.
    pub fn total(self) -> Duration {
        self.total
    }

    pub fn end(self) -> Instant {
        self.end
    }

    /// The time left, zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// A deadline `share` from now, but no later than this one.
    pub fn capped(self, share: Duration) -> Self {
        let end = (Instant::now() + share.min(FAR)).min(self.end);
        Self { total: self.total.min(share), end }
    }

    /// Waits until `fd` is ready for `flags` or has an error.
    pub fn wait(self, fd: BorrowedFd<'_>, flags: PollFlags) -> Result<(), Stopped> {
        self.poll(&mut [PollFd::new(fd, flags)])
    }

    /// Sleeps until the deadline. Signals keep their default actions, because `healthcheck` blocks none.
    pub fn sleep(self) {
        while self.poll(&mut []).is_ok() {}
    }

    fn poll(self, fds: &mut [PollFd<'_>]) -> Result<(), Stopped> {
        loop {
            let left = self.remaining();
            // Checked before every poll: a peer that always has one more byte ready would never let poll time out.
            if left.is_zero() {
                return Err(Stopped::Timeout);
            }
            // Not poll(2): it takes whole milliseconds, so the last fraction of one would become a busy loop.
            match ppoll(fds, Some(TimeSpec::from_duration(left)), None) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(Stopped::Failed(errno)),
            }
        }
    }
}

/// `0.4ms`, `900ms`, `1.5s`.
pub fn shown_duration(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..10_000 => format!("{}.{}ms", micros / 1000, micros % 1000 / 100).replace(".0ms", "ms"),
        10_000..1_000_000 => format!("{}ms", micros / 1000),
        _ => format!("{}.{}s", micros / 1_000_000, micros % 1_000_000 / 100_000).replace(".0s", "s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_passes() {
        let deadline = Deadline::after(Duration::from_millis(20));
        let begun = Instant::now();
        deadline.sleep();
        assert!(begun.elapsed() >= Duration::from_millis(19));
        assert_eq!(deadline.remaining(), Duration::ZERO);
        assert!(Deadline::after(Duration::MAX).remaining() > Duration::from_secs(86_400));
        assert!(
            Deadline::after(Duration::from_secs(1)).capped(Duration::from_secs(5)).remaining()
                <= Duration::from_secs(1)
        );
        assert!(
            Deadline::after(Duration::from_secs(9)).capped(Duration::from_secs(5)).remaining()
                <= Duration::from_secs(5)
        );
    }

    #[test]
    fn durations() {
        for (micros, want) in [
            (0, "0ms"),
            (420, "0.4ms"),
            (1000, "1ms"),
            (1999, "1.9ms"),
            (900_000, "900ms"),
            (1_000_000, "1s"),
            (1_500_000, "1.5s"),
            (90_000_000, "90s"),
        ] {
            assert_eq!(shown_duration(Duration::from_micros(micros)), want);
        }
    }
}
