//! `--wait` and `--interval`: retries until healthy or until the time limit.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::harness::place::free_port;
use crate::harness::wait::holds_within;
use crate::server::{Server, answer, hostile, pace};
use crate::{check, healthcheck};

#[test]
fn wait_tries_until_the_server_is_healthy() {
    let count = AtomicU32::new(0);
    let server = Server::new(move |_| {
        let status = if count.fetch_add(1, Ordering::Relaxed) < 3 { 503 } else { 200 };
        answer(status, "", "")
    });
    let said = check(&["--wait", "10s", "--interval", "20ms", &server.url("/")]).expect(true, &["status 200"]);
    assert_eq!(server.heads().len(), 4);
    assert!(said.took >= Duration::from_millis(60) && said.took < Duration::from_secs(5), "{said:?}");
}

#[test]
fn wait_tries_until_a_server_listens() {
    let port = free_port();
    let mut running = healthcheck()
        .args(["--wait".into(), "10s".into(), "--interval".into(), "5ms".into(), format!("tcp://127.0.0.1:{port}")])
        .start();
    assert!(!running.has_ended());
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    running.finish().expect_code(0);
}

#[test]
fn wait_bounds_all_tries_together() {
    let port = free_port();
    let target = format!("tcp://127.0.0.1:{port}");
    let wait = Duration::from_millis(500);
    for interval in ["20ms", "250ms", "30s"] {
        let said =
            check(&["--wait", "500ms", "--interval", interval, &target]).expect(false, &["refused"]).within(wait);
        assert!(said.took >= wait / 2, "{interval}: {said:?}");
    }
}

#[test]
fn the_first_try_has_its_full_timeout_and_no_later_one_outlives_the_whole() {
    let silent = || hostile(|mut stream| while pace(&mut stream, Duration::from_secs(20)) {});
    let said = check(&["--wait", "100ms", "--timeout", "500ms", &silent()])
        .expect(false, &["500ms"])
        .within(Duration::from_millis(500));
    assert!(said.took >= Duration::from_millis(500), "{said:?}");
    check(&["--wait", "700ms", "--timeout", "500ms", "--interval", "10ms", &silent()])
        .expect(false, &["timed out"])
        .within(Duration::from_millis(700));
}

#[test]
fn a_signal_ends_the_wait() {
    let target = format!("tcp://127.0.0.1:{}", free_port());
    let mut running = healthcheck().args(["--wait", "1h", "--interval", "1h", &target]).start();
    crate::harness::until("it sleeps", || {
        crate::harness::look::stat(running.init).is_some_and(|stat| stat.state == 'S')
    });
    running.signal(libc::SIGTERM);
    assert_eq!(running.finish().signal, Some(libc::SIGTERM));
}

/// As PID 1 of an init container: the kernel drops every signal without a handler, and the image decides which one stops it (nginx: QUIT,
/// haproxy: USR1, systemd: RTMIN+3).
#[test]
fn a_stop_ends_the_wait_for_pid_1_too() {
    for signal in [libc::SIGTERM, libc::SIGQUIT, libc::SIGUSR1, libc::SIGPWR, 34, 37, 64] {
        let (tell, told) = std::sync::mpsc::channel();
        let server = Server::new(move |_| {
            let _ = tell.send(());
            answer(503, "", "")
        });
        let launch = healthcheck().args(["--wait", "60s", "--interval", "30s", &server.url("/")]);
        let mut running = launch.first_in_namespace().start();
        told.recv().unwrap();
        // As anywhere else, these have no effect.
        running.signal(libc::SIGWINCH);
        running.signal(libc::SIGCHLD);
        running.signal(libc::SIGPIPE);
        assert!(!holds_within(Duration::from_millis(50), || running.has_ended()), "{}", running.report());
        running.signal(signal);
        running.finish_within(Duration::from_secs(10)).expect_code(1);
    }
}
