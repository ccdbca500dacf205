//! Owns the exit codes (docs/settings.md lists them). Must not know why one is chosen: `error.rs` and the commands do.

/// An exit code of `reberth`, 0 to 255, as the shell and the container engine see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u8);

impl Code {
    /// Success. `healthcheck`: healthy; `who`: every port is free.
    pub const OK: Self = Self(0);
    /// `healthcheck`: unhealthy, for whatever reason (Docker reserves 2); `who`: a port is held.
    pub const NO: Self = Self(1);
    /// The port was not free in time, or the app was not ready in time (`timeout(1)` uses the same code).
    pub const TIMEOUT: Self = Self(124);
    /// reberth itself failed: bad settings, no permission to bind, a file that cannot be written.
    pub const CANNOT: Self = Self(125);
    /// COMMAND exists but cannot be executed (POSIX sh).
    pub const NOT_EXECUTABLE: Self = Self(126);
    /// COMMAND is not found (POSIX sh).
    pub const NOT_FOUND: Self = Self(127);

    /// The shell's code for "killed by signal `signal`": 128 + n.
    pub fn signalled(signal: i32) -> Self {
        Self(u8::try_from(signal).map_or(255, |n| 128u8.saturating_add(n)))
    }
}

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.0)
    }
}
