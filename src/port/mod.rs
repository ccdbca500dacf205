//! Owns ports: what to claim, how to claim it, and who holds it. Must not know the app or HTTP.

pub mod file;
pub mod spec;
