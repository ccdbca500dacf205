//! Owns the settings of `run` and `keep`. Must not know what a setting is called, its default, or where its text came from.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::handover::Handover;
use super::liveness::ExitOnUnhealthy;
use super::signal::SignalScope;
use super::supervisor::StopPolicy;
use crate::health::target::Target;
use crate::health::terms::Terms;
use crate::port::policy::{Backoff, Fallback, Wait};
use crate::port::spec::Spec;
use crate::register::place::Register;
use crate::setting::Sources;
use crate::setting::value::{duration, is};
use crate::share::Share;

/// All settings of `run`, decided. Nothing behind this picks a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// In the order given; the first is the primary port.
    pub ports: Vec<Spec>,
    pub wait: Wait,
    pub fallback: Fallback,
    pub backoff: Backoff,
    /// `auto` is already resolved.
    pub handover: Handover,
    /// The app is launched while its port is still busy; then `handover` is [`Handover::Bind`].
    pub prewarm: bool,
    pub share: Option<Share>,
    pub relaunch: u32,
    pub port_file: Option<PathBuf>,
    pub exec: bool,
    pub signal_scope: SignalScope,
    pub stop: StopPolicy,
    /// The signal that reberth gets when its parent dies.
    pub parent_death_signal: Option<i32>,
    /// What readiness checks. `None`: not set, so `run` calls the app ready as soon as it listens, and `healthcheck` queries `/`.
    pub health: Option<Target>,
    /// How `run` queries its targets: the way a HEALTHCHECK without arguments does in the same environment. `None`: it queries none.
    pub terms: Option<Box<Terms>>,
    /// What liveness checks; `None`: the same as readiness.
    pub liveness: Option<Target>,
    pub start_timeout: Option<Duration>,
    /// The targets that must be healthy before the ports are claimed; may be empty.
    pub after: Vec<Target>,
    /// The time limit for all of `after` together.
    pub after_wait: Wait,
    pub exit_on_unhealthy: Option<ExitOnUnhealthy>,
    /// Where the app is registered while it is ready.
    pub register: Option<Box<Register>>,
    /// `None`: the first default directory that works.
    pub state_dir: Option<PathBuf>,
    /// COMMAND and its arguments as typed, templates not yet expanded. Never empty.
    pub command: Vec<OsString>,
    /// Where each setting came from.
    pub sources: Sources,
}

/// The text form of `--start-timeout`. `off` and `0` disable it, so that a flag can override a variable.
pub fn start_timeout(text: &str) -> Result<Option<Duration>, String> {
    if is(text, "off") {
        return Ok(None);
    }
    duration(text).map(|time| Some(time).filter(|time| !time.is_zero())).map_err(|reason| format!("{reason}; or off"))
}
