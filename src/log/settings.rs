//! Owns the settings of the log. Must not know how a line is written.

use std::path::PathBuf;

use crate::setting::value::word;

/// The log's verbosity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The log's line format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Where and how `run` logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub level: Level,
    pub format: Format,
    pub file: Option<PathBuf>,
    /// Colour is allowed: `NO_COLOR` is not set. Only a terminal gets it.
    pub color: bool,
    /// If stderr is a terminal, it can redraw a line.
    pub live: bool,
}

/// The text form of `--log`.
pub fn level(text: &str) -> Result<Level, String> {
    let words = [
        ("off", Level::Off),
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];
    word(text, &words)
}

/// The text form of `--log-format`.
pub fn format(text: &str) -> Result<Format, String> {
    word(text, &[("text", Format::Text), ("json", Format::Json)])
}
