//! Owns the only kind of error: a line with what could not be done. Must not know what is measured.

use std::fmt;

/// What could not be done, and why: one line.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Failure {
    pub fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

pub type Outcome<T> = Result<T, Failure>;

/// Fails with this line.
pub fn fail<T>(what: impl fmt::Display) -> Outcome<T> {
    Err(Failure::new(what))
}

/// Adds what was being done when something failed.
pub trait Context<T> {
    /// # Errors
    /// The same error, prefixed with `what`.
    fn context(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|why| Failure::new(format_args!("{what}: {why}")))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl fmt::Display) -> Outcome<T> {
        self.ok_or_else(|| Failure::new(what))
    }
}
