//! Owns the list of what reberth can do in one invocation. Must not know how that is decided.

use std::path::PathBuf;

use crate::app::settings::Run;
use crate::check::settings::Check;
use crate::health::settings::Healthcheck;
use crate::who::settings::Who;

/// What reberth does in this invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Run(Box<Run>),
    /// `run --check`: only print what `run` would do.
    Check(Box<Check>),
    /// Hold the ports of `run`'s settings, without an app.
    Keep(Box<Run>),
    Healthcheck(Box<Healthcheck>),
    Who(Who),
    Install(PathBuf),
    /// `--help` and `--version`: text for stdout, exit code 0.
    Print(String),
}
