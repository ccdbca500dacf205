//! `sys::notify` against real apps: what is learned of their calls, and what they get. Must not know which bind gets which socket: `run`
//! decides that.

// The lints of `src` protect PID 1; a test may panic, wait and start threads. `unsafe` code states its reason here too.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod app;
mod fixture;
#[path = "../harness/mod.rs"]
mod harness;
mod supervisor;

mod calls;
mod given;
mod install;
mod interrupted;
mod programs;
