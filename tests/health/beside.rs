//! A healthcheck beside a real `run`: the state file as the two of them really use it.

use std::fs;

use crate::harness::launch::{Launch, program};
use crate::harness::place::TempDir;
use crate::harness::{Running, until};
use crate::{Said, said};

/// `run` with an app that holds the listening socket it was handed, and does nothing with it.
fn run(dir: &TempDir, flags: &[&str]) -> Running {
    let launch =
        Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["run", "--port", "0", "--handover", "on", "--state-dir"]);
    launch.arg(dir.path()).args(flags.iter().copied()).arg("--").arg(program("sleep")).arg("600").start()
}

#[track_caller]
fn ask(dir: &TempDir, words: &[&str]) -> Said {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["healthcheck", "--state-dir"]);
    said(launch.arg(dir.path()).args(words.iter().copied()))
}

fn files(dir: &TempDir) -> usize {
    fs::read_dir(dir.path()).unwrap().count()
}

#[test]
fn from_the_start_to_a_clean_end() {
    let dir = TempDir::new();
    let mut run = run(&dir, &["--drain", "1h"]);
    until("the app is launched", || ask(&dir, &["tcp"]).healthy);
    // The port is any free one, so only the state can have told it.
    ask(&dir, &["tcp"]).expect(true, &["tcp://127.0.0.1:"]);
    run.signal(libc::SIGTERM);
    until("it drains", || !ask(&dir, &["tcp"]).healthy);
    ask(&dir, &["tcp"]).expect(false, &["phase draining"]);
    ask(&dir, &["--probe", "liveness"]).expect(true, &["phase draining"]);
    // A second one ends the drain, and the app.
    run.signal(libc::SIGTERM);
    run.finish().expect_code(143);
    assert_eq!(files(&dir), 0, "a clean end leaves no state");
    ask(&dir, &["tcp"]).expect(false, &["no tcp port"]);
}

#[test]
fn the_target_of_run_is_asked_on_the_port_it_took() {
    let dir = TempDir::new();
    let run = run(&dir, &["--health", "grpc:a.B", "--liveness", "grpc"]);
    until("the app is launched", || ask(&dir, &["tcp"]).healthy);
    // The app never says a word, so it does not become ready.
    let words = ["--timeout", "50ms", "--probe"];
    for (probe, end) in [("readiness", "/a.B, no status"), ("startup", "/a.B, no status")] {
        ask(&dir, &[&words[..], &[probe]].concat()).expect(false, &[end, "grpc://127.0.0.1:", "timed out after 50ms"]);
    }
    ask(&dir, &["--probe", "liveness"]).expect(true, &["phase starting"]);
    drop(run);
}

#[test]
fn a_run_that_is_killed_fails_every_probe() {
    let dir = TempDir::new();
    let mut run = run(&dir, &[]);
    until("the app is launched", || ask(&dir, &["tcp"]).healthy);
    run.signal(libc::SIGKILL);
    assert_eq!(run.finish().signal, Some(libc::SIGKILL));
    for probe in ["readiness", "liveness", "startup"] {
        ask(&dir, &["--probe", probe, "tcp"]).expect(false, &["is gone"]);
    }
}

#[test]
fn with_exec_the_app_is_the_writer() {
    let dir = TempDir::new();
    let mut run = run(&dir, &["--exec"]);
    until("the app is launched", || ask(&dir, &["tcp"]).healthy);
    ask(&dir, &["--probe", "liveness", "tcp"]).expect(true, &["tcp://127.0.0.1:"]);
    run.signal(libc::SIGTERM);
    assert_eq!(run.finish().signal, Some(libc::SIGTERM));
    ask(&dir, &["tcp"]).expect(false, &["is gone"]);
}
