//! FastCGI, Redis, PostgreSQL and MySQL: friendly imitations byte by byte, hostile servers, and what is sent to each. Real servers are in
//! `tests/servers`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::harness::place::TempDir;
use crate::server::{Server, answer, pace, read_head, serve};
use crate::{Said, check, healthcheck, said};

const TIMEOUT: Duration = Duration::from_millis(400);

/// As in `hostile`: room for the program and its 64 KiB. Bytes.
const MEMORY: u64 = 48 << 20;

/// For a server of the tests to report what it received.
const DEADLINE: Duration = Duration::from_secs(10);

const SCHEMES: [&str; 4] = ["redis", "postgres", "mysql", "fcgi"];

fn listen(act: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    serve(TcpListener::bind("127.0.0.1:0").unwrap(), act)
}

#[track_caller]
fn asked(scheme: &str, act: impl Fn(TcpStream) + Send + Sync + 'static) -> Said {
    let target = format!("{scheme}://127.0.0.1:{}", listen(act));
    said(healthcheck().limit(libc::RLIMIT_AS, MEMORY).args(["--timeout", "400ms", &target])).within(TIMEOUT)
}

/// A message of PostgreSQL.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// A packet of MySQL.
fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes()[..3], &[sequence], payload].concat()
}

/// A record of FastCGI.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[1, kind, 0, 1][..], &(content.len() as u16).to_be_bytes(), &[0, 0], content].concat()
}

/// What a server of this kind sends to a client that it accepts.
fn welcome(scheme: &str) -> Vec<u8> {
    match scheme {
        "redis" => b"+PONG\r\n".to_vec(),
        "postgres" => message(b'R', &[0, 0, 0, 0]),
        "mysql" => packet(0, b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0"),
        _ => [record(6, b"Content-type: text/plain\r\n\r\npong"), record(3, &[0; 8])].concat(),
    }
}

/// What it sends to a client that it does not accept at the moment.
fn refusal(scheme: &str) -> (Vec<u8>, &'static str) {
    match scheme {
        "redis" => (b"-LOADING Redis is loading the dataset in memory\r\n".to_vec(), "LOADING"),
        "postgres" => (message(b'E', b"SFATAL\0C57P03\0Mthe database system is starting up\0\0"), "57P03"),
        "mysql" => (packet(0, b"\xff\x10\x04Too many connections"), "1040: Too many connections"),
        _ => (record(3, &[0, 0, 0, 0, 2, 0, 0, 0]), "overloaded"),
    }
}

/// A server that sends this text, whole or a byte at a time, and stays until the client leaves.
fn saying(text: Vec<u8>, pause: Option<Duration>) -> impl Fn(TcpStream) + Send + Sync + 'static {
    move |mut stream| {
        let _ = stream.set_nodelay(true);
        match pause {
            None => drop(stream.write_all(&text)),
            Some(pause) => {
                for byte in &text {
                    if stream.write_all(&[*byte]).is_err() {
                        return;
                    }
                    pace(&mut stream, pause);
                }
            }
        }
        while pace(&mut stream, TIMEOUT * 10) {}
    }
}

#[test]
fn each_protocol_knows_a_healthy_answer_and_a_refusal() {
    for scheme in SCHEMES {
        asked(scheme, saying(welcome(scheme), None)).expect(true, &[&format!("healthy {scheme}://127.0.0.1:")]);
        // However the packets are split.
        asked(scheme, saying(welcome(scheme), Some(Duration::from_micros(200)))).expect(true, &[]);
        let (text, reason) = refusal(scheme);
        asked(scheme, saying(text.clone(), None)).expect(false, &[reason]);
        // It sends the reason, and closes before it has read the request.
        asked(scheme, move |mut stream| drop(stream.write_all(&text))).expect(false, &[]);
    }
}

#[test]
fn each_protocol_survives_slow_broken_and_foreign_answers() {
    for scheme in SCHEMES {
        asked(scheme, drop).expect(false, &["while"]);
        asked(scheme, |stream| {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        })
        .expect(false, &["reset"]);
        asked(scheme, saying(Vec::new(), None)).expect(false, &["timed out after 400ms while waiting for the answer"]);
        let slow = saying(welcome(scheme), Some(Duration::from_millis(150)));
        asked(scheme, slow).expect(false, &["timed out after 400ms while reading the answer"]);
        // A beginning, and then the end.
        let start = welcome(scheme)[..5].to_vec();
        asked(scheme, move |mut stream| {
            stream.write_all(&start).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            while pace(&mut stream, TIMEOUT * 10) {}
        })
        .expect(false, &["closed the connection while reading the answer"]);
        for garbage in [
            &b"SSH-2.0-OpenSSH_9.9\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            &[0xff; 64],
            b"\x15\x03\x03\0\x02\x02\x28",
        ] {
            asked(scheme, saying(garbage.to_vec(), None)).expect(false, &["the answer is not that of a"]);
        }
        // Endless: bytes that never decide, and bytes that are not an answer at all.
        let block = match scheme {
            "postgres" => message(b'N', b"SNOTICE\0\0"),
            "fcgi" => record(7, &[b'x'; 100]),
            _ => vec![b'+'; 100],
        };
        let said = asked(scheme, move |mut stream| while stream.write_all(&block).is_ok() {});
        said.expect(
            false,
            &[if matches!(scheme, "postgres" | "fcgi") { "longer than 64 KiB" } else { "not that of a" }],
        );
    }
    // Lengths that no real server sends.
    for (scheme, text) in [
        ("postgres", b"R\xff\xff\xff\xff\0\0\0\0".to_vec()),
        ("postgres", b"R\x7f\xff\xff\xff\0\0\0\0".to_vec()),
        ("mysql", b"\xff\xff\xff\0\x0a8.0\0".to_vec()),
        ("mysql", b"\0\0\0\0\x0a8.0\0".to_vec()),
    ] {
        asked(scheme, saying(text, None)).expect(false, &["not that of a"]);
    }
    // Untrusted text stays on one line, and short.
    let long = format!("-ERR \x1b[31m{}\r\n", "x".repeat(900));
    let said = asked("redis", saying(long.into_bytes(), None)).expect(false, &["with an error: ERR ?[31mxxx"]);
    assert!(said.line.len() < 400, "{said:?}");
}

/// A server that plays its part, and what it received after that until the client left.
fn heard(play: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> (u16, Receiver<Vec<u8>>) {
    let (tell, told) = channel();
    let port = listen(move |mut stream| {
        play(&mut stream);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let _ = tell.send(rest);
    });
    (port, told)
}

fn read_packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 4];
    stream.read_exact(&mut head).unwrap();
    let mut payload = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
    stream.read_exact(&mut payload).unwrap();
    (head[3], payload)
}

#[test]
fn mysql_is_not_left_in_the_middle_of_a_login() {
    // Refused immediately; after another authentication method; accepted.
    let (port, rest) = heard(|stream| {
        stream.write_all(&welcome("mysql")).unwrap();
        let (sequence, login) = read_packet(stream);
        assert!(sequence == 1 && login.windows(9).any(|part| part == b"reberth\0\0"), "{login:?}");
        stream.write_all(&packet(2, b"\xfecaching_sha2_password\0salt\0")).unwrap();
        assert_eq!(read_packet(stream), (3, b"\0".to_vec()));
        stream.write_all(&packet(4, b"\xff\x15\x04#28000Access denied")).unwrap();
    });
    check(&[&format!("mysql://127.0.0.1:{port}")]).expect(true, &["it greets as 8.0.36"]);
    assert_eq!(rest.recv_timeout(DEADLINE).unwrap(), b"");
    let (port, rest) = heard(|stream| {
        stream.write_all(&welcome("mysql")).unwrap();
        read_packet(stream);
        stream.write_all(&packet(2, b"\0\0\0\x02\0\0\0")).unwrap();
    });
    check(&[&format!("mysql://127.0.0.1:{port}")]).expect(true, &[]);
    assert_eq!(rest.recv_timeout(DEADLINE).unwrap(), b"\x01\0\0\0\x01");
    // Control: a client that only connects sends nothing at all, and the server counts that.
    let (port, rest) = heard(|stream| stream.write_all(&welcome("mysql")).unwrap());
    check(&[&format!("tcp://127.0.0.1:{port}")]).expect(true, &[]);
    assert_eq!(rest.recv_timeout(DEADLINE).unwrap(), b"");
    // A server that never stops is abandoned.
    let (port, _rest) = heard(|stream| {
        stream.write_all(&welcome("mysql")).unwrap();
        while stream.write_all(&packet(2, b"\xfex\0")).is_ok() {}
    });
    check(&["--timeout", "400ms", &format!("mysql://127.0.0.1:{port}")]).expect(true, &[]).within(TIMEOUT);
}

#[test]
fn postgres_gets_a_termination_message_only_after_login() {
    let play = |answer: Vec<u8>| {
        let (port, rest) = heard(move |stream| {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut packet = vec![0; u32::from_be_bytes(length) as usize - 4];
            stream.read_exact(&mut packet).unwrap();
            assert!(packet.starts_with(b"\0\x03\0\0user\0postgres\0"), "{packet:?}");
            stream.write_all(&answer).unwrap();
        });
        check(&[&format!("postgres://127.0.0.1:{port}")]).expect(true, &[]);
        rest.recv_timeout(DEADLINE).unwrap()
    };
    assert_eq!(play(message(b'R', &[0, 0, 0, 0])), b"X\0\0\0\x04");
    // Control: in the middle of a login, a termination message would be an error in the server's log.
    assert_eq!(play(message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0")), b"");
    assert_eq!(play(message(b'E', b"C28000\0Mno\0\0")), b"");
}

#[test]
fn fastcgi_is_judged_as_http_is() {
    let php = |head: &'static str| {
        let text = [record(7, b"PHP message: no"), record(6, head.as_bytes()), record(3, &[0; 8])].concat();
        let (port, _) = heard(move |stream| {
            stream.write_all(&text).unwrap();
        });
        format!("fcgi://127.0.0.1:{port}/ping?full")
    };
    let missing = "Status: 404 Not Found\r\nContent-type: text/html\r\n\r\nFile not found.\n";
    check(&[&php(missing)]).expect(false, &["/ping?full, status 404", "not in 200-399; it logs: PHP message: no"]);
    check(&["--status", "404", &php(missing)]).expect(true, &["status 404"]);
    check(&["--status", "404", "--body-contains", "not found", &php(missing)]).expect(true, &["contains"]);
    check(&["--status", "404", "--body-contains", "pong", &php(missing)]).expect(false, &["does not contain"]);
    check(&[&php("Content-type: text/plain\r\n\r\n")]).expect(true, &["status 200"]);
    check(&[&php("Status: none\r\n\r\n")]).expect(false, &["no status"]);
    check(&[&php("<html>\r\n\r\n")]).expect(false, &["no CGI head"]);

    let (port, sent) = heard(|_| {});
    let target = format!("fcgi:{port}/a.php?b=c");
    let running = healthcheck().args(["--timeout", "1s", "--header", "X-A: b", "--method", "HEAD", &target]).start();
    running.finish().expect_code(1);
    let sent = sent.recv_timeout(DEADLINE).unwrap();
    for part in [
        &b"\x01\x01\0\x01\0\x08\0\0\0\x01\0\0\0\0\0\0\x01\x04\0\x01"[..],
        b"\x0e\x04REQUEST_METHODHEAD",
        b"\x0b\x06SCRIPT_NAME/a.php",
        b"\x0c\x03QUERY_STRINGb=c",
        b"\x08\x01HTTP_X_Ab",
        b"\x01\x04\0\x01\0\0\0\0\x01\x05\0\x01\0\0\0\0",
    ] {
        assert!(sent.windows(part.len()).any(|window| window == part), "{:?}", part.escape_ascii().to_string());
    }
}

#[test]
fn each_protocol_works_over_unix_sockets_with_a_path_and_abstract_ones() {
    let dir = TempDir::new();
    for (scheme, tail) in [("redis", ""), ("postgres", ""), ("mysql", ""), ("fcgi", ":/ping")] {
        let name = crate::harness::place::unique();
        let path = dir.path().join(&name);
        let named = UnixListener::bind(&path).unwrap();
        let nameless = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (listener, place) in [(named, path.display().to_string()), (nameless, format!("@{name}"))] {
            let target = format!("{scheme}:unix:{place}{tail}");
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(&welcome(scheme)).unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            });
            check(&["--timeout", "5s", &target]).expect(true, &[&format!("healthy {target}, ")]);
            server.join().unwrap();
            check(&[&target]).expect(false, &["connection refused"]);
        }
    }
    check(&["redis:unix:/nowhere/x"]).expect(false, &["no such socket"]);
}

#[test]
fn http_works_over_an_abstract_socket() {
    let name = crate::harness::place::unique();
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if read_head(&mut stream).starts_with("GET /health ") {
                stream.write_all(answer(204, "", "").as_bytes()).unwrap();
            }
        }
    });
    check(&[&format!("unix:@{name}:/health")]).expect(true, &["status 204"]);
    check(&[&format!("unix:@{name}")]).expect(true, &["accepts connections"]);
    // Control: a file of that name is another place.
    check(&[&format!("unix:/{name}")]).expect(false, &["no such socket"]);
}

#[test]
fn short_forms_query_this_host() {
    let server = Server::saying(answer(200, "", ""));
    check(&[&format!(":{}/x", server.port)]).expect(true, &["http://127.0.0.1:", "/x, status 200"]);
    check(&[&format!("tcp:{}", server.port)]).expect(true, &["accepts connections"]);
    check(&[&format!("grpc:{}", server.port)]).expect(false, &["grpc://127.0.0.1:"]);
    let port = crate::harness::place::free_port();
    for target in [format!(":{port}/"), format!("tcp:{port}"), format!("redis:{port}"), format!("fcgi:{port}/ping")] {
        check(&[&target]).expect(false, &["connection refused: nothing listens on 127.0.0.1:"]);
    }
}

/// A link-local address means nothing without its interface. On every machine loopback can have one.
#[test]
fn a_link_local_address_is_reached_through_its_zone() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let server = Server::on(listener, |_| answer(200, "", ""));
    for zone in ["%lo", "%25lo", "%1"] {
        check(&[&format!("http://[::1{zone}]:{}/", server.port)]).expect(true, &["status 200"]);
    }
    assert!(server.heads().iter().all(|head| head.contains(&format!("Host: [::1]:{}\r\n", server.port))));
    check(&[&format!("tcp://[::1%25lo]:{}", server.port)]).expect(true, &["tcp://[::1%lo]:"]);
    check(&[&format!("tcp://[fe80::1%nope]:{}", server.port)]).expect(false, &["no interface nope"]);
}

/// Neither contacts a server of this test: only the file system and the resolver.
#[test]
fn files_exist_and_names_resolve() {
    let dir = TempDir::new();
    let file = dir.path().join("ready, set");
    let target = format!("file:{}", file.display());
    let said = check(&[&target]);
    assert!(!said.healthy && said.line.contains("no such file or directory"), "{}", said.line);
    std::fs::write(&file, "").unwrap();
    let said = check(&[&target]);
    assert!(said.healthy && said.line.contains("it exists"), "{}", said.line);
    for (target, healthy, words) in [
        ("dns:localhost", true, "it resolves to 127.0.0.1"),
        ("dns:::1", true, "it resolves to ::1"),
        ("dns:no-such-name.invalid", false, "the name no-such-name.invalid"),
    ] {
        let said = check(&[target]);
        assert!(said.healthy == healthy && said.line.contains(words), "{target}: {}", said.line);
    }
}

/// Mounts a file system whose server receives every request and answers none, and then executes the words that follow. The kernel releases
/// no process that accesses it, not even after KILL, until the server has exited: it exits with the program it serves, and by a timeout if
/// that hangs.
const DEAD_MOUNT: &str = "
import ctypes, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
device = os.open('/dev/fuse', os.O_RDWR)
options = b'fd=%d,rootmode=40000,user_id=0,group_id=0' % device
if libc.mount(b'dead', sys.argv[1].encode(), b'fuse', 0, options): sys.exit(os.strerror(ctypes.get_errno()))
parent = os.getpid()
if os.fork():
    os.close(device)
    os.execvp(sys.argv[2], sys.argv[2:])
for fd in 0, 1, 2: os.close(fd)
libc.prctl(1, 9)
signal.alarm(10)
while os.getppid() == parent:
    asked = os.read(device, 1 << 17)
    opcode, unique = struct.unpack_from('<IQ', asked, 4)
    # FUSE_INIT is answered: from then on questions are on their way.
    if opcode == 26:
        body = struct.pack('<4I2H2I2H8I', 7, 31, 4096, 0, 1, 1, 4096, 1, 1, 0, *[0] * 8)
        os.write(device, struct.pack('<IiQ', 16 + len(body), 0, unique) + body)
";

/// A mount whose server does not answer blocks every process that accesses it, endlessly.
#[test]
fn a_file_on_a_dead_mount_is_unhealthy_within_the_timeout() {
    let dir = TempDir::new();
    let place = dir.path().to_str().unwrap().to_owned();
    for (target, words) in [
        (format!("file:{place}/ready"), "timed out after 600ms: its file system does not answer"),
        // Control: it is the mount that blocks, not the path to it.
        ("file:/proc/self/status".to_owned(), "it exists"),
    ] {
        let mut launch = healthcheck().args(["--timeout", "600ms", &target]);
        let alone = ["unshare", "--user", "--map-root-user", "--mount", "python3", "-S", "-c", DEAD_MOUNT, &place];
        launch.words = alone.into_iter().map(Into::into).chain(launch.words).collect();
        let said = crate::said(launch).expect(target.contains("/proc/"), &[words]);
        // Python's own start-up time comes on top.
        assert!(said.took < Duration::from_secs(3) + said.late, "{said:?}");
    }
}
