//! Orphans, and what is left of the app's tree when the app has exited.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use crate::harness::launch::Stdio;
use crate::harness::wait::holds_within;
use crate::harness::{Launch, look, place, running, until};
use crate::{app, both, run, run_app};

#[test]
fn ten_thousand_orphans_leave_no_zombie_with_pid_1() {
    let mut running = run_app(&[], "orphans=10x1000 ready pause").first_in_namespace().start();
    running.expect("orphaned");
    let app = running.ready();
    let init = running.init;
    until("every orphan is reaped", || look::children(init).len() == 1);
    assert_eq!(look::zombies(running.outside(app)), 0);
    running.signal(libc::SIGTERM);
    running.finish().expect_code(143);
}

#[test]
fn orphans_are_inherited_off_pid_1_too() {
    let mut running = run_app(&[], "orphans=2x500 fork daemon ready=orphan: pause end end ready pause").start();
    running.expect("orphaned");
    let orphan = running.ready_as("orphan:");
    let init = running.init;
    until("the orphan has reberth as its parent", || look::stat(orphan).is_some_and(|s| s.parent == init));
    until("every dead orphan is reaped", || look::zombies(init) == 0);
    running::kill(orphan, libc::SIGKILL);
    until("the last orphan is reaped", || look::stat(orphan).is_none());
    running.signal(libc::SIGTERM);
    running.finish().expect_code(143);
}

/// Control for the tests above: without a reaper, the zombies they look for do exist.
#[test]
fn without_an_init_the_same_orphans_stay_zombies() {
    let words = app::words("orphans=1x100 ready pause");
    let mut running = Launch::new(words[0].clone()).args(&words[1..]).first_in_namespace().start();
    running.expect("orphaned");
    running.ready();
    let init = running.init;
    until("the zombies are there", || look::zombies(init) == 100);
}

#[test]
fn a_stream_of_orphans_does_not_hide_the_exit_of_the_app() {
    both(|mode| {
        mode(run_app(&[], "orphans=20x20 die=9")).start().finish().expect_code(137);
    });
}

/// What is left when the app has exited with code 7: each of these must have exited before `run` does, and never decides the code.
#[test]
fn leftovers_get_term_and_are_waited_for() {
    both(|mode| {
        for leftover in [
            "fork ready until=15:left exit=9 end",
            "group ready until=15:left exit=9 end",
            "daemon ready until=15:left exit=9 end",
            "fork daemon ready until=15:left exit=9 end end",
        ] {
            let mut running =
                mode(run_app(&["--grace", "15s"], &format!("block {leftover} line exit=7")).stdin(Stdio::Pipe)).start();
            let left = running.ready();
            let left = running.outside(left);
            running.write("\n");
            let outcome = running.finish_within(Duration::from_secs(5)).expect_code(7);
            assert!(outcome.stdout.contains("left signal 15"), "{leftover}: {}", outcome.report());
            assert_eq!(look::stat(left), None, "{leftover}: still there, or not reaped");
        }
    });
}

#[test]
fn leftovers_that_ignore_term_are_killed_after_the_grace() {
    both(|mode| {
        for leftover in [
            "ignore=15 fork ready pause end",
            "ignore=15 daemon ready pause end",
            "ignore=15 fork fork group ready pause end reap end reap end",
            "block fork ready stop pause end",
        ] {
            let mut running =
                mode(run_app(&["--grace", "400ms"], &format!("{leftover} line exit=7")).stdin(Stdio::Pipe)).start();
            let left = running.ready();
            let left = running.outside(left);
            let started = Instant::now();
            running.write("\n");
            let tag = running.tag.clone();
            let outcome = running.finish_within(Duration::from_secs(5)).expect_code(7);
            assert!(started.elapsed() >= Duration::from_millis(390), "{leftover}: no grace\n{}", outcome.report());
            assert_eq!(look::stat(left), None, "{leftover}: still there, or not reaped");
            assert_eq!(look::tagged(&tag), Vec::<i32>::new(), "{leftover}");
        }
    });
}

#[test]
fn a_stopped_leftover_exits_too() {
    both(|mode| {
        // Stopped before the app exits: TERM stays pending until the process is continued, KILL does not.
        let mut running =
            mode(run_app(&["--grace", "1s"], "fork ready stop pause end line exit=7").stdin(Stdio::Pipe)).start();
        let left = running.ready();
        let left = running.outside(left);
        until("the leftover is stopped", || look::stat(left).is_some_and(|s| s.state == 'T'));
        running.write("\n");
        let _ended = running.finish_within(Duration::from_secs(5)).expect_code(7);
        assert_eq!(look::stat(left), None);
    });
}

#[test]
fn a_grace_of_zero_waits_for_leftovers_as_long_as_it_takes() {
    both(|mode| {
        let mut running = mode(
            run_app(&["--grace", "0s"], "block fork ready until=10:left exit=0 end line exit=7").stdin(Stdio::Pipe),
        )
        .start();
        let left = running.ready();
        let left = running.outside(left);
        running.write("\n");
        running.expect("left signal 15");
        assert!(!holds_within(Duration::from_millis(300), || running.has_ended()));
        running::kill(left, 10);
        running.finish_within(Duration::from_secs(5)).expect_code(7);
    });
}

#[test]
fn leftovers_that_fork_on_term_do_not_escape() {
    both(|mode| {
        // On TERM it starts a daemon that ignores TERM and prints a line, and exits.
        let steps = "block fork ready until=15:left ignore=15 daemon ready=late: pause end exit=0 end line exit=7";
        let mut running = mode(run_app(&["--grace", "500ms"], steps).stdin(Stdio::Pipe)).start();
        running.ready();
        running.write("\n");
        let tag = running.tag.clone();
        let outcome = running.finish_within(Duration::from_secs(5)).expect_code(7);
        assert!(outcome.stdout.contains("late:ready"), "{}", outcome.report());
        assert_eq!(look::tagged(&tag), Vec::<i32>::new());
    });
}

#[test]
fn only_the_tree_of_the_app_is_stopped() {
    // A neighbour in the same session, started by the same parent: not a descendant of reberth.
    let words = run_app(&["--grace", "300ms"], "ready exit=7");
    let script = "sleep 1000 & echo neighbour $!; \"$@\"; echo code $?; kill -0 $! && echo alive; kill -9 $!";
    let mut outer = Launch::new("sh").args(["-c", script, "sh"]).args(words.words.clone());
    outer.environment.extend(words.environment.iter().filter(|(name, _)| name == "REBERTH_STATE_DIR").cloned());
    let mut running = outer.start();
    running.line_after("neighbour ");
    running.ready();
    running.expect("code 7");
    running.expect("alive");
    running.finish();
}

/// `exec reberth run -- app > >(logger)`: the logger is a child of reberth that existed before it.
#[test]
fn children_older_than_the_app_are_left_alone() {
    let inner = run_app(&["--grace", "15s"], "fork ready=left: pause end say=last-words exit=7");
    let log = inner.dir.path().join("log");
    let script = "exec \"$@\" > >(while read x; do echo logged $x; done >\"$0\"; echo all-logged >>\"$0\")";
    let mut outer = Launch::new("bash").args(["-c", script]).arg(&log).args(inner.words.clone());
    outer.environment.extend(inner.environment.iter().filter(|(name, _)| name == "REBERTH_STATE_DIR").cloned());
    let running = outer.start();
    // Before the outcome is taken: then the harness kills whatever is left of the test.
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    until("the logger has seen the end", || logged().ends_with("all-logged\n"));
    assert!(logged().contains("logged last-words"), "{}", logged());
    running.finish_within(Duration::from_secs(10)).expect_code(7).expect_stderr("left behind");
}

#[test]
fn every_reaped_orphan_can_be_seen_in_the_log() {
    let mut running = run_app(&["--log", "debug"], "orphans=1x3 ready pause").start();
    running.ready();
    running.output_until("all are reaped", |_, log| log.matches("Reaped zombie process with pid=").count() >= 3);
    running.signal(libc::SIGTERM);
    running.finish().expect_code(143);
}

/// A background process is stopped together with the app that started it; without a log line that would be a riddle.
#[test]
fn an_app_that_puts_itself_into_the_background_is_explained() {
    both(|mode| {
        let port = place::free_port();
        let flags = ["--port", &port.to_string()];
        // It serves, and then its parent exits.
        let steps = format!("daemon listen=0.0.0.0:{port} ready=daemon: pause end line exit=0");
        let mut running = mode(run_app(&flags, &steps).stdin(Stdio::Pipe)).start();
        let daemon = running.ready_as("daemon:");
        running.write("\n");
        let outcome = running.finish().expect_code(0);
        let said = format!("its process {daemon} (");
        for part in
            ["put itself into the background", &said, &format!("serving port {port}"), "daemon off;", "-DFOREGROUND"]
        {
            assert!(outcome.stderr.contains(part), "{part}: {}", outcome.report());
        }
        // Its parent exits before it serves.
        let outcome = mode(run_app(&flags, "daemon ready=daemon: pause end exit=0")).start().finish().expect_code(0);
        assert!(outcome.stderr.contains("before it listened on port"), "{}", outcome.report());
        // Workers of a crashed server are not a daemon.
        let steps = format!("daemon listen=0.0.0.0:{port} ready=left: pause end line exit=3");
        let mut running = mode(run_app(&flags, &steps).stdin(Stdio::Pipe)).start();
        running.ready_as("left:");
        running.write("\n");
        let outcome = running.finish().expect_code(3);
        assert!(outcome.stderr.contains("was still serving port"), "{}", outcome.report());
        assert!(!outcome.stderr.contains("background"), "{}", outcome.report());
    });
}

/// `unshare --pid` without a new /proc: the pids there belong to another namespace.
#[test]
fn the_proc_of_another_namespace_is_not_trusted() {
    // SAFETY: geteuid has no preconditions.
    let user: &[&str] = if unsafe { libc::geteuid() } == 0 { &[] } else { &["--user", "--map-root-user"] };
    let namespace = [&["unshare"], user, &["--pid", "--fork", "--kill-child"]].concat();
    // As process 2 of the namespace, whose pid outside belongs to a kernel thread; and as its first process, whose pid belongs to any
    // process.
    for before in [&["sh", "-c", "\"$@\"; exit $?", "sh"][..], &[]] {
        let steps = "block fork ready=left: until=15:left exit=0 end line exit=7";
        // The pids of the tree start far from those.
        let numbers = "echo 30000 >/proc/sys/kernel/ns_last_pid; exec \"$@\"";
        let command = ["sh", "-c", numbers, "sh"].into_iter().map(Into::into).chain(app::words(steps));
        let mut launch = run(&["--grace", "15s"], command.collect::<Vec<OsString>>()).stdin(Stdio::Pipe);
        let words = [&namespace[..], before].concat().into_iter().map(Into::into);
        launch.words = words.chain(launch.words).collect();
        let mut running = launch.start();
        running.ready_as("left:");
        running.write("\n");
        running.line_after("left signal 15");
        running.finish_within(Duration::from_secs(5)).expect_code(7);
    }
}

#[test]
fn only_the_stopped_are_continued() {
    both(|mode| {
        let steps = "block fork block ready=runs: until=64:runs end \
                     fork stop exit=0 end line exit=0";
        let mut running = mode(run_app(&["--grace", "700ms"], steps).stdin(Stdio::Pipe)).start();
        let runs = running.ready_as("runs:");
        let runs = running.outside(runs);
        let app = look::stat(runs).unwrap().parent;
        until("the other one has stopped", || {
            look::children(app)
                .into_iter()
                .any(|pid| pid != runs && look::stat(pid).is_some_and(|stat| stat.state == 'T'))
        });
        running.write("\n");
        let outcome = running.finish_within(Duration::from_secs(5)).expect_code(0);
        assert!(outcome.stdout.contains("runs signal 15"), "{}", outcome.report());
        assert!(!outcome.stdout.contains("signal 18"), "{}", outcome.report());
    });
}
