//! Owns the error type: what went wrong, in words for the user, and the exit code for it. Must not know where it is caught.

use std::fmt;
use std::io;

use crate::exit::Code;

/// Why a command failed. `Display` prints one or more lines (`lines` returns them one by one), each of them lower case and complete:
/// what, the value, the accepted form, the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// All bad settings together, one per line. Code 125 (`healthcheck`: 1).
    Settings(Vec<String>),
    /// reberth itself failed: to bind, to write a file, to fork. Code 125.
    Cannot(Vec<String>),
    /// The port was not free in time. The diagnosis, line by line. Code 124.
    PortBusy(Vec<String>),
    /// Targets of `--after` were not healthy in time, one per line. Code 124.
    NotHealthy(Vec<String>),
    /// COMMAND exists but cannot be executed. Code 126.
    NotExecutable(String),
    /// COMMAND is not found. Code 127.
    NotFound(String),
}

impl Error {
    /// A failure of reberth itself, in one line.
    pub fn cannot(line: impl Into<String>) -> Self {
        Self::Cannot(vec![line.into()])
    }

    /// The exit code of this error for `run`, `who` and `install`.
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

/// The system's text for an error, in lower case, without Rust's "(os error 13)".
pub fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
