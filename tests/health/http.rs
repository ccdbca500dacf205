//! A single HTTP probe: what is sent, how the answer is judged, what is printed about it. kubelet's prober is the model (pkg/probe/http).

use std::io::{Read, Write};
use std::time::Duration;

use crate::server::{Server, answer, hostile, read_head};
use crate::{check, healthcheck, said};

#[test]
fn statuses_from_200_to_399_are_healthy() {
    for (status, healthy) in [
        (200, true),
        (204, true),
        (299, true),
        (300, true),
        (304, true),
        (399, true),
        (101, false),
        (400, false),
        (401, false),
        (404, false),
        (500, false),
        (503, false),
        (999, false),
    ] {
        let server = Server::saying(answer(status, "", "x"));
        check(&[&server.url("/")]).expect(healthy, &[&server.url("/"), &format!("status {status}"), "ms: "]);
    }
}

#[test]
fn a_list_of_statuses_decides_which_are_healthy() {
    let server = Server::saying(answer(404, "", ""));
    for (list, healthy) in [("404", true), ("200,400-499", true), ("200-399", false), ("403,405", false)] {
        check(&["--status", list, &server.url("/")]).expect(healthy, &["status 404", list]);
        said(healthcheck().env("REBERTH_HEALTH_STATUS", list).arg(server.url("/"))).expect(healthy, &[]);
    }
}

#[test]
fn the_request_is_kubelets() {
    let agent = concat!("reberth/", env!("CARGO_PKG_VERSION"));
    /// Words of the command line, then how the request begins, what it contains, and what it does not contain.
    type Case<'a> = (&'a [&'a str], &'a str, &'a [&'a str], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (
            &[],
            "GET /a?b=c HTTP/1.1",
            &["Accept: */*", "User-Agent: AGENT", "Host: 127.0.0.1:PORT", "Connection: close"],
            &["Accept-Encoding"],
        ),
        (&["--header", "Accept: text/plain"], "GET", &["Accept: text/plain"], &["*/*"]),
        (&["--header", "Connection: keep-alive"], "GET", &["Connection: keep-alive"], &["close"]),
        (&["--header", "Connection:"], "GET", &["Accept: */*"], &["Connection"]),
        (&["--header", "Accept:"], "GET", &["User-Agent: AGENT"], &["Accept"]),
        (&["--header", "Host: example.org"], "GET", &["Host: example.org"], &["127.0.0.1"]),
        (&["--header", "X: 1", "--header", "x: 2"], "GET", &["X: 1", "x: 2"], &[]),
        (&["--header", "User-Agent: me"], "GET", &["User-Agent: me"], &["AGENT"]),
        (&["--user-agent", "kube-probe/1.33"], "GET", &["User-Agent: kube-probe/1.33"], &["AGENT"]),
        (&["--method", "HEAD"], "HEAD /a?b=c HTTP/1.1", &[], &[]),
        (&["--method", "POST"], "POST /a?b=c HTTP/1.1", &["Content-Length: 0"], &[]),
    ];
    for (words, first, has, has_not) in cases {
        let server = Server::saying(answer(200, "", ""));
        check(&[*words, &[&*server.url("/a?b=c#fragment")]].concat()).expect(true, &[]);
        let head = server.heads().pop().unwrap();
        let real = |text: &str| text.replace("PORT", &server.port.to_string()).replace("AGENT", agent);
        let lines: Vec<&str> = head.lines().collect();
        assert!(lines[0].starts_with(&real(first)), "{words:?}: {head}");
        assert!(has.iter().all(|line| lines.contains(&&*real(line))), "{words:?}: {head}");
        assert!(!has_not.iter().any(|text| head.contains(&real(text))), "{words:?}: {head}");
    }
}

#[test]
fn the_variable_takes_a_header_on_each_line() {
    let server = Server::saying(answer(200, "", ""));
    said(healthcheck().env("REBERTH_HEALTH_HEADER", "X: 1\nY: 2\n").arg(server.url("/"))).expect(true, &[]);
    let head = server.heads().pop().unwrap();
    assert!(head.contains("\r\nX: 1\r\nY: 2\r\n"), "{head}");
}

#[test]
fn no_proxy_is_ever_honoured() {
    let proxy = Server::saying(answer(200, "", ""));
    let closed = crate::harness::place::free_port();
    let mut launch = healthcheck();
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        launch = launch.env(name, proxy.url("/"));
    }
    said(launch.arg(format!("http://127.0.0.1:{closed}/"))).expect(false, &["refused"]);
    assert!(proxy.heads().is_empty(), "the proxy was asked");
}

#[test]
fn bodies_are_inspected_only_if_configured() {
    let text = "status: fine, secret=hunter2";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nstatus: \r\n4;x=y\r\nfine\r\n0\r\n\r\n";
    let long = format!("{}{text}", "x".repeat(64 * 1024));
    for (answer, found) in [
        (answer(200, "", text), true),
        (chunked.to_owned(), true),
        (format!("HTTP/1.0 200 OK\r\n\r\n{text}"), false),
        (answer(200, "", "status: bad"), false),
        (answer(200, "", ""), false),
        (answer(204, "", text), false),
        (answer(200, "", &long), false),
        (answer(500, "", text), false),
    ] {
        // HTTP/1.0 without a length ends with the connection, which this server keeps open: the match counts all the same.
        let found = found || answer.starts_with("HTTP/1.0");
        let server = Server::saying(answer);
        let said = check(&["--body-contains", "status: fine", &server.url("/")]).expect(found, &[]);
        assert!(!said.line.contains("hunter2") && !said.stderr.contains("hunter2"), "{said:?}");
    }
    let server = Server::saying(answer(200, "", &long));
    check(&["--body-contains", "fine", &server.url("/")]).expect(false, &["64 KiB"]);
    let server = Server::saying(answer(200, "", text));
    check(&["--method", "HEAD", "--body-contains", "fine", &server.url("/")]).expect(false, &["body"]);
}

#[test]
fn nothing_of_the_body_is_printed() {
    for status in [200, 500] {
        let server = Server::saying(answer(status, "X-Secret: hunter2\r\n", "hunter2"));
        let said = check(&[&server.url("/")]);
        assert!(!said.line.contains("hunter2") && said.stderr.is_empty(), "{said:?}");
    }
}

#[test]
fn interim_answers_are_not_the_answer() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let server = Server::saying(format!("{early}{}", answer(503, "", "")));
    check(&[&server.url("/")]).expect(false, &["status 503"]);
}

#[test]
fn quiet_is_quiet_when_healthy_only() {
    let server = Server::new(|head| answer(if head.contains("/bad") { 500 } else { 200 }, "", ""));
    let outcome = healthcheck().args(["--quiet".to_owned(), server.url("/")]).start().finish();
    assert_eq!((outcome.code, &*outcome.stdout, &*outcome.stderr), (Some(0), "", ""));
    check(&["--quiet", &server.url("/bad")]).expect(false, &["status 500"]);
}

#[test]
fn usage_errors_are_1_and_go_to_stderr() {
    for words in [
        &["--timeout", "0", "/"][..],
        &["--timeout", "5", "/"],
        &["--nonsense"],
        &["--status", "abc", "/"],
        &["ftp://h/"],
        &["http://h/", "http://h/"],
        &["--header", "no colon", "/"],
    ] {
        let outcome = healthcheck().args(words.iter().copied()).start().finish();
        assert_eq!(outcome.code, Some(1), "{words:?}\n{}", outcome.report());
        assert!(!outcome.stderr.is_empty() && outcome.stdout.is_empty(), "{words:?}\n{}", outcome.report());
    }
}

#[test]
fn a_closed_standard_output_changes_no_verdict() {
    let server = Server::saying(answer(200, "", ""));
    let launch = healthcheck().stdout(crate::harness::launch::Stdio::Closed).arg(server.url("/"));
    launch.start().finish().expect_code(0);
}

/// A server whose client resets the connection logs an error for each probe.
#[test]
fn a_short_body_behind_the_head_is_not_reset() {
    let (tell, told) = std::sync::mpsc::channel();
    let url = crate::server::hostile(move |mut stream| {
        use std::io::{Read, Write};
        crate::server::read_head(&mut stream);
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n").unwrap();
        let _ = stream.write_all(&[b'x'; 8000]);
        let _ = tell.send(stream.read(&mut [0]).map_err(|error| error.kind()));
    });
    for _ in 0..20 {
        check(&[&url]).expect(true, &["status 200"]);
        assert_eq!(told.recv().unwrap(), Ok(0));
    }
}

/// A server whose client closes before the end of a body logs an aborted request at every probe. Still the verdict does not wait for the
/// body: the server sends it only after the line has been printed.
#[test]
fn the_rest_of_a_body_is_read_after_the_verdict() {
    for (name, head, rest) in [
        ("length", "Content-Length: 13\r\n", "{\"ok\":true}\r\n".to_owned()),
        ("chunks", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n".to_owned()),
        ("until close", "", "abc".to_owned()),
        ("ten kibibytes", "Content-Length: 10240\r\n", "x".repeat(10_240)),
        ("unhealthy too", "Content-Length: 3\r\nX: 503\r\n", "bad".to_owned()),
    ] {
        let status = if head.contains("503") { 503 } else { 200 };
        let (told, line) = std::sync::mpsc::channel::<()>();
        let (seen, end) = std::sync::mpsc::channel();
        let line = std::sync::Mutex::new(line);
        let url = hostile(move |mut stream| {
            assert!(read_head(&mut stream).contains("Connection: close\r\n"));
            stream.write_all(format!("HTTP/1.1 {status} Words\r\n{head}\r\n").as_bytes()).unwrap();
            line.lock().unwrap().recv().unwrap();
            let sent = stream.write_all(rest.as_bytes());
            if head.is_empty() {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            // A proper close, not a reset: the client has read everything.
            seen.send((sent.is_ok(), stream.read(&mut [0; 16]).ok())).unwrap();
        });
        let mut running = healthcheck().args(["--timeout", "5s", &url]).start();
        let said = running.line();
        assert_eq!(said.starts_with("healthy"), status == 200, "{name}: {said}");
        told.send(()).unwrap();
        assert_eq!(end.recv().unwrap(), (true, Some(0)), "{name}");
        running.finish().expect_code(i32::from(status != 200));
    }
}

/// Not endlessly, and not everything: an endless body, or one that never comes, costs a tenth of a second.
#[test]
fn a_body_without_end_costs_nothing_more() {
    for timeout in ["5s", "60s"] {
        let url = hostile(|mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
            let _ = stream.read(&mut [0]);
        });
        check(&["--timeout", timeout, &url]).expect(true, &["200"]).within(Duration::from_secs(1));
        let url = hostile(|mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        check(&["--timeout", timeout, &url]).expect(true, &["200"]).within(Duration::from_secs(1));
    }
}
