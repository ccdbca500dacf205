//! From the first TERM to the exit: drain, grace, KILL.

use std::time::{Duration, Instant};

use crate::harness::launch::Stdio;
use crate::harness::wait::holds_within;
use crate::harness::{Running, look, running, until};
use crate::{both, run_app};

#[test]
fn an_app_that_ignores_term_is_killed_at_the_grace() {
    both(|mode| {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
            let steps = "ignore=2 ignore=3 ignore=15 fork ready pause end ready pause";
            let mut running = mode(run_app(&["--grace", "400ms"], steps)).start();
            running.ready();
            running.ready();
            let started = Instant::now();
            let tag = running.tag.clone();
            running.signal(signal);
            let outcome = running.finish_within(Duration::from_secs(5)).expect_code(137);
            let _ended = outcome.expect_stderr("the grace (--grace) was already over");
            assert!(started.elapsed() >= Duration::from_millis(390), "killed before the grace was over");
            assert_eq!(look::tagged(&tag), Vec::<i32>::new());
        }
    });
}

#[test]
fn the_escalation_is_logged() {
    let mut running = run_app(&["--grace", "100ms"], "ignore=15 ready pause").start();
    running.ready();
    running.signal(15);
    running.finish().expect_code(137).expect_stderr("kill").expect_stderr("grace");
}

#[test]
fn a_mapped_term_starts_the_grace_too() {
    let mut running = run_app(&["--grace", "300ms", "--signal-map", "TERM=HUP"], "ignore=1 ready pause").start();
    running.ready();
    running.signal(15);
    running.finish_within(Duration::from_secs(5)).expect_code(137);
}

#[test]
fn other_signals_start_no_grace() {
    let mut running = run_app(&["--grace", "100ms"], "block ready until=12 exit=3").start();
    running.ready();
    running.signal(1);
    running.expect("signal 1");
    assert!(!holds_within(Duration::from_millis(400), || running.has_ended()), "{}", running.report());
    running.signal(12);
    running.finish().expect_code(3);
}

#[test]
fn a_grace_of_zero_never_kills() {
    both(|mode| {
        let mut running = mode(run_app(&["--grace", "0s"], "block ready until=12 exit=3")).start();
        running.ready();
        running.signal(15);
        running.expect("signal 15");
        assert!(!holds_within(Duration::from_millis(400), || running.has_ended()), "{}", running.report());
        running.signal(12);
        running.finish().expect_code(3);
    });
}

#[test]
fn repeated_signals_during_the_grace_are_forwarded() {
    both(|mode| {
        let mut running = mode(run_app(&["--grace", "15s"], "block ready until=12 exit=3")).start();
        running.ready();
        for signal in [15, 15, 2, 3, 15, 1, 12] {
            running.signal(signal);
            running.expect(&format!("signal {signal}"));
        }
        running.finish().expect_code(3);
    });
}

#[test]
fn the_grace_is_one_deadline_for_the_app_and_what_it_leaves() {
    // The app uses most of the grace; its leftovers have only the rest.
    let steps = "block fork ready=left: until=64:left end line ready until=15 until=10 exit=3";
    let mut running = run_app(&["--grace", "4s"], steps).stdin(Stdio::Pipe).start();
    running.ready_as("left:");
    running.write("\n");
    let app = running.ready();
    let started = Instant::now();
    running.signal(15);
    running.expect("signal 15");
    assert!(!holds_within(Duration::from_millis(3000), || running.has_ended()));
    running::kill(app, 10);
    running.line_after("left signal 15");
    let outcome = running.finish_within(Duration::from_secs(10)).expect_code(3);
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(3990) && took < Duration::from_millis(6500),
        "{took:?}\n{}",
        outcome.report()
    );
}

/// The phase in the state file, wherever in the state directory that file is.
fn phase(running: &Running) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(running.dir.path()).into_iter().flatten().flatten() {
        all += &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default());
    }
    all
}

#[test]
fn drain_holds_the_signal_back_and_logs_it() {
    both(|mode| {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
            let flags = ["--drain", "30s", "--grace", "15s"];
            let mut running = mode(run_app(&flags, &format!("block ready until={signal} exit=3"))).start();
            running.ready();
            assert!(!phase(&running).contains("draining"));
            running.signal(signal);
            until("the phase is draining", || phase(&running).contains("draining"));
            // Other signals are forwarded meanwhile; the app's next line is about this one.
            running.signal(10);
            running.expect("signal 10");
            running.signal(1);
            running.expect("signal 1");
            running.signal(signal);
            running.expect(&format!("signal {signal}"));
            running.finish_within(Duration::from_secs(5)).expect_code(3);
        }
    });
}

#[test]
fn after_the_drain_the_app_gets_the_signal() {
    let mut running = run_app(&["--drain", "400ms"], "block ready until=2 exit=3").start();
    running.ready();
    let started = Instant::now();
    running.signal(2);
    running.expect("signal 2");
    assert!(started.elapsed() >= Duration::from_millis(390));
    running.finish().expect_code(3);
}

#[test]
fn the_grace_starts_when_the_drain_is_over() {
    let mut running = run_app(&["--drain", "600ms", "--grace", "300ms"], "ignore=15 ready pause").start();
    running.ready();
    let started = Instant::now();
    running.signal(15);
    running.finish_within(Duration::from_secs(5)).expect_code(137);
    assert!(started.elapsed() >= Duration::from_millis(890), "{:?}", started.elapsed());
}

#[test]
fn an_app_that_exits_while_draining_ends_the_drain() {
    let mut running = run_app(&["--drain", "30s"], "ready line exit=3").stdin(Stdio::Pipe).start();
    running.ready();
    running.signal(15);
    until("the phase is draining", || phase(&running).contains("draining"));
    running.write("\n");
    running.finish_within(Duration::from_secs(5)).expect_code(3);
}
