//! Owns the app: its command line and environment, its launch and its life. Must not know the ports' policy.

pub mod command;
pub mod launch;
pub mod supervisor;
