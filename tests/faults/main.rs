//! `reberth` among faults: holders and instances that die at the worst moment, kernels that refuse, disks that fill, crowds and storms.
//! Each test runs many rounds and ends in a line with their counts. `REBERTH_TEST_ROUNDS=N` runs N times as many. Must not know how
//! `reberth` is built: it is started, watched and stopped from outside.

// The lints of `src` protect PID 1; a test may panic, wait, pause and have threads. `unsafe` code states its reason here too.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)]

#[path = "../init/app.rs"]
mod app;
#[path = "../harness/mod.rs"]
mod harness;

mod crowd;
mod disk;
mod holder;
mod killed;
mod limits;
mod netlink;
mod other_user;
mod proc;
mod storms;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use harness::place::TempDir;
use harness::{Launch, Running, until};

const REBERTH: &str = env!("CARGO_BIN_EXE_reberth");

/// A way to start it.
type Mode = (&'static str, fn(Launch) -> Launch);
const MODES: [Mode; 2] = [("PID 1", Launch::first_in_namespace), ("a child", |launch| launch)];

/// The rounds of a quick run, times `REBERTH_TEST_ROUNDS`.
fn rounds(quick: usize) -> usize {
    let times =
        std::env::var("REBERTH_TEST_ROUNDS").map_or(1, |text| text.parse().expect("REBERTH_TEST_ROUNDS=NUMBER"));
    quick * times
}

/// `reberth run` with its state in `dir`.
fn run_in<S: Into<OsString>>(dir: &Path, flags: &[&str], command: impl IntoIterator<Item = S>) -> Launch {
    let launch = Launch::new(REBERTH).env("REBERTH_STATE_DIR", dir);
    launch.arg("run").args(flags.iter().copied()).arg("--").args(command)
}

/// `reberth run` with the tests' own app, which performs these steps; its state is in the launch's own directory.
fn run_app(flags: &[&str], steps: &str) -> Launch {
    let launch = Launch::new(REBERTH);
    let state = launch.dir.path().to_owned();
    launch.env("REBERTH_STATE_DIR", state).arg("run").args(flags.iter().copied()).arg("--").args(app::words(steps))
}

/// The tests' own app by itself.
fn alone(steps: &str) -> Launch {
    let words = app::words(steps);
    Launch::new(words[0].clone()).args(words[1..].iter().cloned())
}

/// The same launch, wrapped by another program: these words come before its own.
fn under<S: Into<OsString>>(before: impl IntoIterator<Item = S>, mut launch: Launch) -> Launch {
    launch.words = before.into_iter().map(Into::into).chain(launch.words).collect();
    launch
}

/// The same launch wrapped by the tests' app, which performs these steps and then executes it.
fn after(steps: &str, launch: Launch) -> Launch {
    under(app::words(&format!("{steps} exec")), launch)
}

/// The same launch in a new mount namespace (and whatever `more` unshares), after this shell script.
fn mounted(more: &[&str], script: &str, launch: Launch) -> Launch {
    let user: &[&str] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
    let script = format!("set -e; {script}; exec \"$@\"");
    let words = [&["unshare"], user, &["--mount"], more, &["sh", "-c", &script, "sh"]].concat();
    under(words, launch)
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// A program that listens on the port, and has reported that.
fn holder(port: u16) -> Running {
    let mut holder = alone(&format!("listen=0.0.0.0:{port} ready pause")).start();
    holder.ready();
    holder
}

/// How long a claim may take that only an event can explain: the waiters here poll far more rarely.
const PROMPT: Duration = Duration::from_secs(5);

/// A `run` that waits for the port and that only an event can wake; it has logged that it waits.
fn waiter(port: u16, flags: &[&str], steps: &str) -> Running {
    let port = port.to_string();
    let flags = [&["--port", &port, "--wait", "50s", "--backoff", "50s..50s"], flags].concat();
    let mut waiter = run_app(&flags, steps).start();
    waiter.stderr_until("is busy, waiting");
    waiter
}

/// Fails if it has claimed, launched or ended.
#[track_caller]
fn assert_waits(waiter: &mut Running) {
    let quiet = !waiter.has_ended() && waiter.stdout().is_empty() && !waiter.stderr().contains("claimed");
    assert!(quiet, "{}", waiter.report());
}

/// Sends TERM, and checks the app's exit.
#[track_caller]
fn stop(mut running: Running) {
    running.signal(libc::SIGTERM);
    running.finish_within(Duration::from_secs(10)).expect_code(143);
}

/// The contents of the state files in `dir`.
fn state(dir: &Path) -> String {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    files.map(|file| String::from_utf8_lossy(&std::fs::read(file.path()).unwrap_or_default()).into_owned()).collect()
}

#[track_caller]
fn until_phase(dir: &Path, phase: &str) {
    until(&format!("the phase is {phase}"), || state(dir).contains(&format!("\"phase\":\"{phase}\"")));
}

/// Its exit code and its line.
fn healthcheck(dir: &TempDir, words: &[&str]) -> (i32, String) {
    let launch = Launch::new(REBERTH).args(["healthcheck", "--state-dir"]).arg(dir.path());
    let outcome = launch.args(words.iter().copied()).start().finish();
    (outcome.code.unwrap(), outcome.stdout)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
