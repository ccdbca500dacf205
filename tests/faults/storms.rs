//! Thousands of signals, outputs and parents that vanish at any moment, and an app that forks endlessly.

use std::time::{Duration, Instant};

use crate::harness::launch::Stdio;
use crate::harness::place::{self, TempDir};
use crate::harness::running::read_to_end;
use crate::harness::{Launch, Running, look, until};
use crate::killed::{PHASES, reach};
use crate::{MODES, alone, rounds, run_app, stop};

/// Whether a signal is pending for the process; false for a process that has exited.
fn has_pending(pid: i32, signal: i32) -> bool {
    let mask = look::status(pid, "ShdPnd").filter(|_| look::alive(pid)).unwrap_or_default();
    u64::from_str_radix(&mask, 16).unwrap_or(0) & 1 << (signal - 1) != 0
}

#[test]
fn a_thousand_terms_in_any_phase_are_one_end() {
    const STORM: usize = 1000;
    let count = rounds(1);
    for phase in PHASES {
        for (name, mode) in MODES {
            for _ in 0..count {
                let (dir, port) = (TempDir::new(), place::free_port());
                let (running, _held) = reach(phase, &dir, port, "300ms", &|launch| mode(launch).start());
                let tag = running.tag.clone();
                for round in 0..STORM {
                    // The kernel merges pending signals of one kind.
                    until("the last burst is heard", || round % 100 != 0 || !has_pending(running.init, libc::SIGTERM));
                    // It may have exited on an earlier signal; its pid is not reused before it is reaped.
                    // SAFETY: kill(2) takes two numbers and touches no memory.
                    unsafe { libc::kill(running.init, libc::SIGTERM) };
                }
                let began = Instant::now();
                let outcome = running.finish_within(Duration::from_secs(10));
                assert!(began.elapsed() < Duration::from_secs(5), "{phase}, {name}: {}", outcome.report());
                outcome.expect_code(if phase == "exited" { 7 } else { 143 });
                until("nobody is left", || look::tagged(&tag).is_empty());
            }
        }
    }
    println!(
        "{STORM} TERMs in {PHASES:?}, as PID 1 and as a child: {count} rounds each, every one ended in time with its code"
    );
}

#[test]
fn a_storm_of_stops_and_continues_leaves_every_process_running() {
    const STORM: usize = 500;
    let (count, mut lost) = (rounds(2), 0);
    for (name, mode) in MODES {
        for _ in 0..count {
            let mut running = mode(run_app(&[], "ready pause")).start();
            let app = running.ready();
            let app = running.outside(app);
            for round in 0..STORM {
                running.signal([libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU][round % 3]);
                running.signal(libc::SIGCONT);
            }
            // Between the check for a CONT and reberth's own stop there is a moment in which the kernel discards a CONT. A later CONT
            // always wakes both.
            let runs = |pid| look::stat(pid).is_some_and(|stat| stat.state == 'S');
            until(&format!("{name}: both run"), || {
                if look::stat(running.init).is_some_and(|stat| stat.state == 'T') {
                    lost += 1;
                    running.signal(libc::SIGCONT);
                }
                !has_pending(running.init, libc::SIGCONT) && runs(running.init) && runs(app)
            });
            stop(running);
        }
    }
    println!(
        "{STORM} stops, each with its CONT, as PID 1 and as a child: {count} rounds each, all ran on and heard TERM; \
         the very last CONT came in the moment of the stop {lost} times"
    );
}

#[test]
fn outputs_that_vanish_at_any_moment_do_no_harm() {
    let count = rounds(40);
    for (_, mode) in MODES {
        for round in 0..count / 2 {
            let (reader, writer) = std::io::pipe().unwrap();
            let launch = run_app(&["--port", "0", "--log", "trace", "--drain", "1ms"], "pause");
            let state = launch.dir.path().to_owned();
            let launch =
                launch.stdout(Stdio::Given(writer.try_clone().unwrap().into())).stderr(Stdio::Given(writer.into()));
            let running = mode(launch).start();
            // Later and later, counted in reads of the process table and not in time.
            for _ in 0..(round % 20) * 10 {
                look::stat(running.init);
            }
            drop(reader);
            crate::until_phase(&state, "starting");
            stop(running);
        }
    }
    println!(
        "outputs that vanish: {count} rounds, later and later, as PID 1 and as a child, each ended by TERM with 143"
    );
}

#[test]
fn a_parent_that_dies_in_any_phase_leaves_no_process() {
    let count = rounds(2);
    for phase in PHASES {
        for _ in 0..count {
            let (dir, port) = (TempDir::new(), place::free_port());
            let start = |mut inner: Launch| -> Running {
                let at = inner.words.iter().position(|word| word == "--").unwrap();
                inner.words.splice(at..at, ["--parent-death-signal".into(), "TERM".into()]);
                // A shell's background child has no standard input by default.
                let script = "exec 3<&0; \"$@\" <&3 3<&- & echo child $!; wait";
                let mut running = crate::under(["sh", "-c", script, "sh"], inner).start();
                running.init = running.line_after("child ").parse().unwrap();
                running
            };
            let (running, _held) = reach(phase, &dir, port, "300ms", &start);
            let (tag, reberth) = (running.tag.clone(), running.init);
            crate::harness::running::kill(running.pid, libc::SIGKILL);
            let began = Instant::now();
            until(&format!("{phase}: nobody is left"), || look::tagged(&tag).is_empty() && !look::alive(reberth));
            assert!(began.elapsed() < Duration::from_secs(10), "{phase}: {:?}", began.elapsed());
            until(&format!("{phase}: the state is gone"), || crate::state(dir.path()).is_empty());
        }
    }
    println!("the parent killed in {PHASES:?}: {count} rounds each, nobody left and no state");
}

#[test]
fn an_app_that_forks_endlessly_is_stopped_with_all_it_forked() {
    let count = rounds(2);
    let mut longest = Duration::ZERO;
    for (name, mode) in MODES {
        // The chain starts on TERM and ignores it; the app exits immediately, or not at all.
        for (end, code) in [("exit=7", 7), ("pause", 137)] {
            for _ in 0..count {
                let steps = format!("block ready until=15 fork forks=15 end {end}");
                // The processes of the chain exit before they can be found in /proc; the pipe reaches its end once all of them have exited.
                let (reader, writer) = std::io::pipe().unwrap();
                let mut running = mode(run_app(&["--grace", "300ms"], &steps).descriptor(3, writer)).start();
                running.ready();
                let began = Instant::now();
                running.signal(libc::SIGTERM);
                let outcome = running.finish_within(Duration::from_secs(10)).expect_code(code);
                let took = began.elapsed();
                longest = longest.max(took);
                assert!(took > Duration::from_millis(290), "{name}: {took:?} {}", outcome.report());
                read_to_end(reader.into());
                assert!(began.elapsed() < Duration::from_secs(10), "{name}, {end}: the chain ended by itself");
            }
        }
    }
    println!(
        "an app that forks without end: {count} rounds each of two apps in two modes, all gone within {longest:?} of TERM"
    );
}

/// Control: without reberth the chain never ends.
#[test]
fn without_an_init_the_forks_continue() {
    let (reader, writer) = std::io::pipe().unwrap();
    let began = Instant::now();
    alone("fork forks=1 end exit=7").descriptor(3, writer).start().finish().expect_code(7);
    read_to_end(reader.into());
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}
