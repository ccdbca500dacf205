//! Owns the settings of `healthcheck`. Must not know what a setting is called, its default, or where its text came from.

use std::path::PathBuf;
use std::time::Duration;

use super::phase::Probe;
use super::target::Target;
use super::terms::Terms;
use crate::port::spec::Spec;

/// The settings of `healthcheck`, before the state file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    pub subject: Subject,
    pub terms: Terms,
    /// Zero: one attempt.
    pub wait: Duration,
    pub interval: Duration,
    pub quiet: bool,
    pub state_dir: Option<PathBuf>,
}

/// Which probe to run, and what its target is chosen from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    pub probe: Probe,
    /// The positional TARGET, if there is one.
    pub target: Option<Target>,
    /// `--health` from the environment: used if no state file is trusted.
    pub health: Option<Target>,
    /// `--liveness` from the environment: used in the same case.
    pub liveness: Option<Target>,
    /// The ports from the environment (`REBERTH_PORT`, else `PORT`): used in the same case.
    pub ports: Vec<Spec>,
    /// The environment sets a fallback, so `run` may be on another port than these.
    pub port_may_move: bool,
    /// What is wrong with `health`, `liveness` and `ports`, one per line. An error only if these are used, that is without a trusted state
    /// file: a flag of `run` may have overridden the bad value.
    pub deferred_errors: Vec<String>,
}
