//! Owns the health probe: what is asked, how, and what the phase of `run` allows. Must not know supervision.

pub mod target;

use std::time::Duration;

use crate::config::Healthcheck;
use crate::exit::Code;
use crate::state::PortState;

/// Not there yet.
pub fn run(_settings: &Healthcheck) -> Code {
    Code::NO
}

/// Asks once.
///
/// # Errors
/// Always: not there yet.
pub fn ask_once(_target: &target::Target, _ports: &[PortState], _timeout: Duration) -> Result<(), String> {
    Err("not there yet".to_owned())
}
