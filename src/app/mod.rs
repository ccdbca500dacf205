//! Owns the app: its command line, its start, and its life until the end. Must not know the policy of ports.

pub mod arrival;
pub mod command;
pub mod contest;
pub mod init;
pub mod inquiry;
pub mod launch;
pub mod run;
pub mod supervisor;
pub mod takeup;
pub mod tree;
