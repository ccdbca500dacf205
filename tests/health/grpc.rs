//! gRPC's health checking protocol: what is sent, how each answer is judged, and hostile servers. The friendly frames were captured from
//! real servers, and the requests were tested against real servers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::place::free_port;
use crate::server::{Server, answer, only_v6, pace, serve};
use crate::{Said, check, healthcheck, said};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// What grpcio 1.85 (Python) sends before any answer: its SETTINGS, WINDOW_UPDATE and the ACK of ours.
const GRPCIO_HELLO: &[u8] = b"\0\0\x18\x04\0\0\0\0\0\0\x04\0\x40\0\0\0\x05\0\x40\0\0\0\x06\0\0\x40\0\xfe\x03\0\0\0\x01\
\0\0\x04\x08\0\0\0\0\0\0\x3f\0\x01\0\0\0\x04\x01\0\0\0\0";

/// Its headers of an answer with a message: a table size update, `:status` from the static table, literals to be remembered.
const GRPCIO_HEADERS: &[u8] =
    b"\x20\x88@\x0ccontent-type\x10application/grpc@\x14grpc-accept-encoding\x17identity, deflate, gzip";

/// Its headers of an answer without one, to a server that has no health service.
const GRPCIO_UNIMPLEMENTED: &[u8] =
    b"\x20\x88@\x0ccontent-type\x10application/grpc@\x0bgrpc-status\x0212\0\x0cgrpc-message\x11Method not found!";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let stream = u8::from(matches!(kind, DATA | HEADERS | RST_STREAM | CONTINUATION));
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

fn trailers(code: &str) -> Vec<u8> {
    let block = [&b"@\x0bgrpc-status"[..], &[code.len() as u8], code.as_bytes(), b"\0\x0cgrpc-message\0"].concat();
    frame(HEADERS, 0x5, &block)
}

/// A whole answer of grpcio with this serving status and `grpc-status`.
pub fn grpcio(serving: &[u8], code: &str) -> Vec<u8> {
    let message = [&[0, 0, 0, 0, serving.len() as u8], serving].concat();
    [GRPCIO_HELLO, &frame(HEADERS, 0x4, GRPCIO_HEADERS), &frame(DATA, 0, &message), &trailers(code)].concat()
}

pub fn read_request(stream: &mut impl Read) -> Vec<u8> {
    let mut request = vec![0; 24];
    if stream.read_exact(&mut request).is_err() {
        return Vec::new();
    }
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return Vec::new();
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        request.extend_from_slice(&head);
        request.extend_from_slice(&payload);
        if head[3] == DATA && head[4] & 1 != 0 {
            return request;
        }
    }
}

/// A server that reads the request and answers with these bytes; its port, and the requests it received.
fn answering(bytes: Vec<u8>) -> (u16, Arc<Mutex<Vec<Vec<u8>>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let port = serve(TcpListener::bind("127.0.0.1:0").unwrap(), move |mut stream| {
        let request = read_request(&mut stream);
        seen.lock().unwrap().push(request);
        let _ = stream.write_all(&bytes);
        while pace(&mut stream, Duration::from_secs(30)) {}
    });
    (port, requests)
}

#[track_caller]
fn answered(bytes: Vec<u8>) -> Said {
    let (port, _) = answering(bytes);
    check(&[&format!("grpc://127.0.0.1:{port}/a.B")])
}

fn contains(request: &[u8], part: &[u8]) -> bool {
    request.windows(part.len()).any(|window| window == part)
}

#[test]
fn only_serving_is_healthy() {
    answered(grpcio(b"\x08\x01", "0")).expect(true, &["/a.B, status SERVING, ", "the service 'a.B' serves"]);
    answered(grpcio(b"\x08\x02", "0")).expect(false, &["status NOT_SERVING, ", "does not serve"]);
    answered(grpcio(b"", "0")).expect(false, &["status UNKNOWN, ", "not known yet"]);
    answered(grpcio(b"\x08\x03", "0")).expect(false, &["status SERVICE_UNKNOWN, ", "does not know the service 'a.B'"]);
    answered(grpcio(b"\x08\x01", "5")).expect(false, &["status NOT_FOUND, ", "does not know the service 'a.B'"]);
    answered(grpcio(b"\x08\x01", "14")).expect(false, &["status UNAVAILABLE, ", "grpc-status 14"]);
    answered([GRPCIO_HELLO, &frame(HEADERS, 0x5, GRPCIO_UNIMPLEMENTED)].concat())
        .expect(false, &["status UNIMPLEMENTED, ", "has no health service", ": Method not found!"]);
    // What is not gRPC: a proxy's 503, a web server's 200.
    let web = |status: &[u8]| [GRPCIO_HELLO, &frame(HEADERS, 0x5, status)].concat();
    answered(web(b"\x08\x03503")).expect(false, &["status 503, ", "not 200"]);
    answered(web(b"\x88")).expect(false, &["status 200, ", "no grpc-status"]);
}

#[test]
fn the_request_is_a_grpc_health_check() {
    let agent = concat!("reberth/", env!("CARGO_PKG_VERSION"));
    let (port, requests) = answering(grpcio(b"\x08\x01", "0"));
    let target = format!("grpc://127.0.0.1:{port}/a.B");
    let request = |words: &[&str]| {
        check(words).expect(true, &[]);
        requests.lock().unwrap().pop().unwrap()
    };
    let sent = request(&[&target]);
    assert!(sent.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x0c\x04\0\0\0\0\0\0\x01\0\0\0\0\0\x02\0\0\0\0"));
    assert!(
        sent.ends_with(b"\0\0\x0a\0\x01\0\0\0\x01\0\0\0\0\x05\x0a\x03a.B"),
        "{:?}",
        sent.escape_ascii().to_string()
    );
    let authority = format!("127.0.0.1:{port}");
    for part in ["/grpc.health.v1.Health/Check", &authority, "\x02te\x08trailers", "\x10application/grpc", agent] {
        assert!(contains(&sent, part.as_bytes()), "{part}: {:?}", sent.escape_ascii().to_string());
    }
    // Headers are metadata: in lower case, and without those that HTTP/2 reserves.
    let headers = ["X-Token: t1", "Host: example.org", "Connection: close", "User-Agent: me", "Accept:"];
    let words: Vec<&str> = headers.iter().flat_map(|header| ["--header", header]).chain([&*target]).collect();
    let sent = request(&words);
    for part in ["\x07x-token\x02t1", "\x0bexample.org", "\x0auser-agent\x02me"] {
        assert!(contains(&sent, part.as_bytes()), "{part}: {:?}", sent.escape_ascii().to_string());
    }
    for part in ["connection", "accept", agent, &authority] {
        assert!(!contains(&sent, part.as_bytes()), "{part}: {:?}", sent.escape_ascii().to_string());
    }
    assert!(contains(&request(&["--user-agent", "kube-probe/1.33", &target]), b"kube-probe/1.33"));
    let long = format!("X: {}", "x".repeat(17_000));
    check(&["--header", &long, &target]).expect(false, &["longer than 16 KiB"]);
}

#[test]
fn a_target_without_an_address_queries_the_primary_port() {
    let (port, requests) = answering(grpcio(b"\x08\x01", "0"));
    let shown = format!("healthy grpc://127.0.0.1:{port}");
    let port = port.to_string();
    said(healthcheck().env("REBERTH_PORT", &port).arg("grpc")).expect(true, &[&shown, "the server as a whole serves"]);
    assert!(requests.lock().unwrap().pop().unwrap().ends_with(b"\0\0\0\0\0"));
    said(healthcheck().env("REBERTH_PORT", &port).arg("grpc:a.B")).expect(true, &[&shown, "/a.B, "]);
    assert!(requests.lock().unwrap().pop().unwrap().ends_with(b"\x0a\x03a.B"));
    let live = healthcheck().env("REBERTH_PORT", &port).env("REBERTH_LIVENESS", "grpc:live");
    said(live.args(["--probe", "liveness"])).expect(true, &[&shown, "/live, "]);
    said(healthcheck().arg("grpc:a.B")).expect(false, &["unhealthy grpc:a.B, ", "no tcp port is set"]);
}

#[test]
fn localhost_is_queried_on_both_addresses() {
    let (listener, _twin) = only_v6();
    let port = serve(listener, |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(&grpcio(b"\x08\x01", "0"));
        while pace(&mut stream, Duration::from_secs(30)) {}
    });
    check(&[&format!("grpc://localhost:{port}")]).expect(true, &[&format!("grpc://[::1]:{port}, ")]);
    check(&[&format!("grpc://127.0.0.1:{}", free_port())]).expect(false, &["no status", "connection refused"]);
}

/// A server logs a connection that breaks, but not one that is closed properly.
#[test]
fn the_server_sees_a_proper_close_and_no_broken_connection() {
    for (serving, healthy) in [(b"\x08\x01", true), (b"\x08\x02", false)] {
        let (tell, told) = std::sync::mpsc::channel();
        let port = serve(TcpListener::bind("127.0.0.1:0").unwrap(), move |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(&[grpcio(serving, "0"), frame(PING, 0, b"unheard.")].concat());
            let mut rest = Vec::new();
            let end = stream.read_to_end(&mut rest).map_err(|error| error.kind());
            let _ = tell.send((end.map(drop), rest));
        });
        check(&[&format!("grpc://127.0.0.1:{port}")]).expect(healthy, &[]);
        let (end, rest) = told.recv().unwrap();
        assert_eq!(end, Ok(()));
        assert!(rest.ends_with(&frame(GOAWAY, 0, &[0; 8])), "{:?}", rest.escape_ascii().to_string());
    }
}

#[test]
fn an_http_server_is_no_grpc_server() {
    // It takes the preface for a request for `*`, and what follows for its body.
    let server = Server::saying(answer(400, "", ""));
    check(&[&format!("grpc://127.0.0.1:{}", server.port)]).expect(false, &["answers in HTTP/1"]);
}

const TIMEOUT: Duration = Duration::from_millis(400);

/// Room for the program and its 64 KiB. Bytes.
const MEMORY: u64 = 48 << 20;

#[track_caller]
fn asked(server: impl Fn(TcpStream) + Send + Sync + 'static) -> Said {
    let port = serve(TcpListener::bind("127.0.0.1:0").unwrap(), server);
    let launch = healthcheck().limit(libc::RLIMIT_AS, MEMORY).args(["--timeout", "400ms"]);
    said(launch.arg(format!("grpc://127.0.0.1:{port}"))).within(TIMEOUT)
}

/// `first`, then `then` endlessly, and what the client sends is never read.
fn flood(first: Vec<u8>, then: Vec<u8>) -> impl Fn(TcpStream) + Send + Sync + 'static {
    let block = then.repeat(4096 / then.len() + 1);
    move |mut stream| {
        let _ = stream.write_all(&first);
        while stream.write_all(&block).is_ok() {}
    }
}

/// `bytes`, and then silence.
fn then_silence(bytes: Vec<u8>) -> impl Fn(TcpStream) + Send + Sync + 'static {
    move |mut stream| {
        let _ = stream.write_all(&bytes);
        while pace(&mut stream, TIMEOUT * 10) {}
    }
}

#[test]
fn a_slow_server_is_unhealthy_after_the_timeout() {
    asked(then_silence(Vec::new())).expect(false, &["timed out after 400ms", "to speak HTTP/2"]);
    asked(then_silence(GRPCIO_HELLO.to_vec())).expect(false, &["timed out after 400ms", "waiting for the answer"]);
    let whole = grpcio(b"\x08\x01", "0");
    let most = whole[..whole.len() - 1].to_vec();
    asked(then_silence(most)).expect(false, &["timed out after 400ms", "reading the answer"]);
    for pause in [Duration::from_millis(100), Duration::from_millis(1)] {
        let bytes = [GRPCIO_HELLO.to_vec(), frame(PING, 0, &[0; 8]).repeat(100)].concat();
        asked(move |mut stream| {
            for byte in &bytes {
                if stream.write_all(&[*byte]).is_err() || !pace(&mut stream, pause) {
                    return;
                }
            }
        })
        .expect(false, &["timed out after 400ms"]);
    }
    // Late, but in time: in single bytes, and healthy all the same.
    asked(move |mut stream| {
        stream.set_nodelay(true).unwrap();
        whole.iter().all(|byte| stream.write_all(&[*byte]).is_ok());
        while pace(&mut stream, TIMEOUT * 10) {}
    })
    .expect(true, &["SERVING"]);
}

#[test]
fn an_endless_answer_is_cut_at_its_bound() {
    let hello = || GRPCIO_HELLO.to_vec();
    let headers = || [GRPCIO_HELLO, &frame(HEADERS, 0x4, GRPCIO_HEADERS)].concat();
    let open = || [GRPCIO_HELLO, &frame(HEADERS, 0, GRPCIO_HEADERS)].concat();
    for (first, then) in [
        (hello(), frame(SETTINGS, 0, &[])),
        (hello(), frame(SETTINGS, 0, &[0; 6000])),
        (hello(), frame(PING, 0, &[0; 8])),
        (hello(), frame(GOAWAY, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])),
        (hello(), frame(99, 0, &[])),
        (headers(), frame(DATA, 0, &[])),
        (headers(), frame(DATA, 0, &[0; 16_384])),
        (headers(), frame(HEADERS, 0x4, &[0x88; 100])),
        (open(), frame(CONTINUATION, 0, &[])),
        (open(), frame(CONTINUATION, 0, &[0x88; 16_384])),
    ] {
        let kind = then[3];
        let said = asked(flood(first, then));
        assert!(said.line.contains("more than 64 KiB"), "frames of type {kind}: {said:?}");
    }
    asked(flood(hello(), vec![0xff])).expect(false, &["a frame of 16777215 bytes"]);
    asked(flood(Vec::new(), b"x".to_vec())).expect(false, &["not HTTP/2"]);
    // One byte per header, and 16 thousand of them: an HPACK bomb, and still an answer.
    let bomb =
        [GRPCIO_HELLO, &frame(HEADERS, 0x4, &[0x88; 16_384]), &frame(DATA, 0, b"\0\0\0\0\x02\x08\x01"), &trailers("0")];
    asked(then_silence(bomb.concat())).expect(true, &["SERVING"]);
}

/// Its output is longer than what the client reads in one call, so replies are due after it has closed.
#[test]
fn an_answer_counts_even_if_the_server_closes_with_it() {
    let pings = frame(PING, 0, &[0; 8]).repeat(1000);
    let goaway = frame(GOAWAY, 0, b"\0\0\0\0\0\0\0\x0bshut_down");
    for (last, healthy, words) in [
        (
            [frame(HEADERS, 0x4, GRPCIO_HEADERS), frame(DATA, 0, b"\0\0\0\0\x02\x08\x01"), trailers("0")].concat(),
            true,
            "SERVING",
        ),
        (goaway, false, "ENHANCE_YOUR_CALM, shut_down"),
    ] {
        let bytes = [GRPCIO_HELLO, &pings, &last].concat();
        asked(move |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(&bytes);
        })
        .expect(healthy, &[words]);
    }
}

#[test]
fn what_is_no_grpc_answer_is_unhealthy_with_its_reason() {
    for (bytes, reason) in [
        (b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n".to_vec(), "HTTP/1"),
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "not HTTP/2"),
        (b"\x15\x03\x03\0\x02\x02\x28".to_vec(), "TLS"),
        (frame(HEADERS, 0x5, GRPCIO_UNIMPLEMENTED), "not HTTP/2"),
        ([GRPCIO_HELLO, &frame(RST_STREAM, 0, &[0, 0, 0, 7])].concat(), "reset the call: REFUSED_STREAM"),
        (
            [GRPCIO_HELLO, &frame(GOAWAY, 0, b"\0\0\0\0\0\0\0\x0btoo_many_pings\x1b[31m")].concat(),
            "GOAWAY): ENHANCE_YOUR_CALM, too_many_pings?[31m",
        ),
        ([GRPCIO_HELLO, &frame(HEADERS, 0x5, b"\xbe")].concat(), "cannot be read"),
        ([GRPCIO_HELLO, &frame(HEADERS, 0x5, b"\x88\0\x84\xff\xff\xff\xff\x00")].concat(), "cannot be read"),
    ] {
        asked(then_silence(bytes)).expect(false, &["no status", reason]);
    }
    for (bytes, reason) in [(Vec::new(), "to speak HTTP/2"), (GRPCIO_HELLO.to_vec(), "waiting for the answer")] {
        asked(move |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(&bytes);
            // Not a close: with an unread reply of the client, that would be a reset.
            stream.shutdown(Shutdown::Write).unwrap();
            while pace(&mut stream, TIMEOUT * 10) {}
        })
        .expect(false, &["closed the connection", reason]);
    }
    asked(|stream| socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap())
        .expect(false, &["no status", "reset"]);
}
