//! The end of a connection as the app sees it: the client closes it properly, whatever the answer looks like.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::harness::place::TempDir;
use crate::server::{answer, hostile, pace, read_head, serve};
use crate::{check, healthcheck, said};

/// How a server saw its client leave: by a close after these bytes, or by an error.
type End = Result<Vec<u8>, ErrorKind>;

fn end_of(stream: &mut impl Read) -> End {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).map(|_| text).map_err(|error| error.kind())
}

/// Bodies in pieces, the first of them with the head, and whether the server's close ends them.
const BODIES: [(&[&str], bool); 5] = [
    (&["Content-Length: 13\r\n\r\n", "{\"status\":", "1}\n"], false),
    (&["Content-Length: 8\r\n\r\nbegun", "end"], false),
    (&["Transfer-Encoding: chunked\r\n\r\n", "5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n", "\r\n"], false),
    (&["Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n", "Trailer: x\r\n\r\n"], false),
    (&["\r\n", "until ", "the close"], true),
];

/// Plays a server with two answers, each on its own connection: a redirect, the rest of whose body comes once its target has been
/// requested, and the target, which is answered after that. So the whole body has arrived before the verdict, and none of it with its head:
/// if the client closed without reading it, the redirect's connection would be reset.
struct Redirecting {
    pieces: &'static [&'static str],
    closes: bool,
    goal_asked: (Sender<()>, Mutex<Receiver<()>>),
    body_sent: (Sender<()>, Mutex<Receiver<()>>),
    ends: Sender<(&'static str, End)>,
}

impl Redirecting {
    fn new(pieces: &'static [&'static str], closes: bool) -> (Self, Receiver<(&'static str, End)>) {
        let pair = || {
            let (tell, told) = channel();
            (tell, Mutex::new(told))
        };
        let (ends, seen) = channel();
        (Self { pieces, closes, goal_asked: pair(), body_sent: pair(), ends }, seen)
    }

    fn play<S: Read + Write>(&self, stream: &mut S, close: impl FnOnce(&mut S)) {
        if read_head(stream).starts_with("GET /goal ") {
            self.goal_asked.0.send(()).unwrap();
            self.body_sent.1.lock().unwrap().recv().unwrap();
            let _ = stream.write_all(answer(200, "", "ok").as_bytes());
            let _ = self.ends.send(("goal", end_of(stream)));
            return;
        }
        let _ = stream.write_all(format!("HTTP/1.1 302 F\r\nLocation: /goal\r\n{}", self.pieces[0]).as_bytes());
        self.goal_asked.1.lock().unwrap().recv().unwrap();
        for piece in &self.pieces[1..] {
            stream.write_all(piece.as_bytes()).unwrap();
        }
        if self.closes {
            close(stream);
        }
        self.body_sent.0.send(()).unwrap();
        let _ = self.ends.send(("redirect", end_of(stream)));
    }
}

#[track_caller]
fn both_left_in_peace(ends: &Receiver<(&'static str, End)>, what: &str) {
    let mut seen = [ends.recv().unwrap(), ends.recv().unwrap()];
    seen.sort();
    assert_eq!(seen, [("goal", Ok(Vec::new())), ("redirect", Ok(Vec::new()))], "{what}");
}

#[test]
fn bodies_are_read_to_their_end() {
    for (pieces, closes) in BODIES {
        let (server, ends) = Redirecting::new(pieces, closes);
        let url =
            hostile(move |mut stream| server.play(&mut stream, |stream| stream.shutdown(Shutdown::Write).unwrap()));
        check(&["--timeout", "10s", &url]).expect(true, &["status 200", "after a redirect"]);
        both_left_in_peace(&ends, &format!("{pieces:?}"));
    }
}

#[test]
fn bodies_are_read_to_their_end_over_a_unix_socket_too() {
    let dir = TempDir::new();
    for (number, (pieces, closes)) in BODIES.into_iter().enumerate() {
        let path = dir.path().join(format!("{number}.sock"));
        let (server, ends) = Redirecting::new(pieces, closes);
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for mut stream in listener.incoming().flatten() {
                    let server = &server;
                    let close = |stream: &mut UnixStream| stream.shutdown(Shutdown::Write).unwrap();
                    scope.spawn(move || server.play(&mut stream, close));
                }
            });
        });
        check(&["--timeout", "10s", &format!("unix:{}:/", path.display())]).expect(true, &["after a redirect"]);
        both_left_in_peace(&ends, &format!("{pieces:?}"));
    }
}

/// The last answer, whatever its form. How much of it arrives with its head is chance, hence the rounds.
#[test]
fn the_last_answer_is_read_to_its_end_whatever_its_form() {
    for (words, head, body, healthy) in [
        (&[][..], "HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n", 8000, true),
        (&[], "HTTP/1.1 503 Sorry\r\nContent-Length: 8000\r\n\r\n", 8000, false),
        (&["--body-contains", "x"], "HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n", 8000, true),
        (&["--method", "HEAD"], "HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n", 0, true),
        (&[], "HTTP/1.1 204 No Content\r\n\r\n", 0, true),
        (&[], "HTTP/1.1 304 Not Modified\r\nContent-Length: 8000\r\n\r\n", 0, true),
    ] {
        let (tell, ends) = channel();
        let url = hostile(move |mut stream| {
            read_head(&mut stream);
            stream.set_nodelay(true).unwrap();
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&vec![b'x'; body]);
            let _ = tell.send(end_of(&mut stream));
        });
        for _ in 0..10 {
            check(&[words, &[&*url]].concat()).expect(healthy, &["status "]);
            assert_eq!(ends.recv().unwrap(), Ok(Vec::new()), "{words:?} {head:?}");
        }
    }
}

/// One client at a time, like many development servers: it sees the request for the redirect's target only after the redirect's client has
/// left.
#[test]
fn a_server_of_one_client_at_a_time_is_queried_after_its_redirect() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let text = match read_head(&mut stream).split(' ').nth(1) {
                Some("/") => answer(302, "Location: /goal\r\n", "over there"),
                _ => answer(200, "", ""),
            };
            let _ = stream.write_all(text.as_bytes());
            // It keeps its connections open, although it was asked not to.
            let _ = end_of(&mut stream);
        }
    });
    check(&["--timeout", "10s", &url]).expect(true, &["status 200", "after a redirect"]).within(Duration::from_secs(1));
}

#[test]
fn an_endless_or_slow_body_costs_no_more_than_its_time() {
    let most = Duration::from_millis(100);
    for framing in ["Content-Length: 9000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n9000\r\n", "\r\n"] {
        let url = hostile(move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes());
            while stream.write_all(b"x").is_ok() && pace(&mut stream, Duration::from_millis(20)) {}
        });
        check(&["--timeout", "10s", &url]).expect(true, &["status 200"]).within(most);
        // Less is left of the time limit.
        check(&["--timeout", "60ms", &url]).expect(true, &["status 200"]).within(Duration::from_millis(60));
    }
    let url = hostile(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    check(&["--timeout", "10s", &url]).expect(true, &["status 200"]).within(most);
    // Each try has its own, and it does not prolong the interval.
    let url = hostile(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 503 Sorry\r\n\r\n");
        while pace(&mut stream, Duration::from_secs(20)) {}
    });
    check(&["--wait", "400ms", "--interval", "5ms", &url])
        .expect(false, &["status 503"])
        .within(Duration::from_millis(400) + most);
}

/// The line comes first: its reader does not wait for the body.
#[test]
fn the_line_is_printed_before_the_body_is_read() {
    let (tell, ends) = channel();
    let url = hostile(move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nx");
        let _ = end_of(&mut stream);
        let _ = tell.send(Instant::now());
    });
    let mut running = healthcheck().args(["--timeout", "10s", &url]).start();
    let line = running.line();
    assert!(line.starts_with("healthy http://"), "{line}");
    // The server never continues, so the client exits 100 ms later: longer than it takes to read a line.
    let printed = Instant::now();
    assert!(printed < ends.recv().unwrap(), "the connection was closed before the line came");
    running.finish().expect_code(0);
}

#[test]
fn a_connection_without_a_request_is_closed_without_reset() {
    let (tell, ends) = channel();
    let port = serve(TcpListener::bind("127.0.0.1:0").unwrap(), move |mut stream| {
        let _ = tell.send(end_of(&mut stream));
    });
    check(&[&format!("tcp://127.0.0.1:{port}")]).expect(true, &["accepts connections"]);
    assert_eq!(ends.recv().unwrap(), Ok(Vec::new()));
    // No server accepts, and none is waited for.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("tcp://{}", listener.local_addr().unwrap());
    said(healthcheck().args(["--timeout", "10s", &target])).expect(true, &[]).within(Duration::from_millis(10));
}
