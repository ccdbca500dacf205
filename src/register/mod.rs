//! Owns `--register`: the entry that shows where an app is reachable, stored in a registry while the app is ready. Must
//! not know supervision.
//!
//! A registry may be unreachable, slow or frozen, and PID 1 waits for none: a process beside it makes the requests
//! (`work`), and PID 1 controls it through a socket (`workers`).

#[cfg(feature = "register")]
mod entry;
#[cfg(feature = "register")]
mod etcd;
#[cfg(feature = "register")]
mod machine;
pub mod place;
#[cfg(feature = "register")]
mod work;
pub mod workers;
