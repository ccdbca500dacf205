//! Owns how a test starts a program, talks to it and ends it: an environment of its own, a deadline on every wait, and nothing
//! left behind. Must not know what is tested: no name of a flag, no exit code of reberth's is written here.
//!
//! Every integration crate takes this in with `#[path = "../harness/mod.rs"] mod harness;`.

// Each integration crate uses another part of this; what one of them leaves alone is not dead.
#![allow(dead_code)]

pub mod launch;
pub mod look;
pub mod place;
pub mod running;
pub mod terminal;
pub mod wait;

#[allow(unused_imports)]
pub use launch::Launch;
#[allow(unused_imports)]
pub use running::Running;
pub use wait::until;
