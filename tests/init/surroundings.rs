//! Broken or poor environments: no standard error, no descriptors, no room for another process. And how quiet reberth is while there is
//! nothing to do.

use std::time::Duration;

use crate::harness::launch::{self, Stdio};
use crate::harness::wait::holds_within;
use crate::harness::{look, place};
use crate::{app, both, denied, run, run_app};

#[test]
fn a_closed_standard_error_does_no_harm() {
    both(|mode| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let launch = run_app(&["--port", "0", "--log", "trace"], "block ready until=15 exit=3");
        let mut running = mode(launch.stderr(Stdio::Given(writer.into()))).start();
        running.ready();
        running.signal(1);
        running.expect("signal 1");
        running.signal(15);
        let outcome = running.finish().expect_code(3);
        assert_eq!(outcome.stdout.lines().count(), 3, "{}", outcome.report());
    });
}

#[test]
fn a_standard_error_that_closes_during_the_run_does_no_harm() {
    both(|mode| {
        let mut running = mode(run_app(&["--log", "trace", "--grace", "300ms"], "ignore=15 ready pause")).start();
        running.ready();
        running.close_stderr();
        running.signal(15);
        running.finish().expect_code(137);
    });
}

#[test]
fn a_full_standard_error_does_no_harm() {
    both(|mode| {
        let full = launch::open("/dev/full", libc::O_WRONLY);
        let launch = run_app(&["--port", "0", "--log", "trace"], "say=hello exit=3").stderr(Stdio::Given(full));
        let outcome = mode(launch).start().finish().expect_code(3);
        assert_eq!(outcome.stdout, "hello\n", "{}", outcome.report());
    });
}

#[test]
fn no_log_line_is_on_standard_output() {
    let outcome = run_app(&["--port", "0", "--log", "trace"], "say=only exit=0").start().finish().expect_code(0);
    assert_eq!(outcome.stdout, "only\n", "{}", outcome.report());
    let outcome = run_app(&["--port", "0", "--log", "off"], "say=only exit=0").start().finish().expect_code(0);
    assert_eq!(outcome.stderr, "", "{}", outcome.report());
}

#[test]
fn closed_standard_descriptors_are_no_reason_to_fail() {
    both(|mode| {
        let port = place::free_port().to_string();
        for flags in [&[][..], &["--port", &port], &["--port", &port, "--handover", "on"]] {
            let place = place::TempDir::new();
            let file = place.path().join("out");
            let command = ["sh", "-c", "ls -l /proc/self/fd >\"$0\" 2>&1; exit 4", file.to_str().unwrap()];
            let launch = run(flags, command).stdin(Stdio::Closed).stdout(Stdio::Closed).stderr(Stdio::Closed);
            let outcome = mode(launch).start().finish().expect_code(4);
            let listed = std::fs::read_to_string(&file).unwrap_or_default();
            // What reberth has opened meanwhile must not become the app's standard input.
            assert!(!listed.contains(" 0 -> socket"), "{listed}\n{}", outcome.report());
            assert!(!listed.contains("anon_inode"), "{listed}\n{}", outcome.report());
        }
    });
}

#[test]
fn a_closed_standard_descriptor_stays_closed_for_the_app() {
    for flags in [&[][..], &["--exec"]] {
        let outcome = run_app(flags, "fds exit=4").stdin(Stdio::Closed).start().finish().expect_code(4);
        assert!(outcome.stdout.contains("fd 1 pipe:"), "{}", outcome.report());
        assert!(!outcome.stdout.contains("fd 0 "), "{}", outcome.report());
    }
}

#[test]
fn no_room_for_another_process_is_125_with_its_reason() {
    // The limit does not apply to root, so a test run as root runs this as another user, in a directory that any user may read.
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let mut launch = run_app(&[], "say=started").limit(libc::RLIMIT_NPROC, 0);
    let copy = std::env::temp_dir().join(format!("reberth-{}", place::unique()));
    if root {
        {
            let _alone = place::forking();
            std::fs::copy(env!("CARGO_BIN_EXE_reberth"), &copy).unwrap();
        }
        launch.words[0] = copy.clone().into();
        let last = launch.words.iter().position(|w| w == "--").unwrap();
        launch.words.truncate(last + 1);
        launch.words.push("true".into());
        launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
        launch = launch.uid(65_534);
    }
    let outcome = launch.start().finish_within(Duration::from_secs(5));
    let _ = std::fs::remove_file(&copy);
    let outcome = outcome.expect_code(125);
    assert_eq!(outcome.stdout, "", "{}", outcome.report());
    assert!(!outcome.stderr.is_empty(), "{}", outcome.report());
}

/// Voluntary context switches: one each time it slept and was woken.
fn wake_ups(pid: i32) -> String {
    look::status(pid, "voluntary_ctxt_switches").unwrap()
}

#[test]
fn reberth_sleeps_while_the_app_runs() {
    both(|mode| {
        let port = place::free_port();
        let listening = format!("listen=0.0.0.0:{port} ready pause");
        for (flags, steps) in [(&[][..], "ready pause"), (&["--port", &port.to_string()], listening.as_str())] {
            let mut running = mode(run_app(flags, steps)).start();
            running.ready();
            if !flags.is_empty() {
                running.stderr_until(&port.to_string());
            }
            // Once it has settled, a second passes without a wake-up.
            let init = running.init;
            let mut before = String::new();
            let settled = holds_within(Duration::from_secs(10), || {
                before = wake_ups(init);
                !holds_within(Duration::from_secs(1), || wake_ups(init) != before)
            });
            assert!(settled, "it keeps waking up: {}", running.report());
        }
    });
}

#[test]
fn it_runs_without_any_place_for_its_state_and_read_only() {
    // There is no writable directory at all: one warning, and it continues. A user namespace, or root, makes the mounts read-only for this
    // test alone.
    let script = "mount -t tmpfs -o ro none /run; mount -t tmpfs -o ro none /dev/shm; mount -t tmpfs -o ro none /tmp 2>/dev/null; \
                  exec \"$@\"";
    let mut inner = run(&["--port", "0"], ["sh", "-c", "exit 6"]);
    inner.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
    // The binary itself may be below /tmp, which is about to be covered: access it by descriptor.
    let binary = launch::open(env!("CARGO_BIN_EXE_reberth"), libc::O_RDONLY);
    inner.words[0] = "/proc/self/fd/7".into();
    let outer = launch::Launch::new("unshare")
        .args(mount_namespace())
        .args(["sh", "-c", script, "sh"])
        .args(inner.words.clone())
        .descriptor(7, binary);
    outer.start().finish().expect_code(6);
}

fn mount_namespace() -> Vec<&'static str> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } == 0 { vec!["--mount"] } else { vec!["--user", "--map-root-user", "--mount"] }
}

#[test]
fn without_proc_it_is_still_an_init() {
    // The mount covers /proc for this test alone.
    for command in ["exit 6", "sleep 1000 & sleep 1000 & kill -9 $$"] {
        let code = if command == "exit 6" { 6 } else { 137 };
        let mut inner = run(&["--port", "0", "--grace", "500ms"], ["sh", "-c", command]);
        inner.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
        let script = "mount -t tmpfs none /proc; exec \"$@\"";
        let outer = launch::Launch::new("unshare")
            .args(mount_namespace())
            .args(["sh", "-c", script, "sh"])
            .args(inner.words.clone());
        let running = outer.start();
        let tag = running.tag.clone();
        let _ended = running.finish_within(Duration::from_secs(5)).expect_code(code);
        assert_eq!(look::tagged(&tag), Vec::<i32>::new());
    }
}

#[test]
fn a_working_directory_that_is_gone_is_no_reason_to_fail() {
    both(|mode| {
        let place = place::TempDir::new();
        let inner = run_app(&["--port", "0"], "exit=6");
        let script = "rmdir \"$PWD\" && exec \"$@\"";
        let outer = launch::Launch::new("sh").args(["-c", script, "sh"]).args(inner.words.clone()).cwd(place.path());
        mode(outer).start().finish().expect_code(6);
    });
}

/// A terminal blocks its writer until there is room, whatever poll(2) reports.
#[test]
fn a_terminal_that_is_not_read_does_not_prevent_the_exit() {
    both(|mode| {
        let (master, slave) = crate::harness::terminal::pair();
        let launch = run_app(&["--log", "debug"], "block ready until=15 exit=3").stderr(Stdio::Given(slave));
        let mut running = mode(launch).start();
        running.ready();
        // One log line each, far more than the terminal buffers.
        for _ in 0..500 {
            running.signal(libc::SIGRTMAX());
        }
        running.line_after("signal");
        running.signal(libc::SIGTERM);
        running.finish_within(std::time::Duration::from_secs(10)).expect_code(3);
        drop(master);
    });
}

#[test]
fn a_pipe_as_the_command_is_not_waited_for() {
    let place = place::TempDir::new();
    let pipe = place.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let outcome = run(&[], [pipe.into_os_string()]).start().finish_within(std::time::Duration::from_secs(10));
    outcome.expect_code(126).expect_stderr("not a program");
}

/// The child that probes the health target belongs to reberth; the app has not left it behind.
#[test]
fn a_running_probe_is_no_leftover() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}/", silent.local_addr().unwrap());
    let launch = run_app(&["--health", &target], "ready line exit=3").stdin(Stdio::Pipe);
    let mut running = launch.env("REBERTH_HEALTH_TIMEOUT", "30s").start();
    running.ready();
    let asked = silent.accept().unwrap();
    running.write("\n");
    let outcome = running.finish_within(std::time::Duration::from_secs(10)).expect_code(3);
    assert!(!outcome.stderr.contains("left"), "{}", outcome.report());
    drop(asked);
}

/// ppoll(2) refuses more descriptors than the limit on open files, and the limit may be lowered while reberth runs.
fn lower_the_limit(pid: i32, to: u64) {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: to };
    // SAFETY: a number, and a limit that outlives the call; the old limit is not requested.
    let lowered = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(lowered, 0, "{}", std::io::Error::last_os_error());
}

/// The CPU time it has used, in clock ticks of 10 ms.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_limit_lowered_to_nothing_leaves_an_init_that_handles_signals_and_does_not_spin() {
    both(|mode| {
        // With many inherited descriptors, its own have large numbers, too large for the fd_set of the C library.
        for inherited in ["", "dup=1100 "] {
            let port = place::free_port().to_string();
            // Without a watch over the port, which receives an event for every socket closed on this machine.
            let flags = ["--drain", "300ms", "--signal-map", "PWR=TERM", "--port", &port, "--relaunch", "0"];
            // Inspecting an app with so many descriptors takes time, which is not what is measured here.
            let flags = if inherited.is_empty() { &flags[..] } else { &flags[..4] };
            let mut launch = run_app(flags, "block ready until=15 exit=4").limit(libc::RLIMIT_NOFILE, 4096);
            let before = app::words(&format!("{inherited}exec"));
            launch.words = before.into_iter().chain(launch.words).collect();
            let mut running = mode(launch).start();
            running.ready();
            let init = running.init;
            lower_the_limit(init, 0);
            // One wake-up, so that the next call is affected by the limit.
            running.signal(libc::SIGUSR1);
            running.expect("signal 10");
            let before = ticks(init);
            let spins = holds_within(Duration::from_millis(600), || ticks(init) > before + 20);
            assert!(!spins, "{inherited}: {}", running.report());
            // Signals, deadlines and children are still handled, and immediately.
            let began = std::time::Instant::now();
            running.signal(libc::SIGUSR2);
            running.expect("signal 12");
            assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
            running.signal(libc::SIGPWR);
            running.expect("signal 15");
            running.finish().expect_code(4);
        }
    });
}

#[test]
fn a_limit_lowered_during_the_wait_for_the_port_still_lets_signals_through() {
    both(|mode| {
        for inherited in ["", "dup=1100 "] {
            let port = place::free_port();
            let _holder = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
            let port = port.to_string();
            let flags = ["--port", &port, "--wait", "forever", "--backoff", "50s..50s"];
            let mut launch = run_app(&flags, "say=started").limit(libc::RLIMIT_NOFILE, 4096);
            let before = app::words(&format!("{inherited}exec"));
            launch.words = before.into_iter().chain(launch.words).collect();
            let mut running = mode(launch).start();
            running.stderr_until("is busy, waiting");
            let init = running.init;
            lower_the_limit(init, 0);
            // It wakes up, and continues to wait.
            running.signal(libc::SIGWINCH);
            let before = ticks(init);
            assert!(!holds_within(Duration::from_millis(300), || running.has_ended() || ticks(init) > before + 10));
            let began = std::time::Instant::now();
            running.signal(libc::SIGTERM);
            let outcome = running.finish_within(Duration::from_secs(5)).expect_code(143);
            assert!(began.elapsed() < Duration::from_millis(500), "{:?} {}", began.elapsed(), outcome.report());
        }
    });
}

/// Each reason has its own fix.
#[test]
fn signals_that_cannot_be_read_are_reported_with_the_fix() {
    for (errno, says, not) in [
        (libc::EPERM, "seccomp", "ulimit"),
        (libc::EACCES, "seccomp", "ulimit"),
        (libc::ENOSYS, "seccomp", "ulimit"),
        (libc::EMFILE, "ulimit -n", "seccomp"),
        (libc::ENFILE, "fs.file-max", "ulimit"),
        (libc::ENOMEM, "memory", "ulimit"),
    ] {
        let launch = denied(&[(libc::SYS_signalfd4, errno)], run_app(&["--log", "off"], "say=started"));
        let outcome = launch.start().finish().expect_code(125);
        assert_eq!(outcome.stdout, "", "{}", outcome.report());
        assert!(outcome.stderr.contains(says) && !outcome.stderr.contains(not), "{}", outcome.report());
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.report());
    }
}
