//! Owns the app: its command line, its start, and its life until the end. Must not know the policy of ports.

pub mod launch;
pub mod supervisor;
