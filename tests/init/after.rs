//! `--after`: what must be available before the app starts.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crate::harness::place::free_port;
use crate::harness::until;
use crate::{both, run_app};

const SOON: Duration = Duration::from_secs(10);

fn there(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}")
}

/// Until then any process may take the app's port, and the phase is `waiting`.
#[test]
fn the_app_starts_when_all_targets_are_healthy() {
    both(|mode| {
        let (database, port) = (free_port(), free_port());
        let launch = run_app(&["--after", "dns:localhost"], "ready pause");
        let file = launch.dir.path().join("there");
        let launch = launch.env("REBERTH_PORT", port.to_string());
        let mut launch = mode(launch);
        let at = launch.words.iter().position(|word| word == "run").unwrap() + 1;
        let words = ["--after".to_owned(), format!("{},file:{}", there(database), file.display())];
        launch.words.splice(at..at, words.map(Into::into));
        let states = launch.dir.path().to_owned();
        let mut running = launch.start();
        running.stderr_until("waiting for up to 60s until healthy (--after)");
        assert!(running.stderr().contains("connection refused") && running.stderr().contains("no such file"));
        assert!(!running.stderr().contains("dns:localhost"), "{}", running.report());
        until("the phase is waiting", || states_in(&states).contains("\"waiting\""));
        drop(TcpListener::bind(("0.0.0.0", port)).expect("nothing of the port is held"));
        let _database = TcpListener::bind(("127.0.0.1", database)).unwrap();
        std::fs::write(&file, "").unwrap();
        running.ready();
        assert!(running.stderr().contains("are healthy after"), "{}", running.report());
        running.signal(15);
        running.finish().expect_code(143);
    });
}

fn states_in(dir: &Path) -> String {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect()
}

#[test]
fn what_is_healthy_already_is_no_wait() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let target = there(listener.local_addr().unwrap().port());
    for flags in [&[][..], &["--after-wait", "0s"], &["--exec"]] {
        let outcome = run_app(&[&["--after", &target, "--after", "file:/"], flags].concat(), "say=once exit=7");
        let outcome = outcome.start().finish().expect_code(7);
        assert_eq!(outcome.stdout, "once\n", "{}", outcome.report());
        assert!(!outcome.stderr.contains("waiting"), "{}", outcome.report());
    }
}

#[test]
fn the_budget_over_each_is_told_with_its_reason() {
    let port = free_port();
    let (target, name) = (there(port), "dns:no-such-name.invalid");
    for wait in ["0s", "300ms"] {
        let flags = ["--after", &target, "--after", name, "--after", "file:/no/such", "--after-wait", wait];
        let outcome = run_app(&flags, "say=never").start().finish_within(SOON).expect_code(124);
        assert_eq!(outcome.stdout, "", "{}", outcome.report());
        for line in [
            format!("--after {target}: not healthy after "),
            format!("nothing listens on 127.0.0.1:{port}"),
            format!("--after {name}: not healthy after"),
            "--after file:/no/such: not healthy after".to_owned(),
            "no such file or directory".to_owned(),
            "--after-wait (REBERTH_AFTER_WAIT)".to_owned(),
        ] {
            assert!(outcome.stderr.contains(&line), "{line}\n{}", outcome.report());
        }
    }
}

/// The reason is not part of a verdict line here, so it includes the status itself.
#[test]
fn a_server_that_answers_is_told_with_its_status() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let target = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let running = run_app(&["--after", &target, "--after-wait", "0s"], "say=never").start();
    let (mut client, _) = listener.accept().unwrap();
    client.write_all(b"HTTP/1.1 503 Sorry\r\nContent-Length: 0\r\n\r\n").unwrap();
    let outcome = running.finish_within(SOON).expect_code(124);
    assert!(outcome.stderr.contains(": status 503: the status is not in 200-399"), "{}", outcome.report());
}

/// Even while a server accepts the connection and never answers, and as PID 1 too.
#[test]
fn a_signal_ends_the_wait_at_once() {
    let frozen = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let target = format!("http://127.0.0.1:{}/", frozen.local_addr().unwrap().port());
    both(|mode| {
        for (signal, map, code) in [(15, "", 143), (2, "", 130), (10, "", 138), (28, "WINCH=TERM", 143)] {
            let flags = ["--after", &target, "--after", "file:/no/such", "--after-wait", "forever"];
            let launch = run_app(&flags, "say=never").env("REBERTH_SIGNAL_MAP", map);
            let launch = launch.env("REBERTH_HEALTH_TIMEOUT", "1h");
            let mut running = mode(launch).start();
            frozen.accept().unwrap();
            running.signal(signal);
            let outcome = running.finish_within(SOON).expect_code(code);
            assert_eq!(outcome.stdout, "", "{}", outcome.report());
            assert!(outcome.stderr.contains("while waiting for what --after names"), "{}", outcome.report());
        }
    });
}

/// 126 and 127 come before any wait, for targets and for ports.
#[test]
fn a_command_that_is_not_there_is_told_before_any_wait() {
    let holder = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    for flags in [&["--after", "file:/no/such"][..], &["--port", &port]] {
        for (command, code) in [("no-such-command", 127), ("/no/such", 127), ("/etc/passwd", 126)] {
            let mut launch = run_app(&[flags, &["--wait", "1h", "--after-wait", "1h"]].concat(), "");
            let at = launch.words.iter().position(|word| word == "--").unwrap();
            launch.words.truncate(at + 1);
            launch.arg(command).start().finish_within(SOON).expect_code(code);
        }
    }
}
