//! Owns a process that tries to get a port periodically, and reports when it got it. Must not know which process holds it meanwhile.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

use nix::sys::prctl::set_timerslack;

use crate::clock::{now, pause};
use crate::fail::{Context, Outcome};
use crate::isolate::Companion;
use crate::world::sockets::listen_on;

pub struct Poller {
    companion: Companion,
    order: PipeWriter,
    report: PipeReader,
}

impl Poller {
    /// Does not poll yet: it is created before the holder of the port, because a forked process has copies of all sockets of its parent.
    ///
    /// # Errors
    /// No process could be created.
    pub fn start(port: u16, period: i64, delay: i64) -> Outcome<Self> {
        let (mut ordered, order) = pipe().context("pipe")?;
        let (report, mut reporter) = pipe().context("pipe")?;
        let companion = Companion::start(|| {
            ordered.read_exact(&mut [0]).context("a poller")?;
            set_timerslack(1).context("prctl")?;
            pause(delay);
            let _listener = loop {
                match listen_on(port, 1) {
                    Ok(listener) => break listener,
                    Err(_) => pause(period),
                }
            };
            reporter.write_all(&now().to_ne_bytes()).context("a poller")
        })?;
        Ok(Self { companion, order, report })
    }

    /// # Errors
    /// It has exited.
    pub fn go(&mut self) -> Outcome<()> {
        self.order.write_all(&[0]).context("a poller has gone")
    }

    /// When it got the port.
    ///
    /// # Errors
    /// It has exited.
    pub fn taken(mut self) -> Outcome<i64> {
        let mut bytes = [0; 8];
        self.report.read_exact(&mut bytes).context("a poller has gone")?;
        self.companion.wait();
        Ok(i64::from_ne_bytes(bytes))
    }
}
