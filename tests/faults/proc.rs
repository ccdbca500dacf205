//! `/proc` missing, or showing only a user's own processes: everything degrades, and nothing is claimed that cannot be known.

use std::net::TcpListener;
use std::path::PathBuf;

use crate::harness::Launch;
use crate::harness::launch::{Stdio, program};
use crate::harness::place::{self, TempDir};
use crate::{REBERTH, after, app, holder, is_root, mounted, rounds, run_in, stop};

/// An app that needs no /proc: it listens on PORT.
const LISTENS: &str = "import os, socket, sys\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                       s.bind(('0.0.0.0', int(os.environ['PORT'])))\ns.listen()\nprint('ready', flush=True)\nsys.stdin.readline()\n";

fn without_proc(launch: Launch) -> Launch {
    mounted(&[], "mount -t tmpfs none /proc", launch)
}

fn run(flags: &[&str]) -> Launch {
    let python = program("python3").into_os_string();
    let mut launch = run_in("/".as_ref(), flags, [python, "-c".into(), LISTENS.into()]);
    launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
    launch.stdin(Stdio::Pipe)
}

#[test]
fn without_proc_a_port_is_waited_for_and_the_app_is_seen_coming_up() {
    let count = rounds(2);
    for _ in 0..count {
        let port = place::free_port();
        let text = port.to_string();
        let mut held = holder(port);
        let given_up = without_proc(run(&["--port", &text, "--wait", "0s"])).start().finish().expect_code(124);
        // The kernel reports the socket, but its process cannot be found.
        assert!(!given_up.stderr.contains(&format!("pid {}", held.pid)), "{}", given_up.report());
        given_up.expect_stderr("listening");
        let flags = ["--port", &text, "--wait", "50s", "--backoff", "50s..50s", "--start-timeout", "20s"];
        let mut waiter = without_proc(run(&flags)).start();
        waiter.stderr_until("is busy, waiting");
        assert_eq!(waiter.stderr().matches("no state file").count(), 1, "{}", waiter.report());
        held.signal(libc::SIGKILL);
        waiter.line_after("ready");
        waiter.stderr_until(&format!("the app is ready on port {port}"));
        waiter.write("\n");
        waiter.finish().expect_code(0);
    }
    println!("without /proc: {count} rounds of give up, wait, come up, end");
}

#[test]
fn without_proc_a_socket_handed_over_is_not_reported_as_closed() {
    let port = place::free_port();
    let mut launch = run(&["--port", &port.to_string(), "--handover", "on", "--start-timeout", "15s"]);
    launch.words.truncate(launch.words.iter().position(|word| word == "--").unwrap());
    let mut running = without_proc(launch.args(["--", "sleep", "60"])).start();
    running.stderr_until(&format!("the app is ready on port {port}"));
    assert!(!running.stderr().contains("closed"), "{}", running.report());
    stop(running);
    println!("without /proc: 1 socket handed over, called ready when nobody was kept waiting");
}

#[test]
fn without_proc_a_listener_that_is_not_there_is_not_called_ready() {
    let port = place::free_port().to_string();
    let mut launch = run(&["--port", &port, "--start-timeout", "500ms"]);
    launch.words.truncate(launch.words.iter().position(|word| word == "--").unwrap());
    let outcome = without_proc(launch.args(["--", "sleep", "60"])).start().finish().expect_code(124);
    assert!(!outcome.stderr.contains("is ready"), "{}", outcome.report());
    assert!(!outcome.stderr.contains("not listening on any port"), "nobody can know: {}", outcome.report());
    println!("without /proc: 1 app that does not listen, not called ready");
}

#[test]
fn without_proc_a_healthcheck_goes_by_its_settings_alone() {
    let dir = TempDir::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let ask = |words: &[&str]| {
        let asked =
            Launch::new(REBERTH).args(["healthcheck", "--state-dir"]).arg(dir.path()).args(words.iter().copied());
        without_proc(asked)
    };
    for probe in ["readiness", "liveness", "startup"] {
        let outcome = ask(&["--probe", probe, "tcp"]).start().finish().expect_code(1);
        assert!(outcome.stdout.starts_with("unhealthy"), "{}", outcome.report());
        ask(&["--probe", probe, "tcp"]).env("PORT", &port).start().finish().expect_code(0);
    }
    println!("without /proc: 3 probes with a port of their own pass, 3 without one fail");
}

/// Copies of the programs, and a directory for state, where any user may reach them. Removed on drop.
struct Public(PathBuf);

impl Public {
    /// `None`, with a note, for a user who cannot change to other users.
    fn new() -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        if !is_root() {
            println!("NOT RUN: only root becomes two other users");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("reberth-faults-{}", place::unique()));
        std::fs::create_dir_all(dir.join("state")).unwrap();
        let _alone = place::forking();
        std::fs::copy(REBERTH, dir.join("reberth")).unwrap();
        std::fs::copy(app::program(), dir.join("app")).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(dir.join("state"), std::fs::Permissions::from_mode(0o777)).unwrap();
        Some(Self(dir))
    }

    fn place(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn reberth(&self, words: &[&str]) -> Launch {
        Launch::new(self.place("reberth")).args(words.iter().copied())
    }

    /// `run` with the app; its state is wherever there is a place.
    fn run(&self, flags: &[&str], steps: &str) -> Launch {
        let run = self.reberth(&["run"]).args(flags.iter().copied()).arg("--");
        run.args([&self.place("app"), app::MARK]).args(steps.split_whitespace())
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// As a user other than root, in a PID namespace whose /proc shows every user only their own processes.
fn hidden(uid: u32, launch: Launch) -> Launch {
    let launch = after(&format!("uid={uid}"), launch);
    mounted(&["--pid", "--fork", "--kill-child"], "mount -t proc -o hidepid=2 proc /proc", launch)
}

#[test]
fn where_proc_hides_others_their_names_are_not_made_up() {
    let Some(public) = Public::new() else { return };
    let count = rounds(2);
    for _ in 0..count {
        let port = place::free_port();
        let text = port.to_string();
        let _held = holder(port);
        // The holder belongs to root, in another PID namespace; only its user can be reported.
        let launch = public.run(&["--port", &text, "--wait", "0s"], "say=never");
        let outcome = hidden(65_534, launch).start().finish().expect_code(124);
        assert!(outcome.stderr.contains("uid 0") || outcome.stderr.contains("root"), "{}", outcome.report());
        assert!(!outcome.stderr.contains("tests/faults"), "{}", outcome.report());
        let who = hidden(65_534, public.reberth(&["who", &text, "--json"])).start().finish().expect_code(1);
        assert!(who.stdout.contains("\"pid\":null"), "{}", who.report());
    }
    println!("a holder that /proc hides: {count} rounds of give up and who, its user told and no name");
}

#[test]
fn if_proc_hides_the_writer_its_state_is_named_and_not_trusted() {
    let Some(public) = Public::new() else { return };
    let count = rounds(2);
    for _ in 0..count {
        let port = place::free_port().to_string();
        // In one namespace: root's `run`, and probes as its own user, as root and as another user.
        let probe = format!("{} healthcheck --state-dir {} tcp", public.place("reberth"), public.place("state"));
        let steps = format!("listen=0.0.0.0:{port} ready pause");
        let script = format!(
            "\"$@\" & until {probe}; do sleep 0.05; done; \
             PORT= setpriv --reuid 4242 --regid 4242 --clear-groups {probe} || echo code $?; kill $!; wait $! || echo ended $?"
        );
        let inner = public.run(&["--port", &port, "--state-dir", &public.place("state")], &steps);
        let words = crate::under(["sh", "-c", &script, "sh"], inner);
        let launch = mounted(&["--pid", "--fork", "--kill-child"], "mount -t proc -o hidepid=2 proc /proc", words);
        let outcome = launch.start().finish().expect_code(0);
        for part in ["\nhealthy", "\nunhealthy tcp, no status", "/proc hides its writer", "\ncode 1\n", "\nended 143\n"]
        {
            assert!(outcome.stdout.contains(part), "{part:?}: {}", outcome.report());
        }
        assert!(!outcome.stdout.contains("gone"), "{}", outcome.report());
    }
    println!("a writer that /proc hides: {count} rounds, named, not believed, not called dead");
}
