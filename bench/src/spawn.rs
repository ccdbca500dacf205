//! Owns the programs that are started: how, with which streams, and how they exit. Must not know what they are.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::fs::File;
use std::io::{Read, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fail::{Context, Failure, Outcome};
use crate::sys::{self, End, Usage};

/// What is started. Its file is looked up once, so that a round need not do that.
#[derive(Clone)]
pub struct Command {
    file: CString,
    words: Vec<CString>,
    environment: Rc<[CString]>,
}

impl Command {
    /// # Errors
    /// A NUL in an argument.
    pub fn new(file: &str, words: &[String], environment: &Rc<[CString]>) -> Outcome<Self> {
        let text = |word: &str| CString::new(word).context(format_args!("'{}'", word.escape_debug()));
        let words = words.iter().map(|word| text(word)).collect::<Outcome<_>>()?;
        Ok(Self { file: text(file)?, words, environment: Rc::clone(environment) })
    }

    pub fn words(&self) -> impl Iterator<Item = &OsStr> {
        self.words.iter().map(|word| OsStr::from_bytes(word.as_bytes()))
    }

    pub fn has_word(&self, word: &str) -> bool {
        self.words().any(|known| known == word)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.words.iter().map(|word| word.to_string_lossy()).collect();
        f.write_str(&words.join(" "))
    }
}

/// `/dev/null`, opened once.
pub struct Null(File);

impl Null {
    /// # Errors
    /// A machine without it.
    pub fn open() -> Outcome<Self> {
        File::options().read(true).write(true).open("/dev/null").context("/dev/null").map(Self)
    }

    /// All three streams.
    pub fn streams(&self) -> Streams<'_> {
        let null = self.0.as_fd();
        Streams { input: null, output: null, errors: null }
    }
}

/// A program's stdin, stdout and stderr.
#[derive(Clone, Copy)]
pub struct Streams<'a> {
    pub input: BorrowedFd<'a>,
    pub output: BorrowedFd<'a>,
    pub errors: BorrowedFd<'a>,
}

/// A running program; it is killed on drop, unless it has been waited for.
pub struct Program(Pid);

impl Program {
    /// Starts it immediately, at a cost that does not depend on the size of this process.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn start(command: &Command, streams: &Streams<'_>) -> Outcome<Self> {
        let streams = [streams.input, streams.output, streams.errors];
        let pid = sys::vfork_exec(&command.file, &command.words, &command.environment, streams);
        pid.map(Self).context(command)
    }

    pub fn pid(&self) -> Pid {
        self.0
    }

    /// # Errors
    /// It has exited, and was waited for.
    pub fn signal(&self, signal: Signal) -> Outcome<()> {
        kill(self.0, signal).context("kill")
    }

    /// Waits for its exit.
    ///
    /// # Errors
    /// It was already waited for.
    pub fn wait(self) -> Outcome<(End, Usage)> {
        let ended = sys::wait4(self.0, true).context("wait4")?;
        std::mem::forget(self);
        ended.context("wait4: no report")
    }

    /// Stops it with a TERM.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn end(self) -> Outcome<Usage> {
        self.signal(Signal::SIGTERM)?;
        Ok(self.wait()?.1)
    }

    /// Whether it has exited, without waiting; returns itself if not.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn still_runs(self) -> Outcome<Option<Self>> {
        if sys::wait4(self.0, false).context("wait4")?.is_none() {
            return Ok(Some(self));
        }
        std::mem::forget(self);
        Ok(None)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = sys::wait4(self.0, true);
    }
}

/// What a program writes to its stdout; it must succeed.
///
/// # Errors
/// It did not start, or it failed.
pub fn output(command: &Command) -> Outcome<String> {
    let (mut reader, writer) = pipe().context("pipe")?;
    let null = Null::open()?;
    let program = Program::start(command, &Streams { output: writer.as_fd(), ..null.streams() })?;
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).context(command)?;
    match program.wait()?.0 {
        End::Code(0) => Ok(text),
        other => Err(ended_badly(command, other)),
    }
}

/// The line about a program that should have exited in another way.
pub fn ended_badly(command: &Command, end: End) -> Failure {
    let end = match end {
        End::Code(code) => format!("code {code}"),
        End::Signal(signal) => format!("signal {signal}"),
    };
    Failure::new(format_args!("{command}: it ended with {end}"))
}

/// Pins a process to one CPU; pid 0 is this one. On a machine with a single CPU, nothing is pinned.
pub fn pin(pid: Pid, cpu: usize) {
    let mut set = CpuSet::new();
    let _ = set.set(cpu).and_then(|()| sched_setaffinity(pid, &set));
}
