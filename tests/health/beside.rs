//! A healthcheck beside a real `run`: the state file as both actually use it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use crate::harness::launch::{Launch, program};
use crate::harness::place::TempDir;
use crate::harness::{Running, look, until};
use crate::server::serve;
use crate::{Said, said};

/// `run` with an app that keeps the listening socket it was given, and does nothing with it.
fn run(dir: &TempDir, flags: &[&str]) -> Running {
    let launch =
        Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["run", "--port", "0", "--handover", "on", "--state-dir"]);
    launch.arg(dir.path()).args(flags.iter().copied()).arg("--").arg(program("sleep")).arg("600").start()
}

#[track_caller]
fn ask(dir: &TempDir, words: &[&str]) -> Said {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["healthcheck", "--state-dir"]);
    said(launch.arg(dir.path()).args(words.iter().copied()))
}

fn files(dir: &TempDir) -> usize {
    fs::read_dir(dir.path()).unwrap().count()
}

#[test]
fn each_probe_follows_a_run_from_the_start_to_a_clean_end() {
    let dir = TempDir::new();
    let mut run = run(&dir, &["--drain", "1h"]);
    until("the app is launched", || ask(&dir, &["tcp"]).healthy);
    // The port is any free one, so the probe can have it only from the state.
    ask(&dir, &["tcp"]).expect(true, &["tcp://127.0.0.1:"]);
    run.signal(libc::SIGTERM);
    until("it drains", || !ask(&dir, &["tcp"]).healthy);
    ask(&dir, &["tcp"]).expect(false, &["phase draining"]);
    ask(&dir, &["--probe", "liveness"]).expect(true, &["phase draining"]);
    // A second signal ends the drain, and the app.
    run.signal(libc::SIGTERM);
    run.finish().expect_code(143);
    assert_eq!(files(&dir), 0, "a clean end leaves no state");
    ask(&dir, &["tcp"]).expect(false, &["no tcp port"]);
}

#[test]
fn the_target_of_run_is_queried_on_the_port_it_took() {
    let dir = TempDir::new();
    let run = run(&dir, &["--health", "grpc:a.B", "--liveness", "grpc"]);
    until("the app is launched", || ask(&dir, &["tcp"]).healthy);
    // The app never answers, so it does not become ready.
    let words = ["--timeout", "50ms", "--probe"];
    for (probe, end) in [("readiness", "/a.B, no status"), ("startup", "/a.B, no status")] {
        ask(&dir, &[&words[..], &[probe]].concat()).expect(false, &[end, "grpc://127.0.0.1:", "timed out after 50ms"]);
    }
    ask(&dir, &["--probe", "liveness"]).expect(true, &["phase starting"]);
    drop(run);
}

#[test]
fn a_run_that_is_killed_fails_every_probe() {
    let dir = TempDir::new();
    let mut run = run(&dir, &[]);
    until("the app is launched", || ask(&dir, &["tcp"]).healthy);
    run.signal(libc::SIGKILL);
    assert_eq!(run.finish().signal, Some(libc::SIGKILL));
    for probe in ["readiness", "liveness", "startup"] {
        ask(&dir, &["--probe", probe, "tcp"]).expect(false, &["is gone"]);
    }
}

#[test]
fn with_exec_the_app_is_the_writer() {
    let dir = TempDir::new();
    let mut run = run(&dir, &["--exec"]);
    until("the app is launched", || ask(&dir, &["tcp"]).healthy);
    ask(&dir, &["--probe", "liveness", "tcp"]).expect(true, &["tcp://127.0.0.1:"]);
    run.signal(libc::SIGTERM);
    assert_eq!(run.finish().signal, Some(libc::SIGTERM));
    ask(&dir, &["tcp"]).expect(false, &["is gone"]);
}

/// The server has closed the connection when replies to its pings are due: writing them must not kill the child before it can report the
/// reason.
#[test]
fn the_last_reason_of_a_target_that_closes_is_reported() {
    let bytes: Vec<u8> = [&b"\0\0\0\x04\0\0\0\0\0"[..], &b"\0\0\x08\x06\0\0\0\0\x0012345678".repeat(1000)].concat();
    let port = serve(TcpListener::bind("127.0.0.1:0").unwrap(), move |mut stream| {
        let mut request = Vec::new();
        // The request ends with its message, which is empty.
        while !request.ends_with(b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            request.push(byte[0]);
        }
        let _ = stream.write_all(&bytes);
    });
    let dir = TempDir::new();
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["run", "--start-timeout", "500ms", "--health"]);
    let launch = launch.arg(format!("grpc://127.0.0.1:{port}")).arg("--state-dir").arg(dir.path());
    let outcome = launch.arg("--").arg(program("sleep")).arg("600").start().finish().expect_code(124);
    let said = outcome.stderr.lines().find_map(|line| line.split_once("answered last: ")).map(|(_, reason)| reason);
    assert!(said.is_some_and(|reason| reason.len() > 5), "{}", outcome.report());
}

/// In a container with a read-only root, no tmpfs and no /dev/shm, on the host network: the holder of the port answers, and with the
/// settings alone the waiting instance would be called healthy because of it.
#[test]
fn pid_1_tells_its_state_where_nothing_can_be_written() {
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    let answering = holder.try_clone().unwrap();
    serve(answering, |mut stream| {
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let script = "for d in /run /dev/shm; do mount -t tmpfs -o ro none $d || exit 9; done\n\
                  mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp || exit 9\nexec \"$@\"";
    let alone = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"];
    let reberth = env!("CARGO_BIN_EXE_reberth");
    let launch = |port: &str| {
        let launch =
            Launch::new("unshare").args(alone).args([reberth, "run", "--port", port, "--handover", "on", "--"]);
        let mut running = launch.arg(program("sleep")).arg("600").start();
        running.stderr_until("no state file: /run: ");
        assert!(running.stderr().contains("healthcheck asks PID 1 itself"), "{}", running.report());
        // unshare has one child, which is PID 1 of the new namespace.
        let inside = look::children(running.pid)[0];
        (running, inside)
    };
    let asked = |pid: i32, words: &[&str]| {
        let enter = ["-t", &pid.to_string(), "--user", "--preserve-credentials", "--mount", "--pid"];
        let launch = Launch::new("nsenter").args(enter).args([reberth, "healthcheck"]).args(words.iter().copied());
        said(launch.env("REBERTH_PORT", port.to_string()))
    };
    let (running, inside) = launch(&format!("127.0.0.1:{port}"));
    asked(inside, &[]).expect(false, &["phase waiting"]);
    asked(inside, &["--probe", "liveness"]).expect(true, &["phase waiting"]);
    // Control: if the state is not looked for, the holder's answer counts.
    asked(inside, &["--state-dir", "/sys"]).expect(true, &["status 200"]);
    drop(running);
    // A port that only the state contains.
    let (running, inside) = launch("0");
    asked(inside, &["tcp"]).expect(true, &["tcp://127.0.0.1:"]);
    drop(running);
}

/// A lock on the file shows that PID 1 is alive, without a look at `/proc`. No other process's lock does.
#[test]
fn the_lock_of_pid_1_and_no_other_is_a_sign_of_life() {
    let dir = TempDir::new();
    let reberth = env!("CARGO_BIN_EXE_reberth");
    let alone = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", reberth, "run"];
    let launch = Launch::new("unshare").args(alone).args(["--port", "0", "--handover", "on", "--state-dir"]);
    let mut running = launch.arg(dir.path()).arg("--").arg(program("sleep")).arg("600").start();
    running.stderr_until("claimed");
    let inside = look::children(running.pid)[0];
    let enter = ["-t", &inside.to_string(), "--user", "--preserve-credentials", "--mount", "--pid"].map(str::to_owned);
    let asked = || {
        let launch = Launch::new("nsenter").args(&enter).args([reberth, "healthcheck", "--state-dir"]);
        said(launch.arg(dir.path()).arg("tcp"))
    };
    let file = || fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    until("it is published", || fs::read_to_string(file()).is_ok_and(|text| text.contains("\"starting\"")));
    asked().expect(true, &["tcp://127.0.0.1:"]);
    // If the start time is not its own, only the lock can prove it: it is the same file.
    let (path, text) = (file(), fs::read_to_string(file()).unwrap());
    let start = text.split("\"start_time\":").nth(1).unwrap().split(',').next().unwrap();
    let spoilt = text.replace(&format!(":{start},"), &format!(":{},", "7".repeat(start.len())));
    fs::write(&path, &spoilt).unwrap();
    asked().expect(true, &["tcp://127.0.0.1:"]);
    // The same text in another file, which is not locked; and then locked by another process.
    let beside = path.with_extension("copy");
    fs::write(&beside, &spoilt).unwrap();
    fs::rename(&beside, &path).unwrap();
    asked().expect(false, &["its pid belongs to another program now"]);
    let lock = "import fcntl, sys\nf = open(sys.argv[1])\nfcntl.lockf(f, fcntl.LOCK_SH)\nprint('locked', flush=True)\nsys.stdin.readline()";
    let stranger = Launch::new("nsenter").args(&enter).args(["python3", "-S", "-c", lock]).arg(&path);
    let mut stranger = stranger.stdin(crate::harness::launch::Stdio::Pipe).start();
    stranger.expect("locked");
    asked().expect(false, &["its pid belongs to another program now"]);
    stranger.write("\n");
    stranger.finish();
}
