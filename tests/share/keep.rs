//! The ports without an app.

use std::time::Duration;

use crate::harness::launch::Stdio;
use crate::harness::wait::holds_within;
use crate::harness::{Launch, Running, look, until};
use crate::{ask, group, healthcheck, serving, stop};

fn keep(group: &str, port: u16) -> Running {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth"));
    let state = launch.dir.path().to_owned();
    let words = ["keep", "--port", &format!("0.0.0.0:{port}"), "--share", group].map(str::to_owned);
    let mut running = launch.env("REBERTH_STATE_DIR", state).args(words).start();
    running.stderr_until("claimed");
    running
}

#[test]
fn clients_wait_while_the_app_is_away() {
    let (group, port) = group();
    let mut keeper = keep(&group, port);
    until("it is healthy while it holds the port", || healthcheck(&keeper, &[]).0);
    let waits = std::thread::spawn(move || ask(port));
    let mut one = serving(&group, port, "one", &[]);
    assert_eq!(waits.join().unwrap().as_deref(), Some("one 127.0.0.1"));
    // It crashes, and is started again.
    one.write("exit\n");
    one.finish().expect_code(3);
    let waits = std::thread::spawn(move || ask(port));
    let two = serving(&group, port, "two", &[]);
    assert_eq!(waits.join().unwrap().as_deref(), Some("two 127.0.0.1"));
    // The keeper exits, and the app is not affected.
    keeper.signal(15);
    let outcome = keeper.finish().expect_code(0);
    assert!(outcome.stderr.contains("released"), "{}", outcome.report());
    assert_eq!(ask(port).as_deref(), Some("two 127.0.0.1"));
    stop(two);
    assert_eq!(ask(port), None);
}

#[test]
fn a_keeper_of_udp_reports_which_apps_can_use_it() {
    let (group, port) = group();
    let words = ["keep", "--port", &format!("127.0.0.1:{port}/udp"), "--share", &group].map(str::to_owned);
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth"));
    let state = launch.dir.path().to_owned();
    let mut keeper = launch.env("REBERTH_STATE_DIR", state).args(words).start();
    keeper.stderr_until("one that binds it by itself waits in vain");
    assert!(std::net::UdpSocket::bind(("127.0.0.1", port)).is_err(), "it has the port");
    keeper.signal(15);
    keeper.finish().expect_code(0);
    assert!(std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok());
}

#[test]
fn an_idle_keeper_sleeps() {
    let (group, port) = group();
    let mut keeper = keep(&group, port);
    until("it is there", || healthcheck(&keeper, &[]).0);
    let pid = keeper.init;
    let switches = || look::status(pid, "voluntary_ctxt_switches").unwrap();
    // It publishes its state before its first wait: counted too early, that wait would be a wake-up.
    until("it sleeps", || look::status(pid, "State").unwrap().starts_with('S'));
    let before = switches();
    // Clients in the queue cause no wake-up either.
    let _queued = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(
        !holds_within(Duration::from_millis(1500), || switches() != before),
        "woken: {} then {}",
        before,
        switches()
    );
    keeper.signal(15);
    keeper.finish().expect_code(0);
}

/// A peer waits at the meeting point, and there is no descriptor left to accept it with: that must not become a busy loop.
#[test]
fn without_descriptors_a_keeper_pauses() {
    let (group, port) = group();
    let mut keeper = keep(&group, port);
    let pid = keeper.init;
    let free = (0..).find(|number| !look::descriptors(pid).contains_key(number)).unwrap();
    let limit = format!("--nofile={free}:4096");
    Launch::new("prlimit").args(["--pid", &pid.to_string(), &limit]).start().finish().expect_code(0);
    let comes = "import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
                 s.connect('\\0reberth/share/%s/tcp/%s' % (sys.argv[1], sys.argv[2]))\nprint('there', flush=True)\nsys.stdin.readline()";
    let mut waits =
        Launch::new("python3").args(["-S", "-c", comes, &group, &port.to_string()]).stdin(Stdio::Pipe).start();
    waits.expect("there");
    let ran = || -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let before = ran();
    let busy = Duration::from_millis(200);
    assert!(
        !holds_within(Duration::from_millis(1500), || ran() - before > busy.as_nanos() as u64),
        "it does not sleep"
    );
    waits.write("\n");
    waits.finish();
    // With descriptors again it accepts every peer.
    Launch::new("prlimit").args(["--pid", &pid.to_string(), "--nofile=1024:4096"]).start().finish().expect_code(0);
    let one = serving(&group, port, "one", &["--wait", "30s"]);
    stop(one);
    keeper.signal(15);
    keeper.finish().expect_code(0);
}

#[test]
fn two_keepers_share_and_each_may_go() {
    let (group, port) = group();
    let mut one = keep(&group, port);
    let mut two = keep(&group, port);
    two.stderr_until("is shared with another instance");
    one.signal(9);
    one.finish();
    let app = serving(&group, port, "app", &[]);
    assert_eq!(ask(port).as_deref(), Some("app 127.0.0.1"));
    two.signal(2);
    two.finish().expect_code(0);
    stop(app);
}

#[test]
fn a_port_that_another_program_has_is_waited_for_until_the_timeout() {
    let (group, port) = group();
    let _stranger = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    let words = ["keep", "--port", &port.to_string(), "--share", &group, "--wait", "300ms"].map(str::to_owned);
    let outcome = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(words).start().finish().expect_code(124);
    assert!(outcome.stderr.contains("is held by"), "{}", outcome.report());
}
