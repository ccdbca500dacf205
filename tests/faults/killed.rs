//! `reberth` itself killed, in every phase and at every moment of its start: no process stays behind, what it wrote is not trusted, and the
//! next start works as if nothing had happened.

use crate::harness::launch::Stdio;
use crate::harness::place::TempDir;
use crate::harness::{Launch, Running, look, place, until};
use crate::{MODES, app, healthcheck, holder, mounted, rounds, run_in, state, stop, under, until_phase};

pub const PHASES: [&str; 5] = ["waiting", "starting", "ready", "draining", "exited"];

/// A `run` in that phase, and the holder of the port if that is not the app. What TERM does not stop is a child that the app leaves behind.
pub fn reach(
    phase: &str,
    dir: &TempDir,
    port: u16,
    grace: &str,
    start: &dyn Fn(Launch) -> Running,
) -> (Running, Option<Running>) {
    let held = (phase == "waiting").then(|| holder(port));
    let steps = match phase {
        "waiting" | "starting" => "ready pause".to_owned(),
        "ready" | "draining" => format!("listen=0.0.0.0:{port} ready pause"),
        _ => "ready block fork ready=left: pause end line exit=7".to_owned(),
    };
    let drain = if phase == "draining" { "1h" } else { "0s" };
    let flags = ["--port", &port.to_string(), "--drain", drain, "--grace", grace];
    let mut running = start(run_in(dir.path(), &flags, app::words(&steps)).stdin(Stdio::Pipe));
    if phase != "waiting" {
        running.ready();
    }
    match phase {
        "draining" => {
            until_phase(dir.path(), "ready");
            running.signal(libc::SIGTERM);
        }
        "exited" => {
            running.ready_as("left:");
            running.write("\n");
        }
        _ => {}
    }
    until_phase(dir.path(), phase);
    (running, held)
}

/// The port can be claimed, a probe trusts no state, and a next `run` over the same directory starts, is trusted and exits.
fn begins_anew(dir: &TempDir, port: u16, about: &str) {
    // It exits with an error if the port is still held.
    let impostor = holder(port);
    for probe in ["readiness", "liveness", "startup"] {
        // A process does answer there; only the state shows that it is not the app.
        let (code, line) = healthcheck(dir, &["--probe", probe, "tcp"]);
        assert_eq!(code, 1, "{about}: {line}");
    }
    drop(impostor);
    let steps = app::words(&format!("listen=0.0.0.0:{port} ready pause"));
    let mut next = run_in(dir.path(), &["--port", &port.to_string(), "--wait", "0s"], steps).start();
    next.ready();
    until(&format!("{about}: the next one is believed"), || healthcheck(dir, &["tcp"]).0 == 0);
    let (code, line) = healthcheck(dir, &["tcp"]);
    assert!(code == 0 && line.contains(&port.to_string()), "{about}: {line}");
    stop(next);
}

#[test]
fn killed_in_any_phase_it_leaves_no_app_and_no_trusted_state() {
    let count = rounds(2);
    for phase in PHASES {
        for _ in 0..count {
            // Off PID 1 the kernel kills only the app together with reberth; processes that the app had left behind have no reberth any
            // more.
            let modes = if phase == "exited" { &MODES[..1] } else { &MODES };
            for (name, mode) in modes {
                let (dir, port) = (TempDir::new(), place::free_port());
                let (mut running, held) = reach(phase, &dir, port, "1h", &|launch| mode(launch).start());
                let tag = running.tag.clone();
                running.signal(libc::SIGKILL);
                let about = format!("killed while {phase}, as {name}");
                let _ended = running.finish();
                until(&format!("{about}: nobody is left"), || look::tagged(&tag).is_empty());
                assert!(!state(dir.path()).is_empty(), "{about}: no stale state, so nothing is tested");
                drop(held);
                begins_anew(&dir, port, &about);
            }
        }
    }
    println!("killed in {PHASES:?}: {count} rounds each, no app left, no stale state believed, every next start clean");
}

#[test]
fn killed_at_any_moment_of_the_start_it_leaves_no_app() {
    let count = rounds(40);
    let (dir, port) = (TempDir::new(), place::free_port());
    let (mut stale, mut launched, mut round) = (0, 0, 0);
    // And further rounds, on a machine so busy that no run got far enough to leave a state behind.
    while round < count || stale == 0 {
        assert!(round < count + 1_000, "no round left a state behind, so nothing was tested");
        let words = app::words(&format!("listen=0.0.0.0:{port} ready pause"));
        let mut running = run_in(dir.path(), &["--port", &port.to_string(), "--wait", "0s"], words).start();
        let tag = running.tag.clone();
        // Later and later, counted in reads of the process table and not in time.
        for _ in 0..(round % 40) * 5 * (1 + round / count) {
            look::stat(running.pid);
        }
        running.signal(libc::SIGKILL);
        launched += usize::from(!running.finish().stdout.is_empty());
        until("nobody is left", || look::tagged(&tag).is_empty());
        let (code, line) = healthcheck(&dir, &["tcp"]);
        assert_eq!(code, 1, "round {round}: {line}");
        stale += usize::from(line.contains("gone"));
        round += 1;
    }
    begins_anew(&dir, port, "after all of them");
    println!(
        "killed at any moment of the start: {round} rounds, {launched} with an app already up, {stale} probes found a dead writer"
    );
}

#[test]
fn the_same_pid_in_the_same_place_starts_over_what_is_left() {
    // Two that are PID 1, one after the other, in one mount namespace: the second finds the first one's file under its own name, and next
    // to it what an interrupted write would have left.
    let count = rounds(3);
    for _ in 0..count {
        let (dir, port) = (TempDir::new(), place::free_port().to_string());
        let script = "i() { unshare --pid --fork --kill-child sh -c 'mount -t proc proc /proc; exec \"$@\"' sh \"$@\"; }; \
                      i \"$@\" || echo first $?; for f in \"$REBERTH_STATE_DIR\"/*; do cp \"$f\" \"$f.new\"; done; i \"$@\"";
        let inner = run_in(dir.path(), &["--port", &port], app::words("ready line exit=5"));
        let launch = under(["sh", "-c", script, "sh"], inner).stdin(Stdio::Pipe);
        let mut running = mounted(&[], "true", launch).start();
        running.ready();
        let inits = || look::children(running.pid).into_iter().flat_map(look::children).collect::<Vec<_>>();
        let [first] = inits()[..] else { panic!("not one PID 1") };
        until_phase(dir.path(), "starting");
        crate::harness::running::kill(first, libc::SIGKILL);
        running.line_after("first ");
        running.ready();
        // The first one's files are now the second one's.
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        until("there is one file, of a launched app", || {
            files() == 1 && !state(dir.path()).contains("\"app_pid\":null")
        });
        running.write("\n");
        running.finish().expect_code(5);
        assert_eq!(state(dir.path()), "");
    }
    println!(
        "the same pid in the same place: {count} rounds, each start over the state and the half-written one of a killed one"
    );
}
