//! Owns what a program says on its stderr, and the wait until it says nothing more and sleeps. Must not know what it waits for.

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
pub struct Said {
    pipe: File,
    text: String,
}

/// The writing end. It is closed once the program has been started.
pub struct Mouth(File);

impl Mouth {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Said {
    /// A pipe that stops nobody: what it cannot take is lost, and its reader is not made to wait.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pipe() -> Outcome<(Self, Mouth)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).context("pipe")?;
        Ok((Self { pipe: reader.into(), text: String::new() }, Mouth(writer.into())))
    }

    /// Takes what is there; how much, and `None` where nothing is yet.
    fn take(&mut self) -> Option<usize> {
        let mut bytes = [0; 4096];
        let size = self.pipe.read(&mut bytes).ok()?;
        self.text.push_str(&String::from_utf8_lossy(&bytes[..size]));
        Some(size)
    }

    /// Waits until it has said this; what it said until then is forgotten.
    ///
    /// # Errors
    /// It never does.
    pub fn until(&mut self, needle: &str) -> Outcome<()> {
        let deadline = now() + PATIENCE;
        while self.text.is_empty() || !self.text.contains(needle) {
            let timeout = PollTimeout::try_from((deadline - now()).max(0) / 1_000_000).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout).context("poll")? == 0 || self.take() == Some(0) {
                return fail(format_args!("it never said '{needle}', but: {}", self.text.trim().escape_debug()));
            }
        }
        self.text.clear();
        Ok(())
    }

    /// Whether it has said this since, without waiting.
    pub fn has(&mut self, needle: &str) -> bool {
        while self.take().is_some_and(|size| size > 0) {}
        self.text.contains(needle)
    }

    /// Waits until the program has said that it waits, and then sleeps. With `--prewarm` it is the app that waits, in its bind; without,
    /// the first line says it.
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
    fn what_is_said_in_pieces_is_heard() {
        let (mut said, mut mouth) = Said::pipe().unwrap();
        assert!(!said.has("claimed"));
        mouth.0.write_all(b"reberth: clai").unwrap();
        assert!(!said.has("claimed"));
        mouth.0.write_all(b"med\n").unwrap();
        assert!(said.has("claimed"));
        said.until("claimed").unwrap();
        assert!(!said.has("claimed"), "it is forgotten");
        drop(mouth);
        assert_eq!(said.until("more").unwrap_err().to_string(), "it never said 'more', but: ");
    }
}
