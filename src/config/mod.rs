//! Owns the typed settings, and how they are decided: flag > `REBERTH_*` > `PORT` > profile > default, all errors at once.
//! Pure and total: no syscalls, no clocks, no environment but the one it is handed.

mod after;
mod decide;
mod healthcheck;
mod http;
pub mod meaning;
mod reader;
mod register;
mod run;
pub mod signal;
mod source;
pub mod table;
pub mod value;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::health::target::Target;
use crate::port::spec::Spec;
use crate::register::place::Register;

pub use decide::{Command, Decision, decide};
pub use source::{Source, Sources};

/// How long a busy port is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// One budget for all ports; zero means one try and no wait.
    For(Duration),
    Forever,
}

/// What happens when the wait is over and the port is still busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Give up with a diagnosis.
    None,
    /// The next free one of this many ports above the one asked for, 1 to 65535.
    Next(u16),
    /// Any free port, chosen by the kernel.
    Any,
}

/// How the app comes to its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// It binds by itself, and reberth lets the port go at the last moment.
    Off,
    /// It is given the listening socket as a descriptor.
    Listen,
    /// It is given the listening socket in its own bind(2).
    Bind,
}

/// Whose instances share the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// `[a-z][a-z0-9-]{0,30}`
    pub name: String,
    /// Its content proves that somebody belongs to them.
    pub secret_file: Option<PathBuf>,
}

/// Pauses between tries: doubling from `min` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub min: Duration,
    pub max: Duration,
}

/// Whom a forwarded signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalScope {
    /// The app alone.
    Child,
    /// The app's whole process group.
    Group,
}

/// Rewritten signals. A signal that is not in the list is forwarded as it is; `None` drops it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignalMap(pub Vec<(i32, Option<i32>)>);

impl SignalMap {
    /// What the app gets when reberth receives `signal`: a signal number, or `None` when it is dropped.
    pub fn apply(&self, signal: i32) -> Option<i32> {
        self.0.iter().find(|(from, _)| *from == signal).map_or(Some(signal), |(_, to)| *to)
    }
}

/// Rewritten exit codes of the app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitMap(pub Vec<(u8, u8)>);

impl ExitMap {
    /// The code reberth exits with when the app's own code is `code`.
    pub fn apply(&self, code: u8) -> u8 {
        self.0.iter().find(|(from, _)| *from == code).map_or(code, |(_, to)| *to)
    }
}

/// When an app counts as unhealthy, and is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitOnUnhealthy {
    /// How often liveness is asked. More than zero.
    pub every: Duration,
    /// So many failures in a row. At least 1.
    pub failures: u32,
}

/// Everything `run` was told. Nothing behind it picks a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// In the order asked; the first is the primary.
    pub ports: Vec<Spec>,
    pub wait: Wait,
    pub fallback: Fallback,
    pub backoff: Backoff,
    /// `auto` already decided.
    pub handover: Handover,
    /// The app is launched while its port is still busy; then `handover` is [`Handover::Bind`].
    pub prewarm: bool,
    pub share: Option<Share>,
    pub relaunch: u32,
    pub port_file: Option<PathBuf>,
    pub exec: bool,
    pub signal_scope: SignalScope,
    pub signal_map: SignalMap,
    pub exit_map: ExitMap,
    /// Zero: the signal is forwarded at once.
    pub drain: Duration,
    /// Zero: never KILL.
    pub grace: Duration,
    /// Signal number reberth gets when its parent dies.
    pub parent_death_signal: Option<i32>,
    /// What readiness asks. `None`: not set, so `run` calls the app ready as soon as it listens, and `healthcheck` asks `/`.
    pub health: Option<Target>,
    /// How `run` itself asks that, and whatever else it asks: as a HEALTHCHECK without arguments would in the same environment. `None`: it asks
    /// nothing.
    pub question: Option<Box<Healthcheck>>,
    /// What liveness asks; `None`: the same as readiness.
    pub liveness: Option<Target>,
    pub start_timeout: Option<Duration>,
    /// What has to be healthy before the ports are claimed; may be empty.
    pub after: Vec<Target>,
    /// The budget for all of it.
    pub after_wait: Wait,
    pub exit_on_unhealthy: Option<ExitOnUnhealthy>,
    /// Where the app is announced while it is ready.
    pub register: Option<Box<Register>>,
    /// `None`: the first default directory that works.
    pub state_dir: Option<PathBuf>,
    /// COMMAND and its arguments as typed, templates not yet replaced. Never empty.
    pub command: Vec<OsString>,
    /// Where all of this came from.
    pub sources: Sources,
}

/// The log's verbosity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The log's line format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Where and how `run` logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub level: Level,
    pub format: Format,
    pub file: Option<PathBuf>,
    /// Colour is welcome: `NO_COLOR` is not set. Only a terminal gets it.
    pub color: bool,
    /// The terminal, if it is one, can draw over a line.
    pub live: bool,
}

/// What `healthcheck` was told, before the state file is consulted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    pub probe: Probe,
    /// The positional TARGET, if one was typed.
    pub target: Option<Target>,
    /// `--health` of the environment: what decides where no state is believed.
    pub health: Option<Target>,
    /// `--liveness` of the environment, likewise.
    pub liveness: Option<Target>,
    /// The ports of the environment (`REBERTH_PORT`, else `PORT`), likewise.
    pub ports: Vec<Spec>,
    /// A fallback of the environment may have taken `run` to another port than these.
    pub port_may_move: bool,
    /// What is wrong with `health`, `liveness` and `ports`, a line each. To be told as settings errors only when these are needed, which
    /// is when no state is believed: `run`'s flags may have beaten the bad value.
    pub unreadable: Vec<String>,
    pub timeout: Duration,
    /// Zero: one try.
    pub wait: Duration,
    pub interval: Duration,
    /// Accepted status codes, inclusive ranges.
    pub status: Vec<(u16, u16)>,
    /// True when `--status` was given (a 3xx it names is then not followed).
    pub status_explicit: bool,
    /// In the order given; the same name may occur more than once.
    pub headers: Vec<(String, String)>,
    pub method: String,
    pub body_contains: Option<String>,
    pub ca: Option<PathBuf>,
    /// The client certificate and its key; both or neither.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub insecure: bool,
    pub user_agent: String,
    pub quiet: bool,
    pub state_dir: Option<PathBuf>,
}

/// Which of kubelet's three questions is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Readiness,
    Liveness,
    Startup,
}

/// What `who` was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Empty: list every listener.
    pub ports: Vec<Spec>,
    /// A line at each change; then `ports` is not empty.
    pub watch: bool,
    pub json: bool,
    pub state_dir: Option<PathBuf>,
}

/// What `run --check` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The settings, or all that is wrong with them.
    pub run: Result<Run, Vec<String>>,
    pub profile: &'static str,
    pub log: Log,
    pub warnings: Vec<String>,
    pub json: bool,
}

/// What one invocation of reberth is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Run(Box<Run>),
    /// Only tell what that would be.
    Check(Box<Check>),
    /// The ports of `run`'s settings, without an app.
    Keep(Box<Run>),
    Healthcheck(Box<Healthcheck>),
    Who(Who),
    Install(PathBuf),
    /// `--help`, `--version`: text for stdout, code 0.
    Print(String),
}
