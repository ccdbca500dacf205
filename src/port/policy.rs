//! Owns the settings for a busy port: how long to wait for it, how often to retry, and what to take instead. Must not
//! know the defaults, or how a port is claimed.

use std::time::Duration;

use crate::setting::value::{duration, is, number, positive};

/// How long to wait for a busy port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// One time limit for all ports together; zero means one try and no wait.
    For(Duration),
    Forever,
}

/// What to do if the port is still busy after the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Give up with a diagnosis.
    None,
    /// The next free one of this many ports above the configured one, 1 to 65535.
    Next(u16),
    /// Any free port, chosen by the kernel.
    Any,
}

/// Delays between tries: doubling from `min` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub min: Duration,
    pub max: Duration,
}

/// The text form of `--wait` and `--after-wait`.
pub fn wait(text: &str) -> Result<Wait, String> {
    if is(text, "forever") {
        return Ok(Wait::Forever);
    }
    duration(text).map(Wait::For).map_err(|reason| format!("{reason}; or forever"))
}

/// The text form of `--fallback`.
pub fn fallback(text: &str) -> Result<Fallback, String> {
    let form = "must be none, next, next:N with N from 1 to 65535, or any";
    match text.to_ascii_lowercase().as_str() {
        "none" => Ok(Fallback::None),
        "any" => Ok(Fallback::Any),
        "next" => Ok(Fallback::Next(100)),
        other => other
            .strip_prefix("next:")
            .and_then(|count| number(count, 1, 65535).ok())
            .and_then(|count| u16::try_from(count).ok())
            .map(Fallback::Next)
            .ok_or_else(|| form.into()),
    }
}

/// The text form of `--backoff`.
pub fn backoff(text: &str) -> Result<Backoff, String> {
    let form = "must be MIN..MAX such as 10ms..1s, MIN more than zero and not more than MAX";
    let (min, max) = text.split_once("..").ok_or(form)?;
    let (min, max) =
        positive(min).and_then(|min| Ok((min, positive(max)?))).map_err(|reason| format!("{form}: {reason}"))?;
    if min <= max { Ok(Backoff { min, max }) } else { Err(form.into()) }
}
