//! Owns the app: its command line, its start, and its life until the end. Must not know the policy of ports.

pub mod activation;
pub mod after;
pub mod berth;
pub mod early_signals;
pub mod environment;
pub mod exit_map;
pub mod handover;
pub mod init;
pub mod invocation;
pub mod keep;
pub mod launch;
pub mod liveness;
pub mod prewarm;
pub mod prober;
pub mod race;
pub mod readiness;
pub mod run;
pub mod settings;
pub mod sharing;
pub mod sight;
pub mod signal;
pub mod supervisor;
pub mod takeup;
pub mod templates;
pub mod told;
pub mod tree;
