//! The holders of a port, in words and as JSON.

use std::time::{Duration, Instant};

use reberth::port::holder::{Depth, State, accept_queue, listeners, listening as listening_on, look};

use crate::net::{
    Program, WITH_RA, WITHOUT_RA, at_once, claim, connection, inside, leave_time_wait, lines, listening, spec, udp,
    udp_spec,
};

const PORT: u16 = 20_000;

#[test]
fn a_program_is_named() {
    inside("holders::a_program_is_named", || {
        let holder = Program::start(&format!("listen {PORT}"));
        let found = look(&spec("", PORT), Depth::Programs);
        let [found] = found.holders.as_slice() else { panic!("{found:?}") };
        assert_eq!((found.pid, found.state, found.sockets), (Some(holder.pid()), State::Listening, 1));
        assert!(found.command.as_ref().is_some_and(|command| command.contains("net::role --exact")), "{found:?}");
        assert_eq!(found.uid, Some(nix::unistd::geteuid().as_raw()));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(found.since.is_some_and(|since| now.abs_diff(since) < 60), "{found:?} at {now}");
        let text = lines(claim(&[spec("", PORT)], &at_once()));
        for part in [
            &format!("pid {}", holder.pid()),
            "net::role",
            "listening on 0.0.0.0:20000",
            "--wait",
            "--fallback next",
            "--fallback any",
            "--handover",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    });
}

#[test]
fn every_program_that_has_the_socket_is_named() {
    inside("holders::every_program_that_has_the_socket_is_named", || {
        let _first = Program::start(&format!("listen {PORT}"));
        let _other = Program::start(&format!("listen {}", PORT + 1));
        let own = listening("127.0.0.1", PORT + 2, WITHOUT_RA);
        let (_client, _server) = connection(&own, PORT + 2);
        let found = look(&spec("", PORT + 2), Depth::Programs);
        assert_eq!(found.pids(), [std::process::id().cast_signed()]);
        assert_eq!(found.holders.len(), 1, "a listener's connections go with it: {found:?}");
        // The test's own listener and the other program's, and no more.
        let mine = listeners(&[std::process::id().cast_signed()]).unwrap();
        assert_eq!(mine.iter().map(|listener| listener.port).collect::<Vec<_>>(), [PORT + 2]);
    });
}

#[test]
fn the_accept_queue_is_counted() {
    inside("holders::the_accept_queue_is_counted", || {
        let _listener = listening("127.0.0.1", PORT, WITHOUT_RA);
        let inode = listening_on(PORT).unwrap()[0].inode;
        assert_eq!(accept_queue(PORT, inode), Some(0));
        let _clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(("127.0.0.1", PORT)).unwrap()).collect();
        assert_eq!(accept_queue(PORT, inode), Some(3));
        assert_eq!(accept_queue(PORT + 1, inode), None);
    });
}

#[test]
fn a_socket_without_a_visible_program_is_reported_as_hidden() {
    inside("holders::a_socket_without_a_visible_program_is_reported_as_hidden", || {
        // A socket in flight inside a unix socket has no descriptor anywhere, like one whose process is in another PID namespace.
        let listener = listening("0.0.0.0", PORT, WITHOUT_RA);
        let (one, _other) = socket2::Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        send(&one, &listener);
        drop(listener);
        let found = look(&spec("", PORT), Depth::Programs);
        let [found] = found.holders.as_slice() else { panic!("{found:?}") };
        assert_eq!(found.pid, None);
        let hidden = found.hidden.map(|why| why.to_string()).unwrap_or_default();
        assert!(hidden.ends_with("in another PID namespace or container"), "{hidden}");
    });
}

fn send(through: &socket2::Socket, socket: &socket2::Socket) {
    use std::os::fd::AsRawFd;
    let fds = [socket.as_raw_fd()];
    let message = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
    let data = [std::io::IoSlice::new(b"x")];
    nix::sys::socket::sendmsg::<()>(through.as_raw_fd(), &data, &message, nix::sys::socket::MsgFlags::empty(), None)
        .unwrap();
}

#[test]
fn a_time_wait_that_blocks_is_a_timed_wait() {
    inside("holders::a_time_wait_that_blocks_is_a_timed_wait", || {
        leave_time_wait(PORT, WITHOUT_RA);
        let text = lines(claim(&[spec("", PORT)], &at_once()));
        assert!(
            text.contains("held by nobody: TIME_WAIT, 60s left")
                || text.contains("held by nobody: TIME_WAIT, 61s left"),
            "{text}"
        );
        assert!(text.contains("SO_REUSEADDR"), "{text}");
    });
}

#[test]
fn a_look_stays_quick_among_many_sockets() {
    inside("holders::a_look_stays_quick_among_many_sockets", || {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let _listener = listening("127.0.0.1", PORT, WITHOUT_RA);
        let many = usize::try_from(hard / 2).unwrap().min(10_000);
        let _sockets: Vec<_> = (0..many).map(|_| udp("127.0.0.1", 0)).collect();
        let started = Instant::now();
        assert_eq!(look(&spec("", PORT), Depth::Sockets).holders.len(), 1);
        assert!(started.elapsed() < Duration::from_millis(250), "{:?}", started.elapsed());
    });
}

/// The output of `who --json` for these ports, and its exit code.
fn who(ports: &str) -> (serde_json::Value, String) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["net::role", "--exact", "--nocapture"])
        .env("REBERTH_TEST_ROLE", format!("who {ports}"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // The test runner's own output comes before it on the same line.
    let json = text.lines().find_map(|line| line.find("{\"ports\"").map(|at| line[at..].to_owned()));
    let code = text.lines().find_map(|line| line.strip_prefix("ready ")).unwrap_or_default().to_owned();
    (serde_json::from_str(&json.unwrap_or_else(|| panic!("no JSON: {text}"))).unwrap(), code)
}

#[test]
fn who_reports_holder_and_state_of_each_port() {
    inside("holders::who_reports_holder_and_state_of_each_port", || {
        let holder = Program::start(&format!("listen {PORT}"));
        leave_time_wait(PORT + 1, WITH_RA);
        let (said, code) = who(&format!("{PORT} {} {}", PORT + 1, PORT + 2));
        assert_eq!(code, "1", "{said}");
        let held = &said["ports"][0];
        assert_eq!(
            (held["port"].as_u64(), held["protocol"].as_str(), held["state"].as_str()),
            (Some(20_000), Some("tcp"), Some("held"))
        );
        assert_eq!(held["holders"][0]["pid"].as_i64(), Some(holder.pid().into()));
        assert_eq!(held["holders"][0]["state"], "listening");
        assert_eq!(held["holders"][0]["address"], "0.0.0.0");
        assert!(held["holders"][0]["seconds_left"].is_null() && held["holders"][0]["hidden"].is_null());
        // A TIME_WAIT that does not block is a note on a free port.
        let noted = &said["ports"][1];
        assert_eq!(
            (noted["state"].as_str(), noted["holders"].as_array().map(Vec::len)),
            (Some("free"), Some(0)),
            "{said}"
        );
        assert!(noted["advice"][0].as_str().is_some_and(|note| note.contains("TIME_WAIT")), "{said}");
        assert_eq!(said["ports"][2]["state"], "free");
        assert_eq!(who(&format!("{}", PORT + 2)).1, "0");
    });
}

#[test]
fn who_without_a_port_lists_every_holder() {
    inside("holders::who_without_a_port_lists_every_holder", || {
        let _tcp = listening("127.0.0.1", PORT, WITHOUT_RA);
        let _udp = udp("127.0.0.1", PORT);
        let (said, code) = who("");
        assert_eq!(code, "0");
        let all: Vec<_> = said["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| (port["port"].as_u64(), port["protocol"].as_str()))
            .collect();
        assert_eq!(all, [(Some(20_000), Some("tcp")), (Some(20_000), Some("udp"))]);
        assert_eq!(look(&udp_spec(PORT), Depth::Sockets).holders[0].state, State::Bound);
    });
}

/// A listening socket with or without SO_REUSEPORT.
fn sharing(address: &str, shares: bool) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(shares).unwrap();
    let address: std::net::SocketAddr = format!("{address}:{PORT}").parse().unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(8).unwrap();
    socket
}

#[test]
fn a_holder_that_shares_its_port_is_named_as_such() {
    inside("holders::a_holder_that_shares_its_port_is_named_as_such", || {
        let shown = |depth| look(&spec("", PORT), depth).to_string();
        let alone = sharing("0.0.0.0", false);
        assert!(!shown(Depth::Programs).contains("SO_REUSEPORT"), "{}", shown(Depth::Programs));
        drop(alone);
        let one = sharing("0.0.0.0", true);
        let text = shown(Depth::Programs);
        assert!(text.contains("listening on 0.0.0.0:20000 with SO_REUSEPORT"), "{text}");
        let _two = sharing("0.0.0.0", true);
        assert!(shown(Depth::Programs).contains("with SO_REUSEPORT"));
        // A claim does not join them, and its lines report what an app could do unnoticed.
        let text = lines(claim(&[spec("", PORT)], &at_once()));
        assert!(text.contains("with SO_REUSEPORT") && text.contains("would share"), "{text}");
        drop(one);
    });
}

#[test]
fn among_several_holders_the_one_that_shares_is_distinguished() {
    inside("holders::among_several_holders_the_one_that_shares_is_distinguished", || {
        let _shares = sharing("127.0.0.1", true);
        let _does_not = sharing("127.0.0.2", false);
        let text = look(&spec("", PORT), Depth::Programs).to_string();
        assert!(text.contains("listening on 127.0.0.1:20000 with SO_REUSEPORT"), "{text}");
        assert!(
            text.contains("listening on 127.0.0.2:20000;") || text.ends_with("listening on 127.0.0.2:20000"),
            "{text}"
        );
        // UDP is what QUIC and DNS servers share.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        let address: std::net::SocketAddr = ([127, 0, 0, 1], PORT).into();
        socket.bind(&address.into()).unwrap();
        let text = look(&udp_spec(PORT), Depth::Programs).to_string();
        assert!(text.contains("bound to 127.0.0.1:20000 with SO_REUSEPORT"), "{text}");
    });
}

/// A socket whose process is hidden cannot be inspected; but beside one of the same user with SO_REUSEPORT, a second one can be bound.
#[test]
fn a_hidden_holder_that_shares_its_port_is_named_as_such() {
    inside("holders::a_hidden_holder_that_shares_its_port_is_named_as_such", || {
        for shares in [true, false] {
            let listener = sharing("0.0.0.0", shares);
            let (one, _other) = socket2::Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
            send(&one, &listener);
            drop(listener);
            let text = look(&spec("", PORT), Depth::Programs).to_string();
            assert!(text.starts_with("no visible pid"), "{text}");
            assert_eq!(text.contains("with SO_REUSEPORT"), shares, "{text}");
        }
    });
}
