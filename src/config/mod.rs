//! Owns how settings are decided: flag > `REBERTH_*` > `PORT` > profile > default, all errors at once. The room that acts on a setting owns
//! its type and text form; this room knows its name and default and puts all of them together.
//! Pure and total: no syscalls, no clocks, no environment except the one passed in.

mod after;
mod decide;
mod healthcheck;
mod mode;
mod ports;
mod reader;
mod register;
mod run;

#[cfg(test)]
mod tests;

pub use decide::{Command, Decision, decide};
pub use mode::Mode;
