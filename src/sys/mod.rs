//! Owns every direct question to the kernel, and with it the only `unsafe` of the crate. Must not know policy: it does what it is
//! asked, and reports what the kernel said.

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
