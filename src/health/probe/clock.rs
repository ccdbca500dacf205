//! Owns the one clock of a probe: every wait of it, from the first connect to the last byte, ends by the same moment.
//! Must not know what is waited for.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Far enough for "no end", near enough that no sum of it overflows.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A deadline and the time it was made of.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    total: Duration,
    end: Instant,
}

/// Why a wait brought nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The time is over.
    Timeout,
    /// The kernel would not wait.
    Failed(Errno),
}

impl Clock {
    /// A clock that starts now.
    pub fn start(total: Duration) -> Self {
        let total = total.min(FAR);
        Self { total, end: Instant::now() + total }
    }

    /// The time it had at the start.
    pub fn total(self) -> Duration {
        self.total
    }

    pub fn end(self) -> Instant {
        self.end
    }

    /// What is left of it.
    pub fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// A clock that ends after `share` of the whole time, but never later than this one.
    pub fn part(self, share: Duration) -> Self {
        let end = (Instant::now() + share.min(FAR)).min(self.end);
        Self { total: self.total.min(share), end }
    }

    /// Waits until `fd` can do what `flags` says, or has an error to tell.
    pub fn wait(self, fd: BorrowedFd<'_>, flags: PollFlags) -> Result<(), Stopped> {
        self.poll(&mut [PollFd::new(fd, flags)])
    }

    /// Waits until the end. Signals end the program as they always do: `healthcheck` blocks none.
    pub fn sleep(self) {
        while self.poll(&mut []).is_ok() {}
    }

    fn poll(self, fds: &mut [PollFd<'_>]) -> Result<(), Stopped> {
        loop {
            let left = self.left();
            // Asked before the kernel is: a peer that always has one more byte for us never lets a poll run out.
            if left.is_zero() {
                return Err(Stopped::Timeout);
            }
            // Not `poll`: its milliseconds round a last half of one down to a busy loop.
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
    fn it_ends() {
        let clock = Clock::start(Duration::from_millis(20));
        let begun = Instant::now();
        clock.sleep();
        assert!(begun.elapsed() >= Duration::from_millis(19));
        assert_eq!(clock.left(), Duration::ZERO);
        assert!(Clock::start(Duration::MAX).left() > Duration::from_secs(86_400));
        assert!(Clock::start(Duration::from_secs(1)).part(Duration::from_secs(5)).left() <= Duration::from_secs(1));
        assert!(Clock::start(Duration::from_secs(9)).part(Duration::from_secs(5)).left() <= Duration::from_secs(5));
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
