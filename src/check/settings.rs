//! Owns the settings of `run --check`. Must not know what it does with them.

use crate::app::settings::Run;
use crate::log::settings::Log;

/// The settings of `run --check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The settings of `run`, or all errors in them.
    pub run: Result<Run, Vec<String>>,
    pub profile: &'static str,
    pub log: Log,
    pub warnings: Vec<String>,
    pub json: bool,
}
