//! Owns ports: what to claim, how to claim it, and which process holds it. Must not know the app or HTTP.

pub mod advice;
pub mod attempt;
pub mod blocking;
pub mod claim;
pub mod claiming;
pub mod fallback;
pub mod file;
pub mod group;
pub mod held;
pub mod holder;
pub mod peers;
pub mod policy;
pub mod range;
mod schedule;
pub mod spec;
mod wait;
pub mod watch;
