//! Owns the state file: what `run` publishes about itself, its format, and its reader. Must not know policy:
//! `app::init` decides the phase, `health::phase` what a phase means for a probe.
//!
//! A HEALTHCHECK and an exec probe get the container's configured environment, never what PID 1 exported, so they can
//! only learn the actual port from a file. Its name contains the writer's mount namespace, because the containers of a
//! pod share `/dev/shm`, and its pid, because a developer's machine runs several instances.

mod document;
mod identity;
mod lock;
mod publish;
mod reader;

#[cfg(test)]
mod tests;

pub use document::{DEFAULT_DIRS, MAX_PLACES, Phase, PortState, State};
pub use publish::Publisher;
pub use reader::{Found, believe};
#[cfg(any(test, fuzzing))]
pub(crate) use {document::parse, identity::parse_stat};
