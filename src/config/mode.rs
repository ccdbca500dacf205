//! Owns the list of what one invocation can be told to do. Must not know how that was decided.

use std::path::PathBuf;

use crate::app::settings::Run;
use crate::check::Check;
use crate::health::settings::Healthcheck;
use crate::who::settings::Who;

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
