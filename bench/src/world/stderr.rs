//! Owns what a program writes to its stderr, and the wait until it is silent and sleeps. Must not know what it waits for.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use crate::clock::{MICROSECOND, SECOND, now, pause};
use crate::fail::{Context, Outcome, fail};
use crate::spawn::Program;
use crate::world::proc;

const PATIENCE: i64 = 20 * SECOND;

/// The reading end of a program's stderr.
pub struct Stderr {
    pipe: File,
    text: String,
}

/// The writing end. It is closed once the program has been started.
pub struct StderrWriter(File);

impl StderrWriter {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Stderr {
    /// A pipe that blocks neither side: what does not fit is lost, and reading does not wait.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pipe() -> Outcome<(Self, StderrWriter)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).context("pipe")?;
        Ok((Self { pipe: reader.into(), text: String::new() }, StderrWriter(writer.into())))
    }

    /// Reads what is there; returns how much, and `None` if there is nothing yet.
    fn take(&mut self) -> Option<usize> {
        let mut bytes = [0; 4096];
        let size = self.pipe.read(&mut bytes).ok()?;
        self.text.push_str(&String::from_utf8_lossy(&bytes[..size]));
        Some(size)
    }

    /// Waits until the program has written this; everything up to there is discarded.
    ///
    /// # Errors
    /// It never does.
    pub fn until(&mut self, needle: &str) -> Outcome<()> {
        let deadline = now() + PATIENCE;
        while self.text.is_empty() || !self.text.contains(needle) {
            let timeout = PollTimeout::try_from((deadline - now()).max(0) / 1_000_000).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout).context("poll")? == 0 || self.take() == Some(0) {
                return fail(format_args!("it never stderr '{needle}', but: {}", self.text.trim().escape_debug()));
            }
        }
        self.text.clear();
        Ok(())
    }

    /// Whether it has written this since, without waiting.
    pub fn has(&mut self, needle: &str) -> bool {
        while self.take().is_some_and(|size| size > 0) {}
        self.text.contains(needle)
    }

    /// Waits until the program has logged that it waits, and then sleeps. With `--prewarm` it is the app that waits, in its bind; otherwise
    /// the first line is enough.
    ///
    /// # Errors
    /// It never does.
    pub fn until_asleep(&mut self, program: &Program, prewarm: bool) -> Outcome<()> {
        self.until(if prewarm { "waits in its bind" } else { "" })?;
        let deadline = now() + PATIENCE;
        let mut before = None;
        while now() < deadline {
            if proc::sleeps(program.pid()) {
                let count = Some(proc::wakeups(program.pid()));
                if count == before {
                    return Ok(());
                }
                before = count;
            }
            pause(300 * MICROSECOND);
        }
        fail("it never slept")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn text_in_pieces_is_found() {
        let (mut stderr, mut writer) = Stderr::pipe().unwrap();
        assert!(!stderr.has("claimed"));
        writer.0.write_all(b"reberth: clai").unwrap();
        assert!(!stderr.has("claimed"));
        writer.0.write_all(b"med\n").unwrap();
        assert!(stderr.has("claimed"));
        stderr.until("claimed").unwrap();
        assert!(!stderr.has("claimed"), "it is forgotten");
        drop(writer);
        assert_eq!(stderr.until("more").unwrap_err().to_string(), "it never stderr 'more', but: ");
    }
}
