//! Owns a program that holds a port until it is told to release it, and reports when it did. Must not know which program waits for it.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;

use nix::sys::signal::Signal;

use crate::clock::now;
use crate::fail::{Context, Outcome};
use crate::spawn::{Command, Null, Program, Streams, pin};

/// How a holder releases the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Closes,
    IsKilled,
}

pub struct Holder {
    program: Program,
    order: PipeWriter,
    report: PipeReader,
    /// The inode of its socket.
    pub inode: u32,
}

impl Holder {
    /// Starts the program (`programs/holder.c`), which holds its port on CPU 1. The kernel reports a closed socket on the CPU that closed it:
    /// on the CPU of the observer, the event would have to wait for the observer.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(command: &Command, null: &Null) -> Outcome<Self> {
        let (input, order) = pipe().context("pipe")?;
        let (mut report, output) = pipe().context("pipe")?;
        let streams = Streams { input: input.as_fd(), output: output.as_fd(), ..null.streams() };
        let program = Program::start(command, &streams)?;
        pin(program.pid(), 1);
        // With our copy open, the end of a failed holder would not be seen.
        drop(output);
        let inode = number(&mut report).context("no holder")?;
        Ok(Self { program, order, report, inode: u32::try_from(inode).context("an inode")? })
    }

    /// Makes it release the port. Returns when that was asked; [`Self::closed`] returns when it was done.
    ///
    /// # Errors
    /// It has exited.
    pub fn go(&mut self, way: Way) -> Outcome<i64> {
        let told = now();
        match way {
            Way::Closes => self.order.write_all(&[0]).context("the holder has gone")?,
            Way::IsKilled => self.program.signal(Signal::SIGKILL)?,
        }
        Ok(told)
    }

    /// When it closed its socket.
    ///
    /// # Errors
    /// It never did.
    pub fn closed(&mut self) -> Outcome<i64> {
        number(&mut self.report).context("the holder has gone")
    }
}

fn number(report: &mut PipeReader) -> std::io::Result<i64> {
    let mut bytes = [0; 8];
    report.read_exact(&mut bytes)?;
    Ok(i64::from_ne_bytes(bytes))
}
