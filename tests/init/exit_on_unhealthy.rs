//! `--exit-on-unhealthy`: an app that is ready and fails its liveness check. The target is a file, so that the test controls it.

use std::path::PathBuf;
use std::time::Duration;

use crate::harness::launch::Stdio;
use crate::harness::wait::holds_within;
use crate::harness::{Launch, Running, look, until};
use crate::{both, run_app};

const SOON: Duration = Duration::from_secs(20);

/// A ready app with this file as its liveness target.
fn start(mode: &dyn Fn(Launch) -> Launch, flags: &[&str], steps: &str) -> (Running, i32, PathBuf) {
    let launch = run_app(&[&["--exit-on-unhealthy", "50ms"], flags].concat(), steps);
    let file = launch.dir.path().join("alive");
    std::fs::write(&file, "").unwrap();
    let launch = launch.env("REBERTH_LIVENESS", format!("file:{}", file.display()));
    let mut running = mode(launch).stdin(Stdio::Pipe).start();
    let app = running.ready();
    (running, app, file)
}

#[test]
fn too_many_failures_in_a_row_stop_the_app_with_1() {
    both(|mode| {
        for (flags, code) in [(&[][..], 1), (&["--exit-map", "1=9,143=0"], 9), (&["--drain", "1h"], 1)] {
            let (running, _, file) = start(mode, flags, "ready pause");
            std::fs::remove_file(&file).unwrap();
            let outcome = running.finish_within(SOON).expect_code(code);
            let why = format!("file:{}: no such file or directory", file.display());
            for line in [
                &format!("fails its liveness check (1 of 3 in a row, --exit-on-unhealthy): {why}"),
                &format!("is unhealthy, 3 failures in a row (--exit-on-unhealthy): stopping it: {why}"),
                &format!("reberth exits with {code}: the app was unhealthy (--exit-on-unhealthy)"),
            ] {
                assert!(outcome.stderr.contains(line), "{line}\n{}", outcome.report());
            }
        }
    });
}

#[test]
fn an_unhealthy_app_that_ignores_term_is_killed_after_the_grace() {
    let (running, _, file) =
        start(&|launch| launch, &["--grace", "200ms", "--unhealthy-failures", "1"], "ignore=15 ready pause");
    std::fs::remove_file(&file).unwrap();
    let outcome = running.finish_within(SOON).expect_code(1);
    assert!(outcome.stderr.contains("sending SIGKILL"), "{}", outcome.report());
}

/// Control: without the flag nothing is probed, and the app lives.
#[test]
fn without_exit_on_unhealthy_the_app_is_not_probed() {
    let (mut running, _, file) = start(&|launch| launch, &["--exit-on-unhealthy", "off"], "ready pause");
    std::fs::remove_file(&file).unwrap();
    let pid = running.init;
    let switches = || look::status(pid, "voluntary_ctxt_switches").unwrap();
    until("it sleeps", || {
        let before = switches();
        !holds_within(Duration::from_millis(1200), || switches() != before)
    });
    assert!(!running.stderr().contains("unhealthy"), "{}", running.report());
    running.signal(15);
    running.finish().expect_code(143);
}

#[test]
fn a_stopped_app_is_not_probed() {
    let (mut running, app, file) = start(&|launch| launch, &[], "ready pause");
    crate::harness::running::kill(app, libc::SIGSTOP);
    until("it is stopped", || look::status(app, "State").is_some_and(|state| state.starts_with('T')));
    std::fs::remove_file(&file).unwrap();
    assert!(
        !holds_within(Duration::from_millis(600), || running.stderr().contains("liveness")),
        "{}",
        running.report()
    );
    crate::harness::running::kill(app, libc::SIGCONT);
    running.finish_within(SOON).expect_code(1);
}

/// Never before it is ready, and never during the drain.
#[test]
fn an_app_that_is_not_ready_or_drains_is_not_probed() {
    let port = crate::harness::place::free_port();
    let flags = ["--port", &port.to_string(), "--unhealthy-failures", "1"];
    let (mut running, _, file) = start(
        &|launch| launch,
        &flags,
        "ready line listen=0.0.0.0:PORT pause".replace("PORT", &port.to_string()).as_str(),
    );
    std::fs::remove_file(&file).unwrap();
    assert!(
        !holds_within(Duration::from_millis(600), || running.stderr().contains("unhealthy")),
        "{}",
        running.report()
    );
    // Control: once it is ready it is probed.
    running.write("\n");
    running.finish_within(SOON).expect_code(1);
    let (mut running, _, file) =
        start(&|launch| launch, &["--drain", "700ms", "--unhealthy-failures", "1"], "ready pause");
    running.signal(15);
    running.stderr_until("received: not ready from now on");
    std::fs::remove_file(&file).unwrap();
    let outcome = running.finish_within(SOON).expect_code(143);
    assert!(!outcome.stderr.contains("unhealthy"), "{}", outcome.report());
}
