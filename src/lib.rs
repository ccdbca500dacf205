//! reberth: the container entrypoint that claims a port before the app starts. Owns the list of rooms; ARCHITECTURE.md is the map.
//! A library only so that fuzzers and tests reach the pure parts. The API is not stable.

pub mod app;
mod atomic;
pub mod check;
pub mod cli;
pub mod config;
pub mod env;
pub mod error;
pub mod exit;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod install;
pub mod log;
pub mod port;
pub mod register;
pub mod setting;
pub mod share;
pub mod state;
pub mod sys;
pub mod who;
