//! Owns everything that `healthcheck` was told. Must not know what a setting is called, its default, or where its text came from.

use std::path::PathBuf;
use std::time::Duration;

use super::phase::Probe;
use super::target::Target;
use super::terms::Terms;
use crate::port::spec::Spec;

/// What `healthcheck` was told, before the state file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    pub subject: Subject,
    pub terms: Terms,
    /// Zero: one try.
    pub wait: Duration,
    pub interval: Duration,
    pub quiet: bool,
    pub state_dir: Option<PathBuf>,
}

/// Which probe it is, and what decides where it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    pub probe: Probe,
    /// The positional TARGET, if one was typed.
    pub target: Option<Target>,
    /// `--health` of the environment: it decides where no state file is believed.
    pub health: Option<Target>,
    /// `--liveness` of the environment, likewise.
    pub liveness: Option<Target>,
    /// The ports of the environment (`REBERTH_PORT`, else `PORT`), likewise.
    pub ports: Vec<Spec>,
    /// A fallback of the environment may have taken `run` to another port than these.
    pub port_may_move: bool,
    /// What is wrong with `health`, `liveness` and `ports`, a line each. Reported as settings errors only when these are needed, that is
    /// when no state file is believed: `run`'s flags may have beaten the bad value.
    pub unreadable: Vec<String>,
}
