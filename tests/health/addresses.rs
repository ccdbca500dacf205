//! Where a probe connects to: both address families, Unix sockets, plain TCP.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::harness::place::{TempDir, free_port};
use crate::server::{Server, answer, only_v6, read_head};
use crate::{check, healthcheck, said};

#[test]
fn localhost_and_the_wildcards_are_both_families() {
    let v4 = Server::saying(answer(200, "", ""));
    let (listener, _twin) = only_v6();
    let v6 = Server::on(listener, |_| answer(200, "", ""));
    for (port, answered) in [(v4.port, "http://127.0.0.1:"), (v6.port, "http://[::1]:")] {
        for host in ["localhost", "0.0.0.0", "[::]"] {
            check(&[&format!("http://{host}:{port}/")]).expect(true, &[answered]);
            check(&[&format!("tcp://{host}:{port}")]).expect(true, &["accepts connections"]);
        }
        said(healthcheck().env("PORT", port.to_string())).expect(true, &[answered]);
        said(healthcheck().env("REBERTH_PORT", format!("{port},{}", port ^ 1)).arg("/x")).expect(true, &["/x,"]);
        said(healthcheck().env("REBERTH_PORT", format!("web=[::]:{port}")).arg("tcp")).expect(true, &[]);
    }
    // An address means that address only.
    check(&[&format!("http://127.0.0.1:{}/", v6.port)]).expect(false, &["refused"]);
    said(healthcheck().env("REBERTH_PORT", format!("127.0.0.1:{}", v6.port))).expect(false, &["refused"]);
    said(healthcheck().env("REBERTH_PORT", format!("[::1]:{}", v6.port))).expect(true, &["[::1]"]);
}

#[test]
fn the_first_address_gives_the_reason() {
    let port = free_port();
    check(&[&format!("http://localhost:{port}/")]).expect(false, &["refused", &format!("127.0.0.1:{port}")]);
}

/// The process that has 127.0.0.1 is queried first; a second answer is not requested.
#[test]
fn an_unhealthy_first_address_is_the_answer() {
    let bad = Server::saying(answer(503, "", ""));
    if let Ok(listener) = TcpListener::bind(("::1", bad.port)) {
        let good = Server::on(listener, |_| answer(200, "", ""));
        check(&[&format!("http://localhost:{}/", good.port)]).expect(false, &["status 503"]);
        assert!(good.heads().is_empty());
    } else {
        panic!("port {} is taken on ::1", bad.port);
    }
}

/// A listener with a full backlog, and the connections that fill it.
fn full_backlog(domain: Domain, address: &socket2::SockAddr) -> (Socket, Vec<Socket>) {
    let listener = Socket::new(domain, Type::STREAM, None).unwrap();
    listener.bind(address).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let fill = || {
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), None).unwrap();
        let _ = socket.connect(&address);
        socket
    };
    let fillers = (0..4).map(|_| fill()).collect();
    (listener, fillers)
}

#[test]
fn a_full_backlog_leaves_half_of_the_timeout_to_the_second_address() {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let (listener, _fillers) = full_backlog(Domain::IPV4, &any.into());
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    let timeout = Duration::from_millis(600);
    check(&["--timeout", "600ms", &format!("http://127.0.0.1:{port}/")]).expect(false, &["600ms"]).within(timeout);
    check(&["--timeout", "600ms", &format!("tcp://127.0.0.1:{port}")]).expect(false, &["600ms"]).within(timeout);
    check(&["--timeout", "600ms", &format!("tcp://localhost:{port}")])
        .expect(false, &["300ms", "127.0.0.1"])
        .within(timeout / 2);
    let _second = Server::on(TcpListener::bind(("::1", port)).unwrap(), |_| answer(200, "", ""));
    let said =
        check(&["--timeout", "2s", &format!("http://localhost:{port}/")]).expect(true, &["[::1]"]).within(timeout * 3);
    assert!(said.took >= Duration::from_secs(1), "{said:?}");
}

#[test]
fn a_unix_socket_is_probed_by_connection_or_by_path() {
    let dir = TempDir::new();
    let path = dir.path().join("app.sock");
    let socket = path.to_str().unwrap();
    check(&[&format!("unix:{socket}")]).expect(false, &["no such socket"]);
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head = read_head(&mut stream);
            let status = if head.starts_with("GET /ready?x HTTP/1.1\r\nHost: localhost\r\n") { 200 } else { 503 };
            let _ = stream.write_all(answer(status, "", "").as_bytes());
            let _ = stream.read(&mut [0]);
        }
    });
    check(&[&format!("unix:{socket}")]).expect(true, &["accepts connections"]);
    check(&[&format!("unix:{socket}:/ready?x")]).expect(true, &["status 200", socket]);
    check(&[&format!("unix:{socket}:/other")]).expect(false, &["status 503"]);
    let left = dir.path().join("left.sock");
    drop(UnixListener::bind(&left).unwrap());
    check(&[&format!("unix:{}", left.display())]).expect(false, &["refused"]);
}

#[test]
fn a_unix_socket_with_a_full_backlog_is_unhealthy_within_the_timeout() {
    let dir = TempDir::new();
    let path = dir.path().join("full.sock");
    let (_listener, _fillers) = full_backlog(Domain::UNIX, &socket2::SockAddr::unix(&path).unwrap());
    let timeout = Duration::from_millis(300);
    for target in [format!("unix:{}", path.display()), format!("unix:{}:/", path.display())] {
        check(&["--timeout", "300ms", &target]).expect(false, &["backlog", "300ms"]).within(timeout);
    }
}

#[test]
fn names_are_resolved_within_the_timeout() {
    // Reserved never to exist (RFC 6761); a resolver that does not answer runs into the timeout.
    check(&["--timeout", "400ms", "http://name.invalid/"])
        .expect(false, &["name.invalid"])
        .within(Duration::from_millis(400));
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    if !host.trim().is_empty() {
        // Whatever the name resolves to, the probe ends in time.
        check(&["--timeout", "400ms", &format!("http://{}:1/", host.trim())])
            .expect(false, &[])
            .within(Duration::from_millis(400));
    }
}

#[test]
fn tcp_needs_nothing_but_a_connection() {
    let url = crate::server::hostile(drop);
    let place = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    check(&[&format!("tcp://{place}")]).expect(true, &["no status"]);
    check(&[&format!("tcp://127.0.0.1:{}", free_port())]).expect(false, &["refused"]);
}

/// Without a state file it is unknown where the app listens; the listeners of the port show it.
#[test]
fn where_the_port_does_listen_is_in_the_reason() {
    let listener = TcpListener::bind(("127.0.0.3", free_port())).unwrap();
    let place = listener.local_addr().unwrap();
    for target in ["tcp", "/", "/health"] {
        let launch = healthcheck().env("PORT", place.port().to_string()).arg(target);
        said(launch).expect(false, &["connection refused", &format!("listens on {place} only"), "bind 0.0.0.0"]);
    }
    let url = format!("http://127.0.0.1:{}/", place.port());
    let line = check(&[&url]).expect(false, &["connection refused"]).line;
    assert!(!line.contains("only"), "who names an address wants that one: {line}");
}

/// With many addresses, and with none that would help.
#[test]
fn the_addresses_in_a_reason_are_few_and_such_as_help() {
    let first = TcpListener::bind(("127.0.0.2", free_port())).unwrap();
    let port = first.local_addr().unwrap().port();
    let more: Vec<_> = (3..9).map(|last| TcpListener::bind((format!("127.0.0.{last}"), port)).unwrap()).collect();
    let line = said(healthcheck().env("PORT", port.to_string())).expect(false, &["and 3 more only"]).line;
    assert_eq!(line.matches(&format!(":{port},")).count(), 3, "{line}");
    drop((first, more));
    let port = free_port();
    let line = said(healthcheck().env("PORT", port.to_string())).expect(false, &["refused"]).line;
    assert!(!line.contains("only"), "nobody listens at all: {line}");
}
