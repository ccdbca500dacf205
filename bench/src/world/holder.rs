//! Owns a process that holds a port until it is told to let go, and says when it did. Must not know who waits for it.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::{Pid, pause};

use crate::clock::now;
use crate::fail::{Context, Outcome};
use crate::isolate::Companion;
use crate::spawn::pin;
use crate::world::sockets::listen_on;

/// How a holder goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Closes,
    IsKilled,
}

pub struct Holder {
    companion: Companion,
    order: PipeWriter,
    report: PipeReader,
    /// Its socket's.
    pub inode: u32,
}

impl Holder {
    /// Holds the port on CPU 1. The kernel tells of a closed socket from the CPU that closed it: on the observer's that news would have to
    /// wait for the observer.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(port: u16) -> Outcome<Self> {
        let (mut ordered, order) = pipe().context("pipe")?;
        let (mut report, mut reporter) = pipe().context("pipe")?;
        let companion = Companion::start(|| {
            pin(Pid::from_raw(0), 1);
            let listener = listen_on(port, 1).context("no holder")?;
            let inode = fstat(&listener).context("fstat")?.st_ino;
            reporter.write_all(&u32::try_from(inode).unwrap_or_default().to_ne_bytes()).context("no holder")?;
            if ordered.read(&mut [0]).is_ok_and(|size| size == 1) {
                let closing = now();
                drop(listener);
                reporter.write_all(&closing.to_ne_bytes()).context("no holder")?;
            }
            loop {
                pause();
            }
        })?;
        let mut inode = [0; 4];
        // Ours would keep it from being heard when the holder fails.
        drop(reporter);
        report.read_exact(&mut inode).context("no holder")?;
        Ok(Self { companion, order, report, inode: u32::from_ne_bytes(inode) })
    }

    /// Lets go of the port; when, [`Self::went`] says.
    ///
    /// # Errors
    /// It has gone.
    pub fn go(&mut self, way: Way) -> Outcome<i64> {
        let told = now();
        match way {
            Way::Closes => self.order.write_all(&[0]).context("the holder has gone")?,
            Way::IsKilled => kill(self.companion.pid(), Signal::SIGKILL).context("the holder has gone")?,
        }
        Ok(told)
    }

    /// When it closed its socket.
    ///
    /// # Errors
    /// It never did.
    pub fn closed(&mut self) -> Outcome<i64> {
        let mut bytes = [0; 8];
        self.report.read_exact(&mut bytes).context("the holder has gone")?;
        Ok(i64::from_ne_bytes(bytes))
    }
}
