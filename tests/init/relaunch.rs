//! An app that lost its port to another process between claim and bind.

use std::net::TcpListener;
use std::time::Duration;

use crate::harness::launch::Stdio;
use crate::harness::{Launch, Running, look, place, until};
use crate::{both, run_app};

/// Starts an app that binds `port` when the test says so, and exits with code 98 if it cannot.
fn start(port: u16, relaunches: &str) -> Running {
    start_with(port, &["--relaunch", relaunches], "ready")
}

/// The same with these flags, and with these steps before that.
fn start_with(port: u16, flags: &[&str], steps: &str) -> Running {
    let steps = format!("{steps} line listen=0.0.0.0:{port} pause");
    run_app(&[&["--port", &port.to_string()], flags].concat(), &steps).stdin(Stdio::Pipe).start()
}

/// In a separate network namespace: a failed bind is identified by its user alone, and other tests run as the same user.
fn alone(mut launch: Launch) -> Launch {
    let words = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"];
    launch.words = words.into_iter().map(Into::into).chain(launch.words).collect();
    launch
}

#[test]
fn an_app_that_lost_its_port_is_launched_again() {
    let port = place::free_port();
    let mut running = start(port, "2");
    running.ready();
    let thief = TcpListener::bind(("0.0.0.0", port)).unwrap();
    running.write("\n");
    running.line_after("cannot listen");
    running.stderr_until("relaunch");
    drop(thief);
    running.ready();
    running.write("\n");
    running.expect("listening");
    running.signal(15);
    running.finish().expect_code(143);
}

#[test]
fn relaunches_are_limited_and_then_the_apps_code_counts() {
    let port = place::free_port();
    let mut running = start(port, "2");
    for launch in 0..3 {
        running.ready();
        let thief = TcpListener::bind(("0.0.0.0", port)).unwrap();
        running.write("\n");
        running.line_after("cannot listen");
        if launch < 2 {
            let lines = launch + 1;
            running.output_until("a log line for the relaunch", |_, err| {
                err.lines().filter(|l| l.to_lowercase().contains("relaunch") || l.contains("launch")).count() >= lines
            });
            drop(thief);
        } else {
            // Still held, and no relaunch is left.
            running.finish_within(Duration::from_secs(5)).expect_code(98);
            return;
        }
    }
}

#[test]
fn with_no_relaunch_left_the_code_is_the_apps() {
    let port = place::free_port();
    let mut running = start(port, "0");
    running.ready();
    let _thief = TcpListener::bind(("0.0.0.0", port)).unwrap();
    running.write("\n");
    running.finish_within(Duration::from_secs(5)).expect_code(98);
}

#[test]
fn a_thief_that_has_exited_is_remembered() {
    let port = place::free_port();
    // In a separate network namespace: a failed bind is identified by its user alone, and other tests run as the same user.
    let steps = format!("ready line try=0.0.0.0:{port} line exit=98");
    let mut running = alone(run_app(&["--port", &port.to_string(), "--relaunch", "1", "--log", "debug"], &steps))
        .stdin(Stdio::Pipe)
        .start();
    let app = running.ready();
    let inside = running.outside(app);
    // The thief comes and goes in the app's network namespace, and is there while the app tries to bind.
    let script = "import socket, sys\ns = socket.create_server(('0.0.0.0', int(sys.argv[1])))\nprint('there', flush=True)\n\
                  sys.stdin.readline()";
    let thief = Launch::new("nsenter")
        .args(["-t", &inside.to_string(), "--user", "--net", "--preserve-credentials", "python3", "-c", script])
        .arg(port.to_string());
    let mut thief = thief.stdin(Stdio::Pipe).start();
    thief.line_after("there");
    running.write("\n");
    running.line_after("taken");
    // The kernel reports the failed bind a grace period later: a thief that has exited by then leaves no evidence.
    running.stderr_until("a bind failed while another process held one of the ports");
    thief.write("\n");
    thief.finish().expect_code(0);
    running.write("\n");
    running.ready();
    running.write("\n");
    running.expect("free");
    running.write("\n");
    running.finish_within(Duration::from_secs(5)).expect_code(98);
}

/// The app checks whether its port is free, continues, and exits for another reason: no process has taken its port.
#[test]
fn an_app_that_only_checked_its_port_is_not_launched_again() {
    for checks in
        ["try=0.0.0.0:PORT", "try=0.0.0.0:PORT try=127.0.0.1:PORT try=[::]:PORT", "try=127.0.0.1:0 try=0.0.0.0:PORT"]
    {
        let port = place::free_port();
        let steps = format!("say=once {} ready line exit=1", checks.replace("PORT", &port.to_string()));
        let mut running = alone(run_app(&["--port", &port.to_string()], &steps)).stdin(Stdio::Pipe).start();
        running.ready();
        running.write("\n");
        let outcome = running.finish().expect_code(1);
        assert_eq!(outcome.stdout.matches("once").count(), 1, "{}", outcome.report());
    }
}

#[test]
fn an_app_that_exits_for_another_reason_is_not_launched_again() {
    let port = place::free_port();
    let outcome = run_app(&["--port", &port.to_string()], "say=once exit=98").start().finish().expect_code(98);
    assert_eq!(outcome.stdout, "once\n", "{}", outcome.report());
}

/// Its own socket vanishes with it before reberth has seen it listen: that is not the work of another process.
#[test]
fn an_app_that_dies_the_moment_it_listens_is_not_launched_again() {
    for round in 0..10 {
        let port = place::free_port();
        let steps = format!("say=once listen=0.0.0.0:{port} exit=9");
        let outcome = alone(run_app(&["--port", &port.to_string()], &steps)).start().finish().expect_code(9);
        assert_eq!(outcome.stdout, "once\nlistening\n", "round {round}: {}", outcome.report());
    }
}

#[test]
fn an_app_that_listened_before_is_not_launched_again() {
    let port = place::free_port();
    // Each has its own address, so that both can listen; a wildcard claim would find the port held.
    let steps = format!("ready line listen=127.0.0.1:{port} line exit=98");
    let mut running = run_app(&["--port", &port.to_string()], &steps).stdin(Stdio::Pipe).start();
    running.ready();
    running.write("\n");
    running.expect("listening");
    until("reberth has seen it listen", || running.stderr().contains("127.0.0.1"));
    let _other = TcpListener::bind(("127.0.0.2", port)).unwrap();
    running.write("\n");
    running.finish_within(Duration::from_secs(5)).expect_code(98);
}

#[test]
fn after_term_an_app_is_not_launched_again() {
    let port = place::free_port();
    let steps = format!("block ready until=15 listen=0.0.0.0:{port}");
    let mut running = run_app(&["--port", &port.to_string()], &steps).start();
    running.ready();
    let _thief = TcpListener::bind(("0.0.0.0", port)).unwrap();
    running.signal(15);
    running.finish_within(Duration::from_secs(5)).expect_code(98);
}

/// Images stop their apps with other signals than TERM, and at this moment only reberth can handle them.
#[test]
fn a_stop_while_waiting_for_a_relaunch_is_its_signal() {
    for (signal, map, code) in [
        (libc::SIGTERM, "none", 143),
        (libc::SIGUSR1, "none", 138),
        (37, "none", 165),
        (libc::SIGWINCH, "WINCH=INT", 130),
    ] {
        let port = place::free_port();
        let mut running = start_with(port, &["--relaunch", "3", "--signal-map", map], "ready");
        running.ready();
        let _thief = TcpListener::bind(("0.0.0.0", port)).unwrap();
        running.write("\n");
        running.stderr_until("relaunch");
        running.signal(signal);
        running.finish_within(Duration::from_secs(5)).expect_code(code);
    }
}

#[test]
fn with_handover_an_app_is_not_launched_again() {
    let port = place::free_port();
    let outcome = run_app(&["--port", &port.to_string(), "--handover", "on"], "say=once exit=98")
        .start()
        .finish()
        .expect_code(98);
    assert_eq!(outcome.stdout, "once\n", "{}", outcome.report());
}

#[test]
fn a_stop_while_the_rest_of_the_tree_exits_prevents_the_relaunch() {
    // The app has lost its port and left a child that exits slowly; the container is stopped just then.
    for (signal, map, code) in [
        (libc::SIGTERM, "none", Some(143)),
        (libc::SIGUSR1, "none", Some(138)),
        (37, "none", Some(165)),
        (libc::SIGWINCH, "WINCH=QUIT", Some(131)),
        (libc::SIGWINCH, "none", None),
        (libc::SIGUSR1, "USR1=none", None),
    ] {
        let port = place::free_port();
        let flags = ["--signal-map", map, "--grace", "1s"];
        let mut running = start_with(port, &flags, "ignore=15 fork ready=left: pause end line ready");
        let left = running.ready_as("left:");
        running.write("\n");
        let app = running.ready();
        let thief = TcpListener::bind(("0.0.0.0", port)).unwrap();
        running.write("\n");
        until("the app is gone", || look::stat(app).is_none());
        running.signal(signal);
        if let Some(code) = code {
            running.finish_within(Duration::from_secs(5)).expect_code(code);
            continue;
        }
        // The signal has no effect, so the app is launched again.
        running.stderr_until("launching again");
        drop(thief);
        assert_ne!(running.ready_as("left:"), left);
    }
}

#[test]
fn every_launch_has_the_same_surroundings() {
    both(|mode| {
        let port = place::free_port();
        let place = place::TempDir::new();
        let steps = format!("cwd environ status fds var=PORT ready line listen=0.0.0.0:{port} pause");
        let launch = run_app(&["--port", &port.to_string()], &steps).cwd(place.path());
        let mut running = mode(launch.stdin(Stdio::Pipe).blocked(&[10]).ignored(&[13])).start();
        running.ready();
        let first = running.stdout();
        let thief = TcpListener::bind(("0.0.0.0", port)).unwrap();
        running.write("\n");
        running.line_after("cannot listen");
        running.stderr_until("relaunch");
        drop(thief);
        running.ready();
        let both = running.stdout();
        let second = both[first.len()..].split_once('\n').unwrap().1;
        let without_pid = |text: &str| text.lines().filter(|l| !l.starts_with("ready")).collect::<Vec<_>>().join("\n");
        assert_eq!(without_pid(&first), without_pid(second), "{}", running.report());
        running.write("\n");
        running.expect("listening");
        running.signal(15);
        running.finish().expect_code(143);
    });
}
