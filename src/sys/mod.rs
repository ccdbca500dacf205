//! Owns every system call, and with them the only `unsafe` code of the crate. Must not know policy: a function here
//! makes a call and returns what the kernel answered.

pub mod arena;
pub mod descriptor;
pub mod environ;
pub mod exec;
pub mod fork;
pub mod listing;
pub mod lookup;
pub mod memory;
pub mod netlink;
pub mod notify;
pub mod output;
pub mod passing;
pub mod pidfd;
pub mod process;
pub mod signal;
pub mod terminal;
