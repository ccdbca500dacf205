//! Owns how a test starts a program, talks to it and stops it: a separate environment, a deadline on every wait, and nothing left behind.
//! Must not know what is tested: it names no flag and no exit code of reberth.
//!
//! Every integration crate includes this with `#[path = "../harness/mod.rs"] mod harness;`. A test reads like this:
//!
//! ```ignore
//! let mut running = Launch::new(program).args(["run", "--", "app"]).start();
//! running.ready();                          // the app has printed `ready (pid N)`: only now is a signal sent
//! running.signal(libc::SIGTERM);
//! running.expect("TERM");                   // the next line of its standard output
//! running.finish().expect_code(143);        // otherwise the test fails, with all output
//! ```
//!
//! **The handshake.** The app under test prints `ready (pid N)` when it has done the steps in its arguments, and a line for each signal it
//! receives (`tests/init/app.rs`). A test acts on such a line, never after a fixed time.
//!
//! **The deadline.** Every wait ends after `wait::PATIENCE`, and then fails with the command line and both outputs. No test sleeps
//! for a guess: file descriptors are polled, and `until` checks everything else every two milliseconds (a line of /proc, a file that appears).
//!
//! **Nothing left behind.** A `Running` is killed when it goes out of scope. Each program has a unique word in its environment, which its
//! children inherit; when a test fails, every process with that word is killed too.
//!
//! | module | contents |
//! | --- | --- |
//! | `launch` | `Launch`: arguments, environment, descriptors, signals, limits, user, terminal and namespace of a program, and its start |
//! | `running` | `Running`: a started program, its output, signals and exit; `Outcome`: how it exited and what it wrote |
//! | `wait` | `until` and `PATIENCE` |
//! | `place` | `TempDir`, `free_port`, and a lock without which a fork in another thread would keep a closed port or file open |
//! | `look` | processes through /proc: state, parent, descriptors |
//! | `terminal` | pseudo-terminals |
//! | `golden` | messages compared as a whole with `tests/golden`; included only by the crates that need it |

// Each integration crate uses another part of this module: what one crate does not use is not dead code.
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
