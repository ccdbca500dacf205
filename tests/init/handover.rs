//! The bound socket as a file descriptor of the supervised app.

use std::net::{TcpListener, TcpStream};

use crate::harness::{Launch, Running, look, place, running, until};
use crate::{both, run_app};

#[track_caller]
fn expect_lines(running: &mut Running, lines: &[&str]) {
    let said = running.stdout();
    for line in lines {
        assert!(said.lines().any(|l| l == *line), "expected {line}\n{}", running.report());
    }
}

/// The `fd` lines that the app printed, by number.
fn descriptor<'a>(said: &'a str, number: &str) -> &'a str {
    said.lines().find_map(|l| l.strip_prefix("fd ")?.strip_prefix(number)?.strip_prefix(' ')).unwrap_or("")
}

#[test]
fn the_app_gets_the_listening_socket() {
    both(|mode| {
        let port = place::free_port();
        let steps = "var=LISTEN_PID var=LISTEN_FDS var=LISTEN_FDNAMES fds say={fd} ready accept=3 pause";
        let mut running = mode(run_app(&["--port", &port.to_string()], steps)).start();
        let app = running.ready();
        let names = format!("LISTEN_FDNAMES={port}");
        expect_lines(&mut running, &[&format!("LISTEN_PID={app}"), "LISTEN_FDS=1", &names, "3"]);
        let said = running.stdout();
        let socket = descriptor(&said, "3").to_owned();
        assert!(socket.starts_with("socket:") && socket.contains(&format!(":{port}")), "{}", running.report());
        assert!(!socket.contains("cloexec"), "{}", running.report());
        assert_eq!(said.lines().filter(|l| l.starts_with("fd ")).count(), 4, "{}", running.report());
        // It listens before the app does anything, on both families, and reberth has no copy.
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(running::read_to_end(client.into()), "hello\n");
        let inode = socket.split(' ').next().unwrap().to_owned();
        until("reberth keeps no copy", || look::descriptors(running.init).values().all(|target| *target != inode));
    });
}

#[test]
fn several_ports_come_in_the_configured_order() {
    both(|mode| {
        let (first, second) = (place::free_port(), place::free_port());
        let specs = format!("web={second},{first}");
        let steps = "var=LISTEN_FDS var=LISTEN_FDNAMES fds say={fd.web} say={fd} ready pause";
        let mut running = mode(run_app(&["--port", &specs, "--handover", "on"], steps)).start();
        running.ready();
        expect_lines(&mut running, &["LISTEN_FDS=2", &format!("LISTEN_FDNAMES=web:{first}"), "3"]);
        let said = running.stdout();
        assert!(descriptor(&said, "3").contains(&format!(":{second}")), "{said}");
        assert!(descriptor(&said, "4").contains(&format!(":{first}")), "{said}");
    });
}

#[test]
fn a_socket_is_handed_over_only_if_configured() {
    let port = place::free_port();
    let outcome = run_app(&["--port", &port.to_string()], "var=LISTEN_FDS fds exit=0").start().finish().expect_code(0);
    assert!(outcome.stdout.contains("LISTEN_FDS unset"), "{}", outcome.report());
    assert_eq!(outcome.stdout.lines().filter(|l| l.starts_with("fd ")).count(), 3, "{}", outcome.report());
    run_app(&["--port", &port.to_string(), "--handover", "off"], "say={fd}").start().finish().expect_code(125);
}

/// Starts reberth like a service manager with socket activation: the shell knows the pid that reberth will have.
fn activated(inner: &Launch, listener: TcpListener) -> Launch {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=outer; exec \"$@\"";
    let mut launch = Launch::new("sh").args(["-c", script, "sh"]).args(inner.words.clone()).descriptor(3, listener);
    launch.environment.extend(inner.environment.iter().filter(|(name, _)| name == "REBERTH_STATE_DIR").cloned());
    launch
}

#[test]
fn inherited_sockets_come_first() {
    both(|mode| {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let outer = listener.local_addr().unwrap().port();
        let port = place::free_port();
        let steps = "var=LISTEN_PID var=LISTEN_FDS var=LISTEN_FDNAMES fds say={fd} ready pause";
        let inner = run_app(&["--port", &format!("mine={port}")], steps);
        let mut running = mode(activated(&inner, listener)).start();
        let app = running.ready();
        expect_lines(&mut running, &[&format!("LISTEN_PID={app}"), "LISTEN_FDS=2", "LISTEN_FDNAMES=outer:mine", "4"]);
        let said = running.stdout();
        assert!(descriptor(&said, "3").contains(&format!(":{outer}")), "{said}");
        assert!(descriptor(&said, "4").contains(&format!(":{port}")), "{said}");
    });
}

#[test]
fn inherited_sockets_are_passed_on_without_handover() {
    both(|mode| {
        for flags in [&[][..], &["--port", "0", "--relaunch", "0"], &["--exec", "--port", "0", "--handover", "off"]] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let outer = listener.local_addr().unwrap().port();
            let steps = "var=LISTEN_PID var=LISTEN_FDS var=LISTEN_FDNAMES fds ready pause";
            let inner = run_app(flags, steps);
            let mut running = mode(activated(&inner, listener)).start();
            let app = running.ready();
            expect_lines(&mut running, &[&format!("LISTEN_PID={app}"), "LISTEN_FDS=1", "LISTEN_FDNAMES=outer"]);
            let said = running.stdout();
            assert!(descriptor(&said, "3").contains(&format!(":{outer}")), "{said}");
            let inode = descriptor(&said, "3").split(' ').next().unwrap().to_owned();
            let (init, app) = (running.init, running.outside(app));
            until("reberth keeps no copy", || init == app || !look::descriptors(init).values().any(|t| *t == inode));
        }
    });
}

#[test]
fn sockets_meant_for_another_process_are_left_alone() {
    both(|mode| {
        let foreign = |launch: Launch| {
            let zero = crate::harness::launch::open("/dev/zero", libc::O_RDONLY);
            let launch = launch.env("LISTEN_PID", "4194304").env("LISTEN_FDS", "3").env("LISTEN_FDNAMES", "x:y:z");
            mode(launch.descriptor(3, zero)).start()
        };
        let steps = "var=LISTEN_PID var=LISTEN_FDS var=LISTEN_FDNAMES fds ready pause";
        let mut running = foreign(run_app(&["--port", "0"], steps));
        running.ready();
        expect_lines(&mut running, &["LISTEN_PID=4194304", "LISTEN_FDS=3", "LISTEN_FDNAMES=x:y:z", "fd 3 /dev/zero"]);
        // If reberth hands over its own sockets, those are the only ones.
        let port = place::free_port();
        let mut running = foreign(run_app(&["--port", &format!("mine={port}"), "--handover", "on"], steps));
        let app = running.ready();
        expect_lines(&mut running, &[&format!("LISTEN_PID={app}"), "LISTEN_FDS=1", "LISTEN_FDNAMES=mine"]);
        let said = running.stdout();
        assert!(descriptor(&said, "3").contains(&format!(":{port}")), "{said}");
    });
}

/// Its clients wait forever: the socket listens, and no process ever accepts.
#[test]
fn an_app_that_ignores_its_socket_is_named_and_never_called_ready() {
    let port = crate::harness::place::free_port();
    let mut running =
        run_app(&["--port", &port.to_string(), "--handover", "on"], "ready block until=15 exit=3").start();
    running.ready();
    running.stderr_until("has not taken the socket it was given");
    let _waiting = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    running.stderr_until("1 clients wait on port");
    assert!(!running.stderr().contains("is ready"), "{}", running.report());
    running.signal(15);
    running.finish().expect_code(3);
}
