//! Owns the one error type: what went wrong in the user's words, and which exit code that is. Must not know where it is caught.

use std::fmt;
use std::io;

use crate::exit::Code;

/// Why a command of reberth could not do its work. `Display` is one or more lines (`lines` gives them one by one), each lower case
/// and complete in itself: what, the value, the accepted form, the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Bad settings, all of them together, one line each. Code 125 (`healthcheck`: 1).
    Settings(Vec<String>),
    /// reberth could not do its own part: bind, write a file, fork. Code 125.
    Cannot(Vec<String>),
    /// The port was not free in time; the diagnosis, line by line. Code 124.
    PortBusy(Vec<String>),
    /// What `--after` names was not healthy in time; a line for each. Code 124.
    NotHealthy(Vec<String>),
    /// COMMAND exists but cannot be executed. Code 126.
    NotExecutable(String),
    /// COMMAND is not found. Code 127.
    NotFound(String),
}

impl Error {
    /// One failure of reberth's own.
    pub fn cannot(line: impl Into<String>) -> Self {
        Self::Cannot(vec![line.into()])
    }

    /// The exit code of this error, as `run`, `who` and `install` report it.
    pub fn code(&self) -> Code {
        match self {
            Self::Settings(_) | Self::Cannot(_) => Code::CANNOT,
            Self::PortBusy(_) | Self::NotHealthy(_) => Code::TIMEOUT,
            Self::NotExecutable(_) => Code::NOT_EXECUTABLE,
            Self::NotFound(_) => Code::NOT_FOUND,
        }
    }

    /// The lines to print, in order.
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Settings(lines) | Self::Cannot(lines) | Self::PortBusy(lines) | Self::NotHealthy(lines) => lines,
            Self::NotExecutable(line) | Self::NotFound(line) => std::slice::from_ref(line),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Error {}

/// The system's words for an error, lower case, without Rust's "(os error 13)".
pub fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
