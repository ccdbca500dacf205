//! Owns `--register`: the entry that tells where an app is found, put into a registry while it is ready. Must not know supervision.
//!
//! A registry may be away, slow or frozen, and PID 1 waits for none: a process beside it does the asking (`work`), and is told by a
//! socket what is wished (`beside`).

pub mod beside;
#[cfg(feature = "register")]
mod entry;
#[cfg(feature = "register")]
mod etcd;
#[cfg(feature = "register")]
mod machine;
pub mod place;
#[cfg(feature = "register")]
mod work;
