//! Owns everything that `run` and `keep` were told. Must not know what a setting is called, its default, or where its text came from.

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
    pub stop: StopPolicy,
    /// Signal number reberth gets when its parent dies.
    pub parent_death_signal: Option<i32>,
    /// What readiness asks. `None`: not set, so `run` calls the app ready as soon as it listens, and `healthcheck` asks `/`.
    pub health: Option<Target>,
    /// How `run` itself asks that, and whatever else it asks: as a HEALTHCHECK without arguments would in the same environment. `None`: it
    /// asks nothing.
    pub terms: Option<Box<Terms>>,
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

/// The text form of `--start-timeout`. `off` and `0` switch it off, so that a flag can beat a variable.
pub fn start_timeout(text: &str) -> Result<Option<Duration>, String> {
    if is(text, "off") {
        return Ok(None);
    }
    duration(text).map(|time| Some(time).filter(|time| !time.is_zero())).map_err(|reason| format!("{reason}; or off"))
}
