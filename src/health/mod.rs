//! Owns the health probe: what is asked, how, and what the phase of `run` allows. Must not know supervision.

pub mod target;
