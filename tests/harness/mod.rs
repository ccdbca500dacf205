//! Owns how a test starts a program, talks to it and ends it: an environment of its own, a deadline on every wait, and nothing
//! left behind. Must not know what is tested: no name of a flag, no exit code of reberth's is written here.
//!
//! Every integration crate takes this in with `#[path = "../harness/mod.rs"] mod harness;`. A test reads like this:
//!
//! ```ignore
//! let mut running = Launch::new(program).args(["run", "--", "app"]).start();
//! running.ready();                          // the app has printed `ready (pid N)`: only now is a signal sent
//! running.signal(libc::SIGTERM);
//! running.expect("TERM");                   // the next line of its standard output
//! running.finish().expect_code(143);        // or fails, with all that it wrote
//! ```
//!
//! **The handshake.** An app under test says `ready (pid N)` when it has done what its words told it, and a line for each signal it hears
//! (`tests/init/app.rs`). A test acts on such a line, never after a time.
//!
//! **The deadline.** Every wait ends after `wait::PATIENCE`, and then fails with the command line and both outputs. No test sleeps: what has
//! a descriptor is polled, and `until` looks at the rest (a line of /proc, a file that appears).
//!
//! **Nothing left behind.** A `Running` that goes out of scope is killed. A program carries a word of its own in its environment, and when a
//! test fails, whatever has that word is killed too.
//!
//! | room | what is there |
//! | --- | --- |
//! | `launch` | `Launch`: words, environment, descriptors, signals, limits, user, terminal and namespace of a program, and its start |
//! | `running` | `Running`: a started program, its lines, signals and end; `Outcome`: what came of it |
//! | `wait` | `until` and `PATIENCE` |
//! | `place` | `TempDir`, `free_port`, and a lock for whoever forks |
//! | `look` | processes through /proc: state, parent, descriptors |
//! | `terminal` | pseudo-terminals |
//! | `golden` | messages compared whole with `tests/golden`; only the crates that do so take it in |

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
