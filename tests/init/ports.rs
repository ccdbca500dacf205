//! What `run` publishes about its ports, and what it logs about where the app listens.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::harness::launch::Stdio;
use crate::harness::{Running, place, running, until};
use crate::{both, run_app};

#[test]
fn the_port_file_is_complete_before_the_app_starts() {
    both(|mode| {
        let (first, second) = (place::free_port(), place::free_port());
        let place = place::TempDir::new();
        let file = place.path().join("ports");
        let specs = format!("{second},web={first}");
        let launch = run_app(&["--port", &specs, "--port-file", file.to_str().unwrap()], "ready pause");
        let mut running = mode(launch).start();
        running.ready();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{second}\nweb={first}\n"));
        let names: Vec<_> = std::fs::read_dir(place.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["ports"], "something was left beside it");
    });
}

#[test]
fn files_that_cannot_be_written_are_125_before_the_launch() {
    for flags in [
        ["--port-file", "/no/such/folder/file"],
        ["--log-file", "/no/such/folder/file"],
        ["--state-dir", "/no/such/folder"],
    ] {
        let flags = [&flags[..], &["--port", "0"]].concat();
        let outcome = run_app(&flags, "say=started").start().finish().expect_code(125).expect_stderr("/no/such/folder");
        assert_eq!(outcome.stdout, "", "{}", outcome.report());
    }
}

/// Containers all have pid 1, and may share the volume with the file: a reader always finds one complete file, and no start fails.
#[test]
fn instances_with_the_same_pid_do_not_write_into_each_others_port_file() {
    let place = place::TempDir::new();
    let file = place.path().join("ports");
    // An attacker may have created a link under a predictable name.
    let victim = place.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink("victim", place.path().join("ports.1.new")).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = |name: &'static str| {
            let file = &file;
            move || {
                for _ in 0..8 {
                    let specs = format!("{name}=0");
                    let launch = run_app(&["--port", &specs, "--port-file", file.to_str().unwrap()], "exit=0");
                    launch.first_in_namespace().start().finish().expect_code(0);
                }
            }
        };
        let writers = [scope.spawn(writer("one")), scope.spawn(writer("two"))];
        let reader = scope.spawn(|| {
            until("the writers are done", || {
                if let Ok(text) = std::fs::read_to_string(&file) {
                    assert!(text.ends_with('\n') && text.lines().count() == 1, "not a whole file: {text:?}");
                }
                over.load(std::sync::atomic::Ordering::Relaxed)
            });
        });
        let ended = writers.map(std::thread::ScopedJoinHandle::join);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
        ended.into_iter().for_each(|end| end.unwrap());
    });
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "precious");
}

#[test]
fn a_port_file_replaces_files_and_nothing_else() {
    let place = place::TempDir::new();
    let at = |name: &str| place.path().join(name);
    let run = |name: &str| {
        run_app(&["--port", "0", "--log", "off", "--port-file", at(name).to_str().unwrap()], "say=started")
    };
    // A link is kept: the file it points to is replaced.
    std::fs::write(at("file"), "old").unwrap();
    std::os::unix::fs::symlink("file", at("link")).unwrap();
    run("link").start().finish().expect_code(0);
    assert!(at("link").is_symlink() && std::fs::read_to_string(at("file")).unwrap() != "old");
    let pipe = nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU);
    pipe.unwrap();
    std::os::unix::fs::symlink("/dev/null", at("null")).unwrap();
    for name in ["pipe", "null", "."] {
        // A bad setting is reported whatever the log level.
        let outcome = run(name).start().finish().expect_code(125).expect_stderr("--port-file");
        assert_eq!(outcome.stdout, "", "{}", outcome.report());
    }
    assert!(!at("pipe").is_file() && at("null").is_symlink());
}

#[test]
fn templates_and_variables_carry_the_port() {
    let (first, second) = (place::free_port(), place::free_port());
    let specs = format!("{first},admin-api=127.0.0.1:{second}");
    let steps = "say={port} say=x{port}y{port}z say={port.admin-api} say={addr} say={host} say={\"json\":{\"port\":1}} \
                 say={} say={port say=port} say={Port} say={{port}} var=PORT var=PORT_ADMIN_API";
    let outcome = run_app(&["--port", &specs], steps).start().finish().expect_code(0);
    let expected = format!(
        "{first}\nx{first}y{first}z\n{second}\n0.0.0.0:{first}\n0.0.0.0\n{{\"json\":{{\"port\":1}}}}\n{{}}\n{{port\nport}}\n\
         {{Port}}\n{{{first}}}\nPORT={first}\nPORT_ADMIN_API={second}\n"
    );
    assert_eq!(outcome.stdout, expected, "{}", outcome.report());
}

#[test]
fn templates_without_a_meaning_are_bad_values() {
    for (flags, steps) in [
        (&[][..], "say={port}"),
        (&["--port", "web=0"], "say={port.other}"),
        (&["--port", "0", "--handover", "off"], "say={fd}"),
    ] {
        let outcome = run_app(flags, steps).start().finish().expect_code(125);
        assert_eq!(outcome.stdout, "", "{}", outcome.report());
    }
    // The command word is not an argument.
    crate::run(&["--port", "0"], ["/{port}"]).start().finish().expect_code(127);
}

#[test]
fn any_free_port_is_the_same_everywhere() {
    let place = place::TempDir::new();
    let (file, log) = (place.path().join("port"), place.path().join("log"));
    let flags = [
        "--port",
        "0",
        "--port-file",
        file.to_str().unwrap(),
        "--log-file",
        log.to_str().unwrap(),
        "--log-format",
        "json",
    ];
    let mut running = run_app(&flags, "var=PORT say={port} ready pause").start();
    let port: u16 = running.line_after("PORT=").parse().unwrap();
    running.expect(&port.to_string());
    running.ready();
    assert_ne!(port, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{port}\n"));
    assert!(std::fs::read_to_string(&log).unwrap().contains(&port.to_string()), "{}", running.report());
}

#[test]
fn a_fallback_port_is_the_same_everywhere() {
    let port = place::free_port();
    let _holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let flags = ["--port", &port.to_string(), "--wait", "0s", "--fallback", "next:20"];
    let mut running = run_app(&flags, "var=PORT say={port} ready pause").start();
    let taken: u16 = running.line_after("PORT=").parse().unwrap();
    running.expect(&taken.to_string());
    running.ready();
    assert!(taken > port && taken <= port + 20, "{taken}");
    assert!(running.stderr().contains(&taken.to_string()), "{}", running.report());
}

#[test]
fn without_a_port_the_environment_is_left_alone() {
    let outcome = run_app(&[], "var=PORT var=LISTEN_FDS say={json} exit=0").start().finish().expect_code(0);
    assert_eq!(outcome.stdout, "PORT unset\nLISTEN_FDS unset\n{json}\n");
}

#[test]
fn a_ready_app_is_logged_with_its_port() {
    both(|mode| {
        let port = place::free_port();
        let steps = format!("listen=0.0.0.0:{port} ready pause");
        let mut running = mode(run_app(&["--port", &port.to_string()], &steps)).start();
        running.ready();
        until("the app is called ready", || {
            let said = running.stderr();
            said.lines().any(|l| l.contains(&port.to_string()) && (l.contains("ms") || l.contains("ready")))
        });
        until("the phase is ready", || state(&running).contains("ready"));
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        running.signal(15);
        running.finish().expect_code(143);
    });
}

fn state(running: &Running) -> String {
    let files = std::fs::read_dir(running.dir.path()).unwrap().flatten();
    files.map(|e| String::from_utf8_lossy(&std::fs::read(e.path()).unwrap_or_default()).into_owned()).collect()
}

#[test]
fn an_app_on_loopback_only_is_reported() {
    let port = place::free_port();
    let steps = format!("listen=127.0.0.1:{port} ready pause");
    let mut running = run_app(&["--port", &port.to_string()], &steps).start();
    running.ready();
    running.stderr_until("127.0.0.1");
    running.stderr_until("0.0.0.0");
}

#[test]
fn an_app_on_another_address_than_configured_is_reported() {
    for (told, listens, said) in [
        ("0.0.0.0", "127.0.0.1", "on loopback only"),
        ("127.0.0.1", "127.0.0.2", "not on port 127.0.0.1:"),
        ("[::1]", "127.0.0.1", "not on port [::1]:"),
    ] {
        let port = place::free_port();
        let mut running =
            run_app(&["--port", &format!("{told}:{port}")], &format!("listen={listens}:{port} pause")).start();
        running.stderr_until(said);
        running.signal(15);
        running.finish().expect_code(143);
    }
}

/// Next.js and others bind only the address of HOSTNAME: they answer from outside, but not on loopback.
#[test]
fn an_app_on_one_address_of_a_wildcard_is_reported_and_stays_reachable() {
    for (told, address, said) in [
        ("", "10.9.8.7", "only, not on all addresses"),
        ("0.0.0.0:", "10.9.8.7", "only, not on all addresses"),
        ("", "[fd00:9::7]", "only, not on all addresses"),
        ("", "127.0.0.2", "on loopback only"),
        ("", "[::1]", "on loopback only"),
        // As Java's sockets do, which are for both families.
        ("", "[::ffff:10.9.8.7]", "only, not on all addresses"),
        ("", "[::ffff:127.0.0.1]", "on loopback only"),
    ] {
        let port = place::free_port();
        let flags = ["--port", &format!("{told}{port}"), "--health", "tcp", "--start-timeout", "8s"];
        let mut launch = run_app(&flags, &format!("listen={address}:{port} ready pause"));
        let network = "ip link set lo up && ip addr add 10.9.8.7 dev lo && ip addr add fd00:9::7 dev lo && exec \"$@\"";
        let words = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", network, "sh"];
        launch.words = words.into_iter().map(Into::into).chain(launch.words).collect();
        let mut running = launch.start();
        running.ready();
        let address = address.trim_start_matches("[::ffff:");
        let address = if address.contains('.') { address.trim_end_matches(']') } else { address };
        running.stderr_until(&format!("{address}:{port}"));
        running.stderr_until(said);
        running.stderr_until("bind 0.0.0.0");
        running.stderr_until("is ready on port");
        let bare = address.trim_matches(['[', ']']);
        until("the state says where", || state(&running).contains(&format!("\"{bare}\"")));
        running.signal(15);
        running.finish().expect_code(143);
    }
}

/// A debugger's or metrics port opens before the app's own: it is logged, and not called a mistake while the app may still be starting.
#[test]
fn a_side_port_that_opens_first_is_no_mistake() {
    let (port, side) = (place::free_port(), place::free_port());
    let steps = format!("listen=127.0.0.1:{side} ready line listen=0.0.0.0:{port} pause");
    let mut running = run_app(&["--port", &port.to_string()], &steps).stdin(Stdio::Pipe).start();
    running.ready();
    running.stderr_until(&format!("listens on 127.0.0.1:{side} so far; still waiting for it on port {port}"));
    running.write("\n");
    running.stderr_until("is ready on port");
    assert!(!running.stderr().contains("WARN"), "{}", running.report());
    running.signal(15);
    running.finish().expect_code(143);
}

#[test]
fn an_app_that_stays_on_another_port_is_a_mistake_near_its_start_timeout() {
    let (port, side) = (place::free_port(), place::free_port());
    let flags = ["--port", &port.to_string(), "--start-timeout", "6s"];
    let steps = format!("listen=0.0.0.0:{side} ready line listen=0.0.0.0:{port} pause");
    let mut running = run_app(&flags, &steps).stdin(Stdio::Pipe).start();
    running.ready();
    running.stderr_until(&format!("listens on 0.0.0.0:{side}, not on port {port} as configured"));
    running.write("\n");
    running.stderr_until(&format!("serves port {port} now: earlier warnings about it no longer apply"));
    running.signal(15);
    running.finish().expect_code(143);
}

#[test]
fn an_app_on_its_second_port_only_is_reported() {
    let (first, second) = (place::free_port(), place::free_port());
    let mut running =
        run_app(&["--port", &format!("{first},{second}")], &format!("listen=0.0.0.0:{second} pause")).start();
    running.stderr_until(&format!("and not on port {first}, its first port"));
    running.signal(15);
    running.finish().expect_code(143);
}

#[test]
fn a_udp_app_is_ready_when_it_has_bound() {
    let port = place::free_port();
    let script = "import socket, sys\nsys.stdin.readline()\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.bind(('', int(sys.argv[1])))\nprint('bound', flush=True)\nsys.stdin.readline()";
    let command = ["python3", "-c", script, "{port}"];
    let mut running =
        crate::run(&["--port", &format!("{port}/udp"), "--log", "debug"], command).stdin(Stdio::Pipe).start();
    running.stderr_until("launched");
    assert!(!running.stderr().contains("is ready"), "{}", running.report());
    running.write("\n");
    running.line_after("bound");
    running.stderr_until(&format!("is ready on port {port}"));
    running.write("\n");
    running.finish().expect_code(0);
}

#[test]
fn an_app_on_another_port_is_reported() {
    let (port, other) = (place::free_port(), place::free_port());
    let steps = format!("listen=0.0.0.0:{other} ready pause");
    let mut running = run_app(&["--port", &port.to_string()], &steps).start();
    running.ready();
    running.stderr_until(&other.to_string());
}

#[test]
fn the_state_file_comes_and_goes_with_run() {
    both(|mode| {
        let place = place::TempDir::new();
        let mut launch = run_app(&["--port", "0"], "ready pause");
        launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
        let mut running = mode(launch.env("REBERTH_STATE_DIR", place.path())).start();
        running.ready();
        // A new state file exists beside it for a moment, until it is renamed.
        until("there is one state file", || std::fs::read_dir(place.path()).unwrap().count() == 1);
        running.signal(15);
        running.finish().expect_code(143);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "the state file is left");
    });
}

#[test]
fn an_app_that_is_not_ready_in_time_is_124() {
    both(|mode| {
        for (grace, steps) in
            [("5s", "ready pause"), ("5s", "block ready until=15 exit=0"), ("200ms", "ignore=15 ready pause")]
        {
            let flags =
                ["--port", "0", "--start-timeout", "300ms", "--grace", grace, "--exit-map", "124=0,0=1,137=0,143=0"];
            let running = mode(run_app(&flags, steps)).start();
            running.finish_within(Duration::from_secs(4)).expect_code(124).expect_stderr("start-timeout");
        }
    });
}

#[test]
fn start_timeout_spares_apps_that_listen_or_exit() {
    let port = place::free_port();
    let flags = ["--port", &port.to_string(), "--start-timeout", "700ms"];
    let mut running = run_app(&flags, &format!("listen=0.0.0.0:{port} block ready until=15 exit=0")).start();
    running.ready();
    assert!(!crate::harness::wait::holds_within(Duration::from_millis(1200), || running.has_ended()));
    running.signal(15);
    running.finish().expect_code(0);
    run_app(&["--port", "0", "--start-timeout", "5s"], "exit=9").start().finish().expect_code(9);
    let port = port.to_string();
    run_app(&["--port", &port, "--start-timeout", "5s"], "block ready die=15").start().finish().expect_code(143);
    run_app(&["--start-timeout", "5s"], "exit=0").start().finish().expect_code(125);
}

#[test]
fn every_phase_is_published() {
    both(|mode| {
        let port = place::free_port();
        let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let steps =
            format!("block ready line listen=0.0.0.0:{port} fork ready=left: until=10 exit=0 end until=15 exit=3");
        let flags = ["--port", &port.to_string(), "--grace", "10s"];
        let mut running = mode(run_app(&flags, &steps).stdin(Stdio::Pipe)).start();
        let phase = |running: &Running, word: &str| {
            until(&format!("the phase is {word}"), || state(running).contains(&format!("\"{word}\"")));
        };
        phase(&running, "waiting");
        drop(holder);
        running.ready();
        phase(&running, "starting");
        running.write("\n");
        let left = running.ready_as("left:");
        let left = running.outside(left);
        phase(&running, "ready");
        running.signal(15);
        phase(&running, "exited");
        running::kill(left, 10);
        running.finish().expect_code(3);
    });
}

#[test]
fn a_launch_that_fails_leaves_no_state_behind() {
    let place = place::TempDir::new();
    let mut launch = crate::run(&["--port", "0"], ["/no/such/file"]);
    launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
    launch.env("REBERTH_STATE_DIR", place.path()).start().finish().expect_code(127);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "the state file is left");
}
