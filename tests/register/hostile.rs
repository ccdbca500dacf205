//! Registries that are down, slow, frozen or lie: the app does not notice, and the log has one line.

use std::time::{Duration, Instant};

use crate::gateway::{Gateway, Manner};
use crate::harness::{Running, place, until};
use crate::{AWAY, BACK, app, beside, both, count, serves};

fn started(mode: &dyn Fn(crate::Launch) -> crate::Launch, url: &str) -> (Running, u16) {
    let port = place::free_port();
    let mut running = mode(app(&["--port", &port.to_string(), "--register", url], &[])).start();
    running.ready();
    running.stderr_until("is ready");
    (running, port)
}

/// The app serves, and exits with its own code soon after it is sent TERM.
fn not_noticed(mut running: Running, port: u16) -> String {
    assert!(serves(port), "{}", running.report());
    let told = Instant::now();
    running.signal(15);
    let outcome = running.finish().expect_code(143);
    let took = told.elapsed();
    assert!(took < Duration::from_millis(1700), "{took:?}: {}", outcome.report());
    outcome.stderr
}

#[test]
fn a_registry_that_is_down_costs_one_line_and_its_return_another() {
    both(|mode| {
        let port_of_registry = place::free_port();
        let (mut running, port) = started(mode, &format!("etcd://127.0.0.1:{port_of_registry}/p"));
        running.stderr_until(AWAY);
        let one = beside(&running);
        // Three more tries meanwhile: another line would have come with one of them.
        std::net::TcpListener::bind(("127.0.0.1", port_of_registry))
            .map(|listener| {
                for _ in 0..3 {
                    drop(listener.accept().unwrap());
                }
            })
            .unwrap();
        assert_eq!(beside(&running), one);
        let said = not_noticed(running, port);
        assert_eq!((count(&said, AWAY), count(&said, BACK)), (1, 0), "{said}");
    });
}

#[test]
fn a_registry_that_returns_gets_the_entry_again() {
    let gateway = Gateway::new(Manner::Saying(Vec::new()));
    let (mut running, port) = started(&|launch| launch, &gateway.url());
    running.stderr_until(AWAY);
    until("it was asked often", || gateway.count("lease/grant") > 4);
    gateway.behave(Manner::Good);
    running.stderr_until(BACK);
    let said = not_noticed(running, port);
    assert_eq!((count(&said, AWAY), count(&said, BACK)), (1, 1), "{said}");
    assert_eq!((gateway.count("kv/put"), gateway.count("lease/revoke")), (1, 1));
}

#[test]
fn a_frozen_registry_prevents_no_exit() {
    both(|mode| {
        let gateway = Gateway::new(Manner::Good);
        let (running, port) = started(mode, &gateway.url());
        until("it is announced", || gateway.count("kv/put") == 1);
        gateway.behave(Manner::Frozen);
        let said = not_noticed(running, port);
        assert!(said.contains("has not answered within 1s at exit"), "{said}");
        // Frozen from the start.
        let (mut running, port) = started(mode, &gateway.url());
        running.stderr_until("no answer within");
        let said = not_noticed(running, port);
        assert_eq!(count(&said, AWAY), 1, "{said}");
    });
}

#[test]
fn a_second_request_to_stop_ends_the_wait_for_it() {
    let gateway = Gateway::new(Manner::Good);
    let (mut running, _) = started(&|launch| launch, &gateway.url());
    until("it is announced", || gateway.count("kv/put") == 1);
    gateway.behave(Manner::Frozen);
    running.signal(15);
    running.stderr_until("the app was ended by");
    until("it is asked", || gateway.count("lease/revoke") == 1);
    running.signal(15);
    let told = Instant::now();
    running.finish().expect_code(143);
    // Control above: without it, a second passes.
    assert!(told.elapsed() < Duration::from_millis(700), "{:?}", told.elapsed());
}

#[test]
fn a_slow_one_is_waited_for() {
    let gateway = Gateway::new(Manner::Slow(Duration::from_millis(700)));
    let (mut running, port) = started(&|launch| launch, &gateway.url());
    running.stderr_until("announced in");
    until("the lease is renewed", || gateway.count("lease/keepalive") == 1);
    // The exit waits for one second: one slow answer, not two.
    gateway.behave(Manner::Good);
    let said = not_noticed(running, port);
    assert_eq!((count(&said, AWAY), count(&said, "withdrawn from")), (0, 1), "{said}");
}

#[test]
fn members_are_tried_in_turn() {
    let (frozen, good) = (Gateway::new(Manner::Frozen), Gateway::new(Manner::Good));
    let refused = place::free_port();
    let url = format!("etcd://127.0.0.1:{refused},127.0.0.1:{},127.0.0.1:{}/p", frozen.port, good.port);
    let (mut running, port) = started(&|launch| launch, &url);
    running.stderr_until("announced in");
    // The good one first, once it is known.
    until("the lease is renewed", || good.count("lease/keepalive") == 1);
    assert_eq!(frozen.asked(), ["/v3/lease/grant"]);
    let said = not_noticed(running, port);
    assert_eq!(count(&said, AWAY), 0, "{said}");
}

#[test]
fn invalid_answers_are_one_line_each_time() {
    let http = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
    let long = format!("{{\"error\":\"{}\\u001b[31m\\n\",\"code\":7}}", "x".repeat(10_000));
    let strange = "answers, but not as an etcd does";
    for (manner, words) in [
        (Manner::Saying(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), strange),
        (Manner::Saying(b"SSH-2.0-OpenSSH\r\n".to_vec()), "http"),
        (
            Manner::Saying(
                b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            ),
            "status 301",
        ),
        (Manner::Saying(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno".to_vec()), "status 503"),
        (Manner::Saying(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno".to_vec()), "from 3.4 on"),
        (Manner::Saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec()), "before the whole answer"),
        (Manner::Saying(Vec::new()), "before the whole answer"),
        (Manner::Saying(http("[1]")), strange),
        (Manner::Saying(http("{\"ID\":-1}")), strange),
        (Manner::Saying(http("{\"ID\":\"0\"}")), strange),
        (Manner::Saying(http(&"[".repeat(60_000))), strange),
        (Manner::Saying(http(&long)), "xxx"),
        (Manner::Flood, ""),
    ] {
        let gateway = Gateway::new(manner.clone());
        let (mut running, port) = started(&|launch| launch, &gateway.url());
        running.stderr_until(AWAY);
        let one = beside(&running);
        until("it was asked again", || gateway.count("lease/grant") > 3);
        assert!(one.is_some() && beside(&running) == one, "{manner:?}: {}", running.report());
        let said = not_noticed(running, port);
        let line = said.lines().find(|line| line.contains(AWAY)).unwrap();
        assert!(count(&said, AWAY) == 1 && line.len() < 600 && !line.contains('\x1b'), "{manner:?}: {said}");
        // Which member it was, and what it did.
        let member = format!(": 127.0.0.1:{}: ", gateway.port);
        assert!(line.contains(&member) && line.contains(words), "{manner:?}: {line}");
    }
}

/// Several registries do not wait for each other.
#[test]
fn a_frozen_registry_does_not_hold_up_another() {
    let (frozen, good) = (Gateway::new(Manner::Frozen), Gateway::new(Manner::Good));
    let (mut running, port) = started(&|launch| launch, &format!("{} {}", frozen.url(), good.url()));
    running.stderr_until("announced in");
    not_noticed(running, port);
    assert_eq!(good.count("lease/revoke"), 1);
}

#[test]
fn a_password_is_in_no_line() {
    let gateway = Gateway::new(Manner::Good);
    let body = r#"{"error":"etcdserver: authentication failed, invalid user ID or password","code":3}"#;
    let refusal = format!("HTTP/1.1 400 Bad\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    gateway.behave(Manner::Saying(refusal.into_bytes()));
    let port = place::free_port();
    let flags = ["--log", "trace", "--port", &port.to_string(), "--register", &gateway.url()];
    let mut running = app(&flags, &[]).env("ETCDCTL_USER", "root:hunter2").start();
    running.ready();
    running.stderr_until("invalid user ID or password; check ETCDCTL_USER");
    until("it is asked again", || gateway.count("auth/authenticate") > 2);
    let said = not_noticed(running, port);
    assert!(count(&said, AWAY) == 1 && !said.contains("hunter2"), "{said}");
}

/// The gateway is on 127.0.0.1 alone, and `localhost` may be `::1` first.
#[test]
fn names_are_resolved_and_an_unknown_one_counts_as_down() {
    let gateway = Gateway::new(Manner::Good);
    let (mut running, port) = started(&|launch| launch, &format!("etcd://localhost:{}/p", gateway.port));
    running.stderr_until("announced in");
    assert_eq!(count(&not_noticed(running, port), AWAY), 0);
    let (mut running, port) = started(&|launch| launch, "etcd://no-such-host.invalid/p");
    running.stderr_until(AWAY);
    let said = not_noticed(running, port);
    assert!(count(&said, AWAY) == 1 && count(&said, "no-such-host.invalid") == 2 && !said.contains("other:"), "{said}");
}
