//! Owns everything that `who` was told. Must not know what becomes of it.

use std::path::PathBuf;

use crate::port::spec::Spec;

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
