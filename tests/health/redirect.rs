//! Redirects by kubelet's rule: the same hostname is followed, up to ten times; another hostname is a success with a note.

use std::net::TcpListener;

use crate::check;
use crate::server::{Server, answer};

fn redirect(status: u16, to: &str) -> String {
    answer(status, &format!("Location: {to}\r\n"), "")
}

/// `/` redirects to `location`; `/ok` succeeds; everything else is not found.
fn leading(status: u16, location: &str) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let location = location.replace("PORT", &listener.local_addr().unwrap().port().to_string());
    Server::on(listener, move |head| match head.split(' ').nth(1) {
        Some("/") => redirect(status, &location),
        Some(path) if path.starts_with("/ok") => answer(200, "", ""),
        _ => answer(404, "", ""),
    })
}

#[test]
fn the_same_hostname_is_followed() {
    for (location, healthy) in [
        ("/ok", true),
        ("ok", true),
        ("http://127.0.0.1:PORT/ok", true),
        ("//127.0.0.1:PORT/ok", true),
        ("/missing", false),
        ("http://127.0.0.1:PORT/missing", false),
    ] {
        for status in [301, 302, 303, 307, 308] {
            let server = leading(status, location);
            let last = if healthy { "status 200" } else { "status 404" };
            check(&[&server.url("/")]).expect(healthy, &[last, "after a redirect"]);
        }
    }
}

#[test]
fn another_port_of_the_hostname_is_followed() {
    let other = Server::saying(answer(500, "", ""));
    let server = leading(302, &other.url("/"));
    check(&[&server.url("/")]).expect(false, &["status 500"]);
    assert_eq!(other.heads().len(), 1);
}

#[test]
fn another_host_is_a_success_with_a_note_and_is_not_contacted() {
    let other = Server::saying(answer(500, "", ""));
    // kubelet compares hostnames before it looks at anything else of a reference.
    let odd = ["myapp://callback", "mailto:a@b", "ftp://example/", "http://example:99999/", "http://", "http:/x"];
    let odd = odd.map(str::to_owned);
    let usual =
        [format!("http://localhost:{}/login?session=hunter2", other.port), "https://login.example/x".to_owned()];
    for location in usual.into_iter().chain(odd) {
        let server = leading(302, &location);
        let said = check(&[&server.url("/")]).expect(true, &["status 302", "elsewhere"]);
        assert!(!said.line.contains("hunter2"), "{said:?}");
        // The status list applies to the last answer, which is this one.
        check(&["--status", "200", &server.url("/")]).expect(false, &["status 302"]);
    }
    assert!(other.heads().is_empty());
}

#[test]
fn a_status_that_is_named_is_not_followed() {
    let server = leading(302, "/missing");
    check(&["--status", "302", &server.url("/")]).expect(true, &["status 302"]);
    check(&["--status", "200,300-399", &server.url("/")]).expect(true, &["status 302"]);
    check(&["--status", "301", &server.url("/")]).expect(false, &["status 404"]);
    assert_eq!(server.heads().len(), 4);
}

#[test]
fn an_answer_is_followed_only_if_it_has_a_valid_target() {
    for status in [300, 301, 302, 304, 305] {
        let server = Server::saying(answer(status, "", ""));
        check(&[&server.url("/")]).expect(true, &[&format!("status {status}")]);
    }
    for location in ["http://127.0.0.1:99999/", "ftp://127.0.0.1/"] {
        let server = leading(302, location);
        check(&[&server.url("/")]).expect(false, &["leads nowhere"]);
    }
    // No process listens there; the reason reports how the probe got there.
    let server = leading(302, "http://127.0.0.1:1/x");
    check(&[&server.url("/")]).expect(false, &["nothing listens", "after a redirect to http://127.0.0.1:1/x"]);
    // A `Location` of 300 or 304 is no redirect.
    let server = leading(304, "/missing");
    check(&[&server.url("/")]).expect(true, &["status 304"]);
}

#[test]
fn ten_redirects_are_followed_at_most() {
    for (steps, healthy) in [(10, true), (11, false)] {
        let server = Server::new(move |head| {
            let step: u32 = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
            if step == steps { answer(200, "", "") } else { redirect(302, &format!("/{}", step + 1)) }
        });
        check(&[&server.url("/0")]).expect(healthy, &["10 redirects"]);
    }
    let server = leading(302, "#again");
    check(&[&server.url("/")]).expect(false, &["10 redirects"]);
    assert_eq!(server.heads().len(), 11);
}

#[test]
fn method_and_host_change_on_the_way_as_kubelets_do() {
    let heads = |status: u16, location: &str| {
        let server = leading(status, location);
        check(&["--method", "POST", "--header", "Host: example.org", &server.url("/")]).expect(true, &[]);
        let last = server.heads().pop().unwrap();
        (last.starts_with("GET"), last.contains("Host: example.org"))
    };
    assert_eq!(heads(302, "/ok"), (true, true));
    assert_eq!(heads(302, "/ok?next=http://example.org/"), (true, true));
    assert_eq!(heads(307, "/ok"), (false, true));
    assert_eq!(heads(303, "http://127.0.0.1:PORT/ok"), (true, false));
}

/// Servers send paths in any character set, and expect exactly these bytes in the request.
#[test]
fn a_path_that_is_not_ascii_is_followed_byte_by_byte() {
    for (sent, asked) in
        [(&b"/caf\xc3\xa9"[..], "/caf%C3%A9"), (b"/caf\xe9?q=\xff", "/caf%E9?q=%FF"), (b"/plain", "/plain")]
    {
        let (seen, requests) = std::sync::mpsc::channel();
        let url = crate::server::hostile(move |mut stream| {
            let head = crate::server::read_head(&mut stream);
            let first = head.starts_with("GET / ");
            seen.send(head.lines().next().unwrap().to_owned()).unwrap();
            let mut answer = b"HTTP/1.1 302 F\r\nContent-Length: 0\r\nLocation: ".to_vec();
            answer.extend_from_slice(sent);
            answer.extend_from_slice(b"\r\n\r\n");
            let found = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
            std::io::Write::write_all(&mut stream, if first { &answer } else { &found }).unwrap();
        });
        check(&[&url]).expect(true, &["200"]);
        let lines: Vec<String> = requests.iter().take(2).collect();
        assert_eq!(lines[1], format!("GET {asked} HTTP/1.1"));
    }
}
