//! Owns ports: what to claim, how to claim it, and who holds it. Must not know the app or HTTP.

pub mod advice;
pub mod attempt;
pub mod claim;
pub mod claiming;
pub mod company;
pub mod drive;
pub mod fallback;
pub mod file;
pub mod group;
pub mod held;
pub mod holder;
pub mod policy;
pub mod range;
mod rhythm;
pub mod spec;
mod wait;
pub mod watch;
