//! `reberth run` as an init: its promises about signals, exits, descriptors, terminals and process trees, each tested with real processes.
//! Must not know how `run` is built: it is started, watched and stopped from outside.

// The lints of `src` protect PID 1; a test may panic, wait and pause. `unsafe` code states its reason here too.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod after;
mod app;
#[path = "../harness/golden.rs"]
mod golden;
#[path = "../harness/mod.rs"]
mod harness;

mod check;
mod diagnosis;
mod exec;
mod exit;
mod exit_on_unhealthy;
mod grace;
mod handover;
mod inherit;
mod log;
mod ports;
mod readme;
mod relaunch;
mod signals;
mod surroundings;
mod terminal;
mod tree;
mod who;

use harness::Launch;

/// `reberth run` with these flags and this command; its state file is in the test's own directory.
fn run<S: Into<std::ffi::OsString>>(flags: &[&str], command: impl IntoIterator<Item = S>) -> Launch {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth"));
    let state = launch.dir.path().to_owned();
    launch.env("REBERTH_STATE_DIR", state).arg("run").args(flags.iter().copied()).arg("--").args(command)
}

/// `reberth run` with these flags and the tests' own app, which performs these steps.
fn run_app(flags: &[&str], steps: &str) -> Launch {
    run(flags, app::words(steps))
}

/// The same launch with these system calls failing with these errors, as under a sandbox or an old kernel.
fn denied(calls: &[(i64, i32)], mut launch: Launch) -> Launch {
    let steps: Vec<String> = calls.iter().map(|(call, errno)| format!("deny={call}:{errno}")).collect();
    let words = app::words(&format!("{} exec", steps.join(" ")));
    launch.words = words.into_iter().chain(launch.words).collect();
    launch
}

/// Once as PID 1 of a namespace, once as an ordinary process.
fn both(test: impl Fn(&dyn Fn(Launch) -> Launch)) {
    test(&|launch| launch);
    test(&Launch::first_in_namespace);
}
