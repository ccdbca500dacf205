//! The app starts while its port is still busy.

use std::net::TcpListener;
use std::time::Duration;

use crate::harness::place::free_port;
use crate::harness::{Launch, Running, until};
use crate::{both, greeted, python, state, stop};

fn waiting(running: &mut Running, port: u16) {
    running.stderr_until(&format!("port {port} is busy, waiting"));
}

fn probe(running: &Running, kind: &str) -> bool {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["healthcheck", "--probe", kind, "--state-dir"]);
    launch.arg(running.dir.path()).start().finish().code == Some(0)
}

#[test]
fn it_waits_in_its_bind_and_serves_when_the_port_is_free() {
    both(|mode| {
        let port = free_port();
        let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let script = format!("say('started', os.environ['PORT'])\ns = S(V4, '0.0.0.0', {port}); say('up'); greet(s)");
        let mut running = mode(python(&["--prewarm", "--port", &port.to_string()], &script)).start();
        running.expect(&format!("started {port}"));
        waiting(&mut running, port);
        // Stopping the old instance after this line costs no downtime.
        running.stderr_until(&format!("the app waits in its bind for port {port}"));
        assert!(state(&running).contains("\"waiting\""));
        if running.init != 1 && !running.stdout().contains("up") {
            assert!(running.stderr().contains("held by"), "{}", running.report());
        }
        drop(holder);
        running.expect("up");
        running.stderr_until("is ready on port");
        until("the phase is ready", || state(&running).contains("\"ready\""));
        assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
        stop(running);
    });
}

#[test]
fn probes_answer_as_for_an_instance_that_waits() {
    let port = free_port();
    let _holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let mut running = python(&["--prewarm", "--port", &port.to_string()], &format!("S(V4, '0.0.0.0', {port})")).start();
    waiting(&mut running, port);
    assert!(probe(&running, "liveness") && !probe(&running, "readiness") && !probe(&running, "startup"));
    running.signal(15);
    running.finish().expect_code(143);
}

#[test]
fn a_wait_that_times_out_stops_the_app_and_is_124() {
    both(|mode| {
        let port = free_port();
        let _holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let script = format!(
            "def term(*a):\n say('term'); os._exit(7)\nsignal.signal(signal.SIGTERM, term)\nsay('started'); S(V4, '0.0.0.0', {port})"
        );
        let running = mode(python(&["--prewarm", "--port", &port.to_string(), "--wait", "700ms"], &script)).start();
        let outcome = running.finish_within(Duration::from_secs(10)).expect_code(124);
        assert!(outcome.stdout.contains("term"), "its handler runs though it waits in bind: {}", outcome.report());
        for part in ["is held by", "--wait"] {
            assert!(outcome.stderr.contains(part), "{part}: {}", outcome.report());
        }
        // An app that ignores TERM is killed after the grace.
        let script = format!("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nS(V4, '0.0.0.0', {port})\nsignal.pause()");
        let flags = ["--prewarm", "--port", &port.to_string(), "--wait", "300ms", "--grace", "300ms"];
        mode(python(&flags, &script)).start().finish_within(Duration::from_secs(10)).expect_code(124);
    });
}

#[test]
fn term_reaches_an_app_that_waits() {
    both(|mode| {
        let port = free_port();
        let _holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let script = format!(
            "def term(*a):\n say('term'); os._exit(9)\nsignal.signal(signal.SIGTERM, term)\nsay('started'); S(V4, '0.0.0.0', {port})"
        );
        let mut running = mode(python(&["--prewarm", "--port", &port.to_string()], &script)).start();
        running.expect("started");
        waiting(&mut running, port);
        running.signal(15);
        running.expect("term");
        running.finish().expect_code(9);
    });
}

#[test]
fn an_app_that_exits_while_it_waits_exits_as_usual() {
    let port = free_port();
    let _holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let script = format!(
        "threading.Thread(target=lambda: S(V4, '0.0.0.0', {port}), daemon=True).start()\nsay('started'); sys.stdin.readline(); os._exit(5)"
    );
    let mut running = python(&["--prewarm", "--port", &port.to_string()], &script).start();
    running.expect("started");
    waiting(&mut running, port);
    running.write("\n");
    running.finish().expect_code(5);
}

/// The signal aborts the call, which is then repeated: one socket is put in place, not two.
#[test]
fn a_signal_does_not_lose_the_bind() {
    let port = free_port();
    let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let script = format!(
        "signal.signal(signal.SIGUSR1, lambda *a: None); signal.siginterrupt(signal.SIGUSR1, False)\nsay('ready', os.getpid())\n\
         s = S(V4, '0.0.0.0', {port}); say('up', len(os.listdir('/proc/self/fd')))\ngreet(s)"
    );
    let mut running = python(&["--prewarm", "--port", &port.to_string()], &script).start();
    let app: i32 = running.line_after("ready ").parse().unwrap();
    waiting(&mut running, port);
    for _ in 0..20 {
        until("it waits in its bind", || {
            let call = std::fs::read_to_string(format!("/proc/{app}/syscall")).unwrap_or_default();
            call.starts_with(&format!("{} ", libc::SYS_bind))
        });
        crate::harness::running::kill(app, 10);
    }
    drop(holder);
    // Three standard ones, the socket, and the one that reads the directory.
    running.expect("up 5");
    assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
    stop(running);
}

#[test]
fn a_hard_coded_port_follows_a_fallback_after_the_wait() {
    let port = free_port();
    let _holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let flags = ["--prewarm", "--port", &port.to_string(), "--wait", "300ms", "--fallback", "next"];
    let script = format!("s = S(V4, '0.0.0.0', {port}); say(s.getsockname()[1]); greet(s)");
    let mut running = python(&flags, &script).start();
    let taken: u16 = running.line().parse().unwrap();
    assert_ne!(taken, port);
    running.stderr_until(&format!("is ready on port {taken}"));
    until("the state has it", || state(&running).contains(&taken.to_string()));
    stop(running);
}

#[test]
fn of_several_ports_the_busy_one_is_waited_for() {
    let (first, second) = (free_port(), free_port());
    let holder = TcpListener::bind(("0.0.0.0", second)).unwrap();
    let script = format!("a = S(V4, '0.0.0.0', {first}); b = S(V4, '0.0.0.0', {second}); say('up'); greet(a)");
    let mut running = python(&["--prewarm", "--port", &format!("{first},{second}")], &script).start();
    waiting(&mut running, second);
    drop(holder);
    running.expect("up");
    assert_eq!(greeted("127.0.0.1", first).as_deref(), Some("127.0.0.1"));
    stop(running);
}

/// A port that is free is claimed before the launch, as usual: then the app never waits.
#[test]
fn a_free_port_is_no_wait_and_start_timeout_counts_from_the_claim() {
    let port = free_port();
    let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let flags = ["--prewarm", "--port", &port.to_string(), "--start-timeout", "1500ms"];
    let script = format!("say('started'); s = S(V4, '0.0.0.0', {port}); say('up'); greet(s)");
    let mut running = python(&flags, &script).start();
    running.expect("started");
    waiting(&mut running, port);
    assert!(!crate::harness::wait::holds_within(Duration::from_millis(2000), || running.has_ended()));
    drop(holder);
    running.expect("up");
    stop(running);
    let mut running = python(&flags, &script).start();
    running.expect("started");
    running.expect("up");
    assert!(!running.stderr().contains("waiting"), "{}", running.report());
    stop(running);
}

/// A process that takes the port in that very instant is waited for like its previous holder.
#[test]
fn a_holder_that_is_replaced_is_waited_for() {
    let port = free_port();
    let mut holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let script = format!("s = S(V4, '0.0.0.0', {port}); say('up'); greet(s)");
    let mut running = python(&["--prewarm", "--port", &port.to_string()], &script).start();
    waiting(&mut running, port);
    for _ in 0..50 {
        drop(holder);
        match TcpListener::bind(("0.0.0.0", port)) {
            Ok(again) => holder = again,
            // The other process was faster.
            Err(_) => break,
        }
    }
    until("it is up, or another has the port", || {
        running.stdout().contains("up") || TcpListener::bind(("0.0.0.0", port)).is_err()
    });
    running.signal(15);
    running.finish().expect_code(143);
}

/// Its bind cannot be read, and it waits all the same: once the port is free, it is released for the app.
#[test]
fn an_app_that_cannot_be_read_waits_too() {
    let port = free_port();
    let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let script = format!(
        "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\nsay('started'); s = S(V4, '0.0.0.0', {port}); say('up'); greet(s)"
    );
    let mut launch = python(&["--prewarm", "--port", &port.to_string()], &script);
    if nix::unistd::geteuid().is_root() {
        launch = launch.uid(65534);
        launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
    }
    let mut running = launch.start();
    running.expect("started");
    waiting(&mut running, port);
    drop(holder);
    running.expect("up");
    running.stderr_until("cannot be read");
    running.stderr_until("is ready on port");
    assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
    stop(running);
}
