//! Owns a program that holds a port until it is told to let go, and says when it did. Must not know who waits for it.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;

use nix::sys::signal::Signal;

use crate::clock::now;
use crate::fail::{Context, Outcome};
use crate::spawn::{Command, Null, Program, Streams, pin};

/// How a holder goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Closes,
    IsKilled,
}

pub struct Holder {
    program: Program,
    order: PipeWriter,
    report: PipeReader,
    /// Its socket's.
    pub inode: u32,
}

impl Holder {
    /// Lets the program (`programs/holder.c`) hold its port on CPU 1. The kernel tells of a closed socket from the CPU that closed it: on
    /// the observer's that news would have to wait for the observer.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(command: &Command, null: &Null) -> Outcome<Self> {
        let (input, order) = pipe().context("pipe")?;
        let (mut report, output) = pipe().context("pipe")?;
        let streams = Streams { input: input.as_fd(), output: output.as_fd(), ..null.streams() };
        let program = Program::start(command, &streams)?;
        pin(program.pid(), 1);
        // Ours would keep it from being heard when the holder fails.
        drop(output);
        let inode = number(&mut report).context("no holder")?;
        Ok(Self { program, order, report, inode: u32::try_from(inode).context("an inode")? })
    }

    /// Lets go of the port: when that was asked. When it was done, [`Self::closed`] says.
    ///
    /// # Errors
    /// It has gone.
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
