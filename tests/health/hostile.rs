//! Hostile servers: always a verdict in time, in bounded memory, on one line.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::server::{hostile, pace, read_head};
use crate::{Said, healthcheck, said};

const TIMEOUT: Duration = Duration::from_millis(400);

/// Room for the program and its 64 KiB, not for what a server would like to put there. Bytes.
const MEMORY: u64 = 48 << 20;

#[track_caller]
fn asked(words: &[&str], server: impl Fn(TcpStream) + Send + Sync + 'static) -> Said {
    let url = hostile(server);
    let launch = healthcheck().limit(libc::RLIMIT_AS, MEMORY).args(["--timeout", "400ms"]).args(words.iter().copied());
    said(launch.arg(url)).within(TIMEOUT)
}

/// `text`, endlessly.
fn flood(stream: &mut TcpStream, text: &str) {
    let block = text.repeat(4096 / text.len() + 1);
    while stream.write_all(block.as_bytes()).is_ok() {}
}

/// One byte of `text` at a time, repeatedly.
fn drip(stream: &mut TcpStream, text: &str, time: Duration) {
    for byte in text.bytes().cycle() {
        if stream.write_all(&[byte]).is_err() || !pace(stream, time) {
            return;
        }
    }
}

#[test]
fn a_slow_server_is_unhealthy_after_the_timeout() {
    asked(&[], |mut stream| while pace(&mut stream, TIMEOUT * 10) {})
        .expect(false, &["timed out after 400ms", "waiting"]);
    asked(&[], |mut stream| {
        drip(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Duration::from_millis(100))
    })
    .expect(false, &["timed out after 400ms", "headers"]);
    asked(&[], |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        drip(&mut stream, "a: b\r\n", Duration::from_millis(1));
    })
    .expect(false, &["timed out after 400ms", "headers"]);
    asked(&["--body-contains", "x"], |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        drip(&mut stream, "y", Duration::from_millis(5));
    })
    .expect(false, &["status 200", "timed out after 400ms", "body"]);
    // Each hop is fast enough by itself; there is one deadline for all of them.
    asked(&[], |mut stream| {
        read_head(&mut stream);
        pace(&mut stream, Duration::from_millis(150));
        let _ = stream.write_all(b"HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n");
    })
    .expect(false, &["timed out after 400ms"]);
}

#[test]
fn an_endless_answer_is_cut_at_its_bound() {
    asked(&[], |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        flood(&mut stream, "a: b\r\n");
    })
    .expect(false, &["64 KiB"]);
    asked(&[], |mut stream| {
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(1 << 20)).as_bytes());
        let _ = stream.read(&mut [0; 4096]);
    })
    .expect(false, &["64 KiB"]);
    asked(&[], |mut stream| {
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(300)).as_bytes());
        let _ = stream.read(&mut [0; 4096]);
    })
    .expect(false, &["256 headers"]);
    asked(&[], |mut stream| flood(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n")).expect(false, &["64 KiB"]);
    asked(&[], |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        flood(&mut stream, "body");
    })
    .expect(true, &["status 200"]);
    for framing in
        ["\r\n", "Content-Length: 99999999999999999999\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nffffffffffff\r\n"]
    {
        asked(&["--body-contains", "needle"], move |mut stream| {
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes());
            flood(&mut stream, "needl");
        })
        .expect(false, &["64 KiB"]);
    }
    asked(&["--body-contains", "needle"], |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        flood(&mut stream, "1");
    })
    .expect(false, &["malformed"]);
}

#[test]
fn what_is_not_http_is_unhealthy_with_its_reason() {
    for (text, reason) in [
        // No line ever ends: the first bytes decide.
        ("SSH-2.0-OpenSSH_9.9", "not HTTP"),
        ("\x15\x03\x03\0\x02\x02\x28", "TLS"),
        ("220 mail ESMTP\r\n", "not HTTP"),
        ("\0\0\0\0", "not HTTP"),
        ("HTTP/2 200 OK\r\n\r\n", "not HTTP"),
        ("HTTP/1.1 abc\r\n\r\n", "not HTTP"),
        ("<html>\x1b[31m\r\n", "not HTTP"),
    ] {
        asked(&[], move |mut stream| {
            let _ = stream.write_all(text.as_bytes());
            while pace(&mut stream, TIMEOUT * 10) {}
        })
        .expect(false, &[reason]);
    }
    asked(&[], |mut stream| {
        read_head(&mut stream);
    })
    .expect(false, &["without an answer"]);
    asked(&[], |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nA: ");
    })
    .expect(false, &["in the middle of the headers"]);
    asked(&["--body-contains", "x"], |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    })
    .expect(false, &["closed the connection", "body"]);
    // An immediate reset.
    asked(&[], |stream| {
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    })
    .expect(false, &["reset"]);
}

#[test]
fn untrusted_text_stays_out_of_the_line() {
    let said = asked(&[], |mut stream| {
        read_head(&mut stream);
        let location = format!("http://elsewhere/\x1b[31m{}", "x".repeat(20_000));
        let _ = stream.write_all(format!("HTTP/1.1 302 F\r\nLocation: {location}\r\n\r\n").as_bytes());
        let _ = stream.read(&mut [0]);
    });
    assert!(said.line.len() < 4096, "{said:?}");
}
