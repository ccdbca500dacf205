//! Owns what must hold for every input of a parser, whoever wrote it: each function feeds arbitrary bytes to code that parses untrusted
//! input, and checks its promises. Compiled for fuzzers (`fuzz/`, `--cfg fuzzing`) and for tests, which run the same checks over the seeds
//! and over pseudorandom mutations of them. No other code may use it.
#![allow(clippy::expect_used, reason = "a check that fails is meant to panic")]

mod kernel;
mod machine;
mod text;
mod wire;

pub use kernel::{address, head, netlink, proc_files};
pub use machine::supervisor;
pub use text::{arguments, settings, templates, values};
pub use wire::{database, fcgi, grpc, http, share, state, url};

/// A check over arbitrary bytes.
pub type Check = fn(&[u8]);

/// Every check, under the name of its fuzz target and of its folder of seeds.
pub const CHECKS: [(&str, Check); 16] = [
    ("arguments", arguments),
    ("settings", settings),
    ("values", values),
    ("templates", templates),
    ("state", state),
    ("netlink", netlink),
    ("address", address),
    ("share", share),
    ("proc", proc_files),
    ("head", head),
    ("http", http),
    ("url", url),
    ("grpc", grpc),
    ("database", database),
    ("fcgi", fcgi),
    ("supervisor", supervisor),
];

/// Whether a message for the user is a single line and not empty.
fn is_one_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests;
