//! Which signals reach the app, and which affect reberth itself.

use std::net::TcpListener;
use std::time::Duration;

use crate::harness::launch::Stdio;
use crate::harness::{Running, look, place, running, until};
use crate::{both, run, run_app};

/// Signals that can be received and do not stop a process. 32 and 33 belong to the C library, CHLD concerns children.
fn forwardable() -> impl Iterator<Item = i32> {
    (1..=31).filter(|n| ![9, 17, 19, 20, 21, 22].contains(n)).chain(34..=64)
}

const STOP_SIGNALS: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// An app that prints every signal it receives, until USR1 and then USR2 make it exit with code 3.
const LISTENER: &str = "block ready until=10 until=12 exit=3";

#[track_caller]
fn end(mut running: Running) {
    running.signal(10);
    running.expect("signal 10");
    running.signal(12);
    running.expect("signal 12");
    running.finish().expect_code(3);
}

#[test]
fn every_signal_is_forwarded_exactly() {
    both(|mode| {
        let mut running = mode(run_app(&["--grace", "0s"], "block ready until=64 until=64 exit=3")).start();
        running.ready();
        for signal in forwardable() {
            running.signal(signal);
            running.expect(&format!("signal {signal}"));
        }
        // A second time: nothing is used up, and nothing arrives twice.
        for signal in forwardable() {
            running.signal(signal);
            running.expect(&format!("signal {signal}"));
        }
        running.finish().expect_code(3);
    });
}

#[test]
fn an_app_that_handles_nothing_dies_of_the_signal() {
    for signal in forwardable().filter(|n| ![18, 23, 28].contains(n)) {
        let mut running = run_app(&[], "ready pause").limit(libc::RLIMIT_CORE, 0).start();
        running.ready();
        running.signal(signal);
        running.finish().expect_code(128 + signal);
    }
}

#[test]
fn child_is_not_forwarded() {
    both(|mode| {
        let mut running = mode(run_app(&[], LISTENER)).start();
        running.ready();
        running.signal(libc::SIGCHLD);
        end(running);
    });
}

#[test]
fn stop_signals_are_forwarded_and_stop_reberth_until_cont() {
    let mut running = run_app(&[], LISTENER).start();
    running.ready();
    for signal in STOP_SIGNALS {
        running.signal(signal);
        running.expect(&format!("signal {signal}"));
        let init = running.init;
        until("reberth stops itself", || look::stat(init).is_some_and(|s| s.state == 'T'));
        running.signal(libc::SIGCONT);
        running.expect("signal 18");
        until("reberth goes on", || look::stat(init).is_some_and(|s| s.state != 'T'));
    }
    end(running);
}

#[test]
fn an_app_without_handlers_stops_and_continues_with_reberth() {
    let mut running = run_app(&[], "ready pause").start();
    let app = running.ready();
    let init = running.init;
    for _ in 0..2 {
        running.signal(libc::SIGTSTP);
        until("both stop", || [init, app].iter().all(|&p| look::stat(p).is_some_and(|s| s.state == 'T')));
        running.signal(libc::SIGCONT);
        until("both go on", || [init, app].iter().all(|&p| look::stat(p).is_some_and(|s| s.state != 'T')));
    }
    running.signal(libc::SIGTERM);
    running.finish().expect_code(143);
}

#[test]
fn pid_1_forwards_stop_signals_and_never_stops() {
    let mut running = run_app(&[], LISTENER).first_in_namespace().start();
    running.ready();
    for signal in STOP_SIGNALS {
        running.signal(signal);
        running.expect(&format!("signal {signal}"));
        // Only a running process forwards this.
        running.signal(libc::SIGHUP);
        running.expect("signal 1");
        assert_ne!(look::stat(running.init).unwrap().state, 'T');
    }
    end(running);
}

#[test]
fn signal_map_rewrites_and_drops() {
    both(|mode| {
        let map = "TERM=QUIT,SIGHUP=USR1,2=15,usr2=none,WINCH=0,ALRM=64";
        let mut running = mode(run_app(&["--grace", "0s", "--signal-map", map], "block ready until=64 exit=3")).start();
        running.ready();
        for (sent, got) in [(15, 3), (1, 10), (2, 15), (10, 10)] {
            running.signal(sent);
            running.expect(&format!("signal {got}"));
        }
        // Dropped; the next signal is the next one that the app receives.
        running.signal(12);
        running.signal(28);
        running.signal(14);
        running.expect("signal 64");
        running.finish().expect_code(3);
    });
}

#[test]
fn scope_child_reaches_the_app_alone() {
    both(|mode| {
        let steps = "block fork ready=child: until=12:child until=15:child exit=0 end line ready until=12:app exit=3";
        let mut running = mode(run_app(&["--signal-scope", "child"], steps).stdin(Stdio::Pipe)).start();
        let child = running.ready_as("child:");
        running.write("\n");
        running.ready();
        running.signal(10);
        running.expect("app signal 10");
        // Sent directly, not through reberth: it is the child's first signal, so the child got none before.
        running::kill(running.outside(child), 12);
        running.expect("child signal 12");
        running.signal(12);
        running.expect("app signal 12");
        running.finish().expect_code(3);
    });
}

#[test]
fn scope_group_reaches_the_whole_group_and_no_other_process() {
    both(|mode| {
        let steps = "block fork ready until=12:child exit=0 end group ready until=15:apart exit=0 end ready until=12:app exit=3";
        let mut running = mode(run_app(&["--signal-scope", "group"], steps)).start();
        for _ in 0..3 {
            running.ready();
        }
        running.signal(10);
        let mut said = [running.line(), running.line()];
        said.sort();
        assert_eq!(said, ["app signal 10", "child signal 10"]);
        running.signal(12);
        // The app exits immediately, and the others then get TERM: the order of these lines depends on the scheduler.
        let outcome = running.finish().expect_code(3);
        for line in ["app signal 12", "child signal 12"] {
            assert!(outcome.stdout.contains(line), "{line}: {}", outcome.report());
        }
        // The process in its own group gets a signal only after the app has exited, as part of what is left of the tree.
        for line in ["apart signal 10", "apart signal 12"] {
            assert!(!outcome.stdout.contains(line), "{line}: {}", outcome.report());
        }
        assert!(outcome.stdout.contains("apart signal 15"), "{}", outcome.report());
    });
}

#[test]
fn term_and_int_end_the_wait_for_the_port_immediately() {
    both(|mode| {
        // The parent-death signal ends the wait too, whichever signal it is.
        for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGINT, 130), (libc::SIGUSR1, 138)] {
            let port = place::free_port();
            let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
            let flags = ["--port", &port.to_string(), "--wait", "forever", "--parent-death-signal", "USR1"];
            let launch = run_app(&flags, "say=started");
            let mut running = mode(launch).start();
            running.stderr_until(&port.to_string());
            running.signal(signal);
            let outcome = running.finish().expect_code(code);
            assert_eq!(outcome.stdout, "", "{}", outcome.report());
            drop(holder);
        }
    });
}

/// Whatever the signal, it ends the wait: there is no parent left to wait for. The map still applies first.
#[test]
fn the_signal_of_a_dead_parent_is_mapped_too() {
    for (death, map, code) in [
        ("WINCH", "none", Some(156)),
        ("WINCH", "WINCH=INT", Some(130)),
        ("TERM", "TERM=QUIT", Some(131)),
        ("USR1", "USR1=WINCH", Some(156)),
        ("TERM", "TERM=none", None),
    ] {
        let port = place::free_port();
        let _holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let port = port.to_string();
        let flags = ["--port", &port, "--wait", "forever", "--log", "debug"];
        let flags = [&flags[..], &["--parent-death-signal", death, "--signal-map", map]].concat();
        let mut running = run_app(&flags, "say=started").start();
        running.stderr_until("is busy, waiting");
        let number = [("WINCH", 28), ("TERM", 15), ("USR1", 10)].iter().find(|(name, _)| *name == death).unwrap().1;
        running.signal(number);
        match code {
            Some(code) => drop(running.finish_within(Duration::from_secs(5)).expect_code(code)),
            None => running.stderr_until("ignored: there is no app yet"),
        }
    }
}

#[test]
fn a_hangup_ends_the_wait_unless_it_is_ignored_by_nohup() {
    both(|mode| {
        for (ignored, code, said) in [(&[][..], 129, ""), (&[libc::SIGHUP], 0, "started\n")] {
            let port = place::free_port();
            let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
            let launch = run_app(&["--port", &port.to_string(), "--wait", "forever"], "say=started").ignored(ignored);
            let mut running = mode(launch).start();
            running.stderr_until(&port.to_string());
            running.signal(libc::SIGHUP);
            // The signal arrives before the port is free.
            let held = ignored.is_empty().then_some(holder);
            let outcome = running.finish().expect_code(code);
            assert_eq!(outcome.stdout, said, "{}", outcome.report());
            drop(held);
        }
    });
}

#[test]
fn a_storm_of_signals_interrupts_nothing() {
    both(|mode| {
        let mut running = mode(run_app(&["--grace", "0s"], LISTENER)).start();
        running.ready();
        // Real-time signals queue: every one arrives, in order.
        for round in 0..500 {
            running.signal(34 + round % 8);
            running.signal(libc::SIGCHLD);
        }
        for _ in 0..500 {
            assert!(running.line().starts_with("signal "));
        }
        end(running);
    });
}

#[test]
fn what_was_ignored_or_blocked_at_the_start_is_forwarded_all_the_same() {
    both(|mode| {
        let signals = [1, 2, 10, 15];
        for (blocked, ignored) in [(&signals[..], &[][..]), (&[], &signals), (&signals, &signals)] {
            let launch = run_app(&["--grace", "0s"], "block ready until=12 exit=3").blocked(blocked).ignored(ignored);
            let mut running = mode(launch).start();
            running.ready();
            for signal in signals {
                running.signal(signal);
                running.expect(&format!("signal {signal}"));
            }
            running.signal(12);
            running.finish().expect_code(3);
        }
    });
}

#[test]
fn a_signal_that_the_app_sends_comes_back_to_it() {
    both(|mode| {
        let mut running = mode(run_app(&[], "block ready kick=10 until=10 kick=15 until=15 exit=3")).start();
        running.ready();
        running.expect("signal 10");
        running.expect("signal 15");
        running.finish().expect_code(3);
    });
}

#[test]
fn one_run_inside_another_passes_everything_through() {
    both(|mode| {
        let inner = run_app(&[], "block ready until=12 fork ignore=15 pause end exit=3");
        let mut running = mode(run(&["--grace", "10s"], inner.words.clone()).env("REBERTH_GRACE", "300ms")).start();
        running.ready();
        running.signal(1);
        running.expect("signal 1");
        running.signal(12);
        running.finish().expect_code(3);
    });
}

#[test]
fn term_at_any_moment_of_the_start_ends_it_and_leaves_no_process() {
    for round in 0..40 {
        let mut running = run_app(&["--port", "0", "--grace", "2s"], "pause").start();
        let (init, tag) = (running.init, running.tag.clone());
        // Later and later, counted in reads of the process table and not in time.
        for _ in 0..round {
            look::stat(init);
            look::command_line(init);
        }
        running.signal(libc::SIGTERM);
        let outcome = running.finish_within(std::time::Duration::from_secs(5));
        // Before reberth has blocked its signals, TERM simply kills it.
        let ended = outcome.code == Some(143) || outcome.signal == Some(libc::SIGTERM);
        assert!(ended, "{}", outcome.report());
        assert_eq!(look::tagged(&tag), Vec::<i32>::new());
    }
}

/// As `docker stop` finds a container whose app was stopped by hand.
#[test]
fn a_stopped_app_receives_its_stop_signal() {
    both(|mode| {
        let mut running = mode(run_app(&["--grace", "15s"], "block ready until=15 exit=3")).start();
        let app = running.ready();
        let app = running.outside(app);
        running::kill(app, libc::SIGSTOP);
        until("the app is stopped", || look::stat(app).is_some_and(|s| s.state == 'T'));
        running.signal(libc::SIGTERM);
        running.finish_within(std::time::Duration::from_secs(10)).expect_code(3);
    });
}

/// Images stop their apps with WINCH (httpd), USR1 (haproxy) or RTMIN+3 (systemd): while reberth waits, it must handle these itself.
#[test]
fn while_it_waits_a_signal_acts_as_on_any_program_and_the_map_comes_first() {
    const WINCH: i32 = libc::SIGWINCH;
    for (signal, map, code) in [
        (libc::SIGUSR1, "", Some(138)),
        (libc::SIGUSR2, "", Some(140)),
        (libc::SIGALRM, "", Some(142)),
        (libc::SIGPWR, "", Some(158)),
        (37, "", Some(165)),
        (64, "", Some(192)),
        (libc::SIGPIPE, "", None),
        (WINCH, "", None),
        (libc::SIGCONT, "", None),
        (libc::SIGURG, "", None),
        (WINCH, "WINCH=TERM", Some(143)),
        (37, "RTMIN+3=INT", Some(130)),
        (libc::SIGUSR1, "USR1=QUIT", Some(131)),
        (libc::SIGHUP, "HUP=none", None),
        (libc::SIGTERM, "TERM=none", None),
        (libc::SIGTERM, "TERM=WINCH", None),
        (libc::SIGTERM, "TERM=USR1", Some(138)),
    ] {
        let port = place::free_port();
        let _holder = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
        let mut flags = vec!["--port".to_owned(), port.to_string(), "--wait".into(), "forever".into()];
        if !map.is_empty() {
            flags.extend(["--signal-map".into(), map.into()]);
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        // For PID 1 the kernel performs no default actions.
        let launch = run_app(&[&flags[..], &["--log", "debug"]].concat(), "say=started").ignored(&[libc::SIGPIPE]);
        let mut running = launch.first_in_namespace().start();
        running.stderr_until("is busy, waiting");
        running.signal(signal);
        match code {
            Some(code) => {
                let outcome = running.finish_within(Duration::from_secs(5)).expect_code(code);
                assert!(outcome.stdout.is_empty(), "{}", outcome.report());
            }
            None => {
                running.stderr_until("ignored: there is no app yet");
                // With TERM=none only KILL is left.
                running.signal(libc::SIGINT);
                running.finish_within(Duration::from_secs(5)).expect_code(130);
            }
        }
    }
}

#[test]
fn a_signal_mapped_to_term_is_a_stop_in_every_phase() {
    both(|mode| {
        let flags = ["--signal-map", "WINCH=TERM,RTMIN+3=TERM", "--grace", "300ms"];
        let mut running = mode(run_app(&flags, "ignore=15 ready pause")).start();
        running.ready();
        running.signal(libc::SIGWINCH);
        running.finish_within(Duration::from_secs(5)).expect_code(137);
        let flags = ["--signal-map", "RTMIN+3=TERM", "--drain", "30s"];
        let mut running = mode(run_app(&flags, "ready pause")).start();
        running.ready();
        running.signal(37);
        running.stderr_until("SIGRTMIN+3 received: not ready from now on");
        running.signal(37);
        running.finish_within(Duration::from_secs(5)).expect_code(143);
    });
}
