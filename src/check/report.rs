//! Owns the report of `run --check`; its field names are the JSON keys. Must not know how it is made or printed.

use serde::Serialize;

use crate::who::report::Port;

#[derive(Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// The exit code that a run would have now. 0: it would launch the app.
    pub code: u8,
    /// What a run would do, in one line.
    pub outcome: String,
    pub settings: Vec<Setting>,
    pub ports: Vec<Port>,
    pub health: Vec<ProbeLine>,
    pub command: Vec<String>,
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Setting {
    pub setting: &'static str,
    pub value: String,
    /// `flag`, `variable`, `profile` or `default`.
    pub source: &'static str,
    /// What to change for another value.
    pub place: String,
}

/// A probe, and what it checks.
#[derive(Debug, Serialize)]
pub struct ProbeLine {
    pub probe: &'static str,
    pub asks: String,
}

impl Report {
    pub fn new() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            code: 0,
            outcome: String::new(),
            settings: Vec::new(),
            ports: Vec::new(),
            health: Vec::new(),
            command: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }
}
