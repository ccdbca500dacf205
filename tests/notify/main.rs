//! `sys::notify` against real apps: what is heard of their calls, and what they get. Must not know which bind gets which socket: that is
//! `run`'s to decide.

// The lints of `src` guard PID 1; a test may panic, wait and start threads. What is unsafe here says why, as there.
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
