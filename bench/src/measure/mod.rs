//! Owns the list of questions, and of the apps they need: one file each, with its measurement, its table and its promises. Must not know
//! how anything is measured.

mod after;
mod calls;
mod clients;
mod freed;
mod growth;
mod healthcheck;
mod idle;
mod kept;
mod orphans;
mod restarts;
mod servers;
mod signals;
mod sizes;
mod start;
mod who;

use clap::{Subcommand, ValueEnum};
use nix::unistd::pause;

use crate::bench::Bench;
use crate::fail::Outcome;
use crate::report::Report;

/// The questions, in the order of the page.
#[derive(Clone, Copy, ValueEnum)]
pub enum Step {
    Start,
    Freed,
    Healthcheck,
    Idle,
    Signals,
    Orphans,
    Growth,
    Who,
    Clients,
    Restarts,
    Kept,
    Calls,
    After,
    Sizes,
}

impl Step {
    /// # Errors
    /// It cannot be measured here.
    pub fn measure(self, bench: &Bench, report: &mut Report) -> Outcome<()> {
        let measure = match self {
            Self::Start => start::measure,
            Self::Freed => freed::measure,
            Self::Healthcheck => healthcheck::measure,
            Self::Idle => idle::measure,
            Self::Signals => signals::measure,
            Self::Orphans => orphans::measure,
            Self::Growth => growth::measure,
            Self::Who => who::measure,
            Self::Clients => clients::measure,
            Self::Restarts => restarts::measure,
            Self::Kept => kept::measure,
            Self::Calls => calls::measure,
            Self::After => after::measure,
            Self::Sizes => sizes::measure,
        };
        measure(bench, report)
    }
}

/// The apps whose size and start are not part of what is measured; the others are C (../programs).
#[derive(Subcommand)]
pub enum App {
    /// Does nothing, endlessly
    Pause,
    /// Reports each USR1 that it receives
    Signal,
    /// Times its own system calls
    Calls { count: usize, port: u16 },
    /// Executes a command under a filter that allows everything
    Profiled {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Holds a port and passes it to a command as descriptor 3
    Parent {
        port: u16,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

impl App {
    /// # Errors
    /// The app cannot do its task.
    pub fn run(self) -> Outcome<()> {
        match self {
            Self::Pause => loop {
                pause();
            },
            Self::Signal => signals::app(),
            Self::Calls { count, port } => calls::app(count, port),
            Self::Profiled { command } => calls::profiled(&command),
            Self::Parent { port, command } => clients::parent(port, &command),
        }
    }
}
