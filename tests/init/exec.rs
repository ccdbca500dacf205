//! `--exec`: the app replaces reberth.

use crate::harness::{launch, look, place};
use crate::{both, run, run_app};

#[test]
fn the_app_replaces_reberth() {
    both(|mode| {
        let place = place::TempDir::new();
        let port = place::free_port();
        let flags = ["--exec", "--port", &format!("web={port}")];
        let steps = "ids status fds cwd var=PORT var=PORT_WEB say={port.web} ready pause";
        let launch = run_app(&flags, steps).cwd(place.path()).blocked(&[10, 17]).ignored(&[2, 13]);
        let mut running = mode(launch).start();
        let pid = running.ready();
        assert_eq!(running.outside(pid), running.init);
        let said = running.stdout();
        let cwd: String = place.path().as_os_str().as_encoded_bytes().iter().map(|b| format!("{b:02x}")).collect();
        for line in [
            "SigBlk: 0000000000010200",
            "SigIgn: 0000000000001002",
            "SigCgt: 0000000000000000",
            &format!("cwd {cwd}"),
            &format!("PORT={port}"),
            &format!("PORT_WEB={port}"),
            &port.to_string(),
        ] {
            assert!(said.lines().any(|l| l == line), "expected {line}\n{}", running.report());
        }
        assert_eq!(said.lines().filter(|l| l.starts_with("fd ")).count(), 3, "{}", running.report());
        assert_eq!(look::children(running.init), Vec::<i32>::new());
    });
}

#[test]
fn handover_under_exec_has_the_right_listen_pid() {
    both(|mode| {
        let port = place::free_port();
        let flags = ["--exec", "--port", &port.to_string()];
        let steps = "var=LISTEN_PID var=LISTEN_FDS var=LISTEN_FDNAMES fds say={fd} ready accept=3 exit=5";
        let mut running = mode(run_app(&flags, steps)).start();
        let pid = running.ready();
        let said = running.stdout();
        for line in [&format!("LISTEN_PID={pid}"), "LISTEN_FDS=1", &format!("LISTEN_FDNAMES={port}"), "3"] {
            assert!(said.lines().any(|l| l == line), "expected {line}\n{}", running.report());
        }
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        running.finish().expect_code(5);
    });
}

#[test]
fn inherited_descriptors_are_still_there() {
    let zero = launch::open("/dev/zero", libc::O_RDONLY);
    let outcome = run_app(&["--exec"], "fds").descriptor(8, zero).start().finish().expect_code(0);
    assert!(outcome.stdout.contains("fd 8 /dev/zero\n"), "{}", outcome.report());
}

#[test]
fn what_cannot_be_executed_has_the_same_codes() {
    run(&["--exec"], ["/no/such/file"]).start().finish().expect_code(127);
    run(&["--exec"], ["/etc"]).start().finish().expect_code(126);
    // By then the sockets have replaced reberth's own files, including the log.
    let place = crate::harness::place::TempDir::new();
    let log = place.path().join("log");
    let flags = ["--exec", "--handover", "on", "--log-file", log.to_str().unwrap(), "-p", "0,0,0"];
    run(&flags, ["/no/such/file"]).start().finish().expect_code(127).expect_stderr("no such file");
    assert!(std::fs::read_to_string(&log).unwrap().contains("no such file"));
    run_app(&["--exec", "--exit-map", "3=0"], "exit=3").start().finish().expect_code(3);
}
