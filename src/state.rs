//! Owns the state file: what `run` publishes about itself, and the words it is written in. `believe` is its reader.
//! Must not know policy: which phase comes when is the init's affair, what a phase means for a probe is `health::phase`'s.
//!
//! A HEALTHCHECK and an exec probe see the container's configured environment, never what PID 1 exported, so the port really
//! taken can only travel by a file. Its name holds the writer's mount namespace, because the containers of a pod share `/dev/shm`,
//! and its pid, because a developer's machine runs several.

mod believe;
mod document;
mod identity;
mod publish;
mod pulse;

#[cfg(test)]
mod tests;

pub use believe::{Found, believe};
pub use document::{DEFAULT_DIRS, MAX_PLACES, Phase, PortState, State};
pub use publish::Publisher;
#[cfg(any(test, fuzzing))]
pub(crate) use {document::parse, identity::parse_stat};
