//! reberth: the program that starts in a container before the app does. Owns the list of rooms; ARCHITECTURE.md is the map.
//! A library only so that fuzzers, benchmarks and tests reach the pure parts; it promises no stable API.

pub mod config;
pub mod error;
pub mod exit;
pub mod health;
pub mod port;
pub mod sys;
pub mod who;
