//! Owns the settings of `who`. Must not know what they do.

use std::path::PathBuf;

use crate::port::spec::Spec;

/// The settings of `who`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Empty: list all listeners.
    pub ports: Vec<Spec>,
    /// Print a line at each change. `ports` is not empty then.
    pub watch: bool,
    pub json: bool,
    pub state_dir: Option<PathBuf>,
}
