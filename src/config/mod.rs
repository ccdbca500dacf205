//! Owns how settings are decided: flag > `REBERTH_*` > `PORT` > profile > default, all errors at once. A setting's type and its text form
//! live in the room that acts on it; here they are named, given their default and put together.
//! Pure and total: no syscalls, no clocks, no environment but the one it is handed.

mod after;
mod decide;
mod healthcheck;
pub mod meaning;
mod mode;
mod ports;
mod reader;
mod register;
mod run;

#[cfg(test)]
mod tests;

pub use decide::{Command, Decision, decide};
pub use mode::Mode;
