//! What an operator reads: each message as a whole, and its advice typed as printed. Each message is a file in tests/golden (`GOLDEN=write`
//! regenerates them: review the difference); docs/diagnosis.md has a row for each.

use std::path::Path;

use crate::golden::{self, between};
use crate::harness::launch::{Stdio, program};
use crate::harness::{Launch, Running, place, running, terminal};
use crate::{app, run, run_app};

#[track_caller]
fn golden(name: &str, said: &str, places: &[(&str, &str)]) {
    let this = app::program();
    golden::golden(name, said, &[places, &[("APP", this.to_str().unwrap())]].concat());
}

/// Another user's server on this port, and its command line as messages show it.
fn holder(port: u16) -> Running {
    let mut holder =
        Launch::new(app::program()).args([app::MARK, &format!("listen=0.0.0.0:{port}"), "ready", "pause"]).start();
    holder.ready();
    holder
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

/// Types a line into a shell.
#[track_caller]
fn typed(line: &str) {
    Launch::new(program("sh")).args(["-c", line]).start().finish().expect_code(0);
}

/// In a separate network namespace, with loopback up.
fn alone(mut launch: Launch, first: &str) -> Launch {
    let script = format!("ip link set lo up && {first}exec \"$@\"");
    let unshare: &[&str] = if nix::unistd::geteuid().is_root() {
        &["unshare", "--net"]
    } else {
        &["unshare", "--user", "--map-root-user", "--net"]
    };
    let words = unshare.iter().copied().chain(["sh", "-c", &script, "sh"]);
    launch.words = words.map(Into::into).chain(launch.words).collect();
    launch
}

#[test]
fn a_busy_port_is_reported_with_its_holder_and_the_fix() {
    let port = place::free_port();
    let port = port.to_string();
    let old = holder(port.parse().unwrap());
    let outcome = run_app(&["--port", &port, "--wait", "300ms"], "exit=0").start().finish().expect_code(124);
    golden("busy", &outcome.stderr, &[("PORT", &port), ("PID", &old.pid.to_string())]);
    // Each advice, exactly as printed.
    let next = words(between(&outcome.stderr, "take another port: ", ", --fallback any")).join(" ");
    run_app(&[&["--port", &port, "--wait", "0s"][..], &words(&next)].concat(), "exit=0")
        .start()
        .finish()
        .expect_code(0);
    run_app(&["--port", &port, "--wait", "0s", "--fallback", "any"], "exit=0").start().finish().expect_code(0);
    let longer = words(between(&outcome.stderr, "wait longer for it to exit (", ", or forever"));
    let flags = [&["--port", &port][..], &longer].concat();
    let mut waits = run_app(&flags, &format!("listen=0.0.0.0:{port} ready pause")).start();
    waits.stderr_until("is busy, waiting for up to 120s");
    typed(between(&outcome.stderr, "stop the holder (", ")"));
    waits.ready();
    // Next time without a refused client, for an app that cannot take a socket.
    let bind = words(outcome.stderr.trim_end().rsplit_once("next time: ").unwrap().1);
    let flags = [&["--port", &port][..], &bind].concat();
    let mut next = run_app(&flags, &format!("listen=0.0.0.0:{port} ready pause")).start();
    next.stderr_until("is busy, waiting");
    waits.signal(15);
    waits.finish().expect_code(143);
    next.ready();
    drop(old);
}

/// In a container: PID 1 gets advice with variables, because an image's ENTRYPOINT takes no flag; and the holder is invisible from there.
#[test]
fn a_hidden_holder_is_reported_with_the_fix() {
    let port = place::free_port().to_string();
    let old = holder(port.parse().unwrap());
    let launch = run_app(&["--port", &port], "exit=0").env("REBERTH_WAIT", "300ms");
    let outcome = launch.first_in_namespace().start().finish().expect_code(124);
    golden("busy-hidden", &outcome.stderr, &[("PORT", &port)]);
    // On the host, as root.
    let who = words(between(&outcome.stderr, "as root: reberth ", ")"));
    let seen = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(who).start().finish().expect_code(1);
    let row = seen.stdout.lines().nth(1).unwrap().to_owned();
    assert!(row.contains(&format!(" {} ", old.pid)), "{}", seen.report());
    // The advice of `who` is for people: in a pipe it prints only the rows.
    assert_eq!(seen.stdout.lines().count(), 2, "{}", seen.report());
    golden("who", &seen.stderr, &[("PORT", &port), ("PID", &old.pid.to_string())]);
    let (name, value) =
        between(&outcome.stderr, "wait longer for it to exit (", ", or forever").split_once('=').unwrap();
    let launch = run_app(&["--port", &port], &format!("listen=0.0.0.0:{port} ready pause")).env(name, value);
    let mut waits = launch.first_in_namespace().start();
    waits.stderr_until("is busy, waiting for up to 120s");
    running::kill(old.pid, 9);
    waits.ready();
    let (name, value) = between(&outcome.stderr, "take another port: ", ", ").split_once('=').unwrap();
    let launch = run_app(&["--port", &port, "--wait", "0s"], "exit=0").env(name, value);
    launch.first_in_namespace().start().finish().expect_code(0);
}

#[test]
fn the_json_reports_why_a_holder_is_hidden() {
    let port = place::free_port().to_string();
    let _old = holder(port.parse().unwrap());
    let who = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["who", "--json", &port]);
    let outcome = who.first_in_namespace().start().finish().expect_code(1);
    let said: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(said["ports"][0]["holders"][0]["hidden_by"], "namespace", "{}", outcome.report());
    assert!(outcome.stderr.is_empty(), "{}", outcome.report());
}

/// Leaves a TIME_WAIT that blocks: its server did not set SO_REUSEADDR. It lasts 60.9 s; this test alone waits for all of it.
#[test]
fn a_time_wait_outlives_a_short_wait_and_not_the_advised_one() {
    let port = place::free_port().to_string();
    let leave = format!(
        "import socket; s = socket.socket(); s.bind((\"\", {port})); s.listen(); c = socket.create_connection((\"127.0.0.1\", {port})); \
         a, _ = s.accept(); a.shutdown(1); c.recv(1); c.close(); a.recv(1); a.close(); s.close()"
    );
    let steps = format!("python3 -c '{leave}' && ");
    // Both instances run in the same network namespace, one after the other.
    let again = format!(
        "{steps}{{ \"$@\"; echo code $?; read -r wait value; set -- --port {port} $wait $value -- true; }} && set -- {} run \"$@\" && ",
        env!("CARGO_BIN_EXE_reberth")
    );
    let mut both = alone(run_app(&["--port", &port, "--wait", "300ms"], "exit=0"), &again).stdin(Stdio::Pipe).start();
    both.expect("code 124");
    let said = both.stderr();
    golden("time-wait", &said, &[("PORT", &port)]);
    both.write(&format!("{}\n", between(&said, "wait longer (", ")")));
    both.finish_within(std::time::Duration::from_secs(90)).expect_code(0).expect_stderr("is ours after");
}

/// The kernel gave the port to another process's outgoing connection. The sysctl replaces the whole list, so the advice includes what is in
/// it already.
#[test]
fn an_outgoing_connection_that_has_the_port_is_reported() {
    let port = place::free_port().to_string();
    let client = format!(
        "import socket, sys; s = socket.create_server((\"127.0.0.1\", 80)); c = socket.socket(); c.bind((\"127.0.0.1\", {port})); \
         c.connect((\"127.0.0.1\", 80)); a, _ = s.accept(); s.close(); print(\"connected\", flush=True); sys.stdin.readline()"
    );
    let sysctl = "net.ipv4.ip_local_port_range='1024 60999' net.ipv4.ip_local_reserved_ports=8080,9148-9150";
    let script = format!(
        "sysctl -qw {sysctl} && mkfifo \"$TEST_PIPE\" && {{ python3 -c '{client}' <\"$TEST_PIPE\" & }} && exec 9>\"$TEST_PIPE\" && \
         {{ until ss -tnH state established sport = :{port} | grep -q .; do :; done; \"$@\"; echo code $?; read -r line; sh -c \"$line\"; sysctl -n net.ipv4.ip_local_reserved_ports; }}; set -- true; "
    );
    let launch = run_app(&["--port", &port, "--wait", "300ms"], "exit=0").stdin(Stdio::Pipe);
    let pipe = launch.dir.path().join("pipe");
    let mut running = alone(launch.env("TEST_PIPE", pipe), &script).start();
    running.line_after("code 124");
    let said = running.stderr();
    let pid = between(&said, "held by pid ", " `");
    golden("client-connection", &said, &[("PORT", &port), ("PID", pid)]);
    let line = between(&said, "does not free it now: ", "\n");
    running.write(&format!("{line}\n"));
    let list = running.line_after("");
    let list = if list.contains('=') { running.line() } else { list };
    for kept in ["8080", "9148-9150", &port] {
        assert!(list.split(',').any(|one| one == kept), "{kept} in {list}");
    }
    running.finish().expect_code(0);
}

/// `docker run IMAGE --wait 120s` turns these words into COMMAND.
#[test]
fn an_option_after_the_dashes_is_explained() {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["run", "--", "--wait", "120s"]);
    let outcome = launch.start().finish().expect_code(127);
    golden("option-as-command", &outcome.stderr, &[]);
    let (name, value) = outcome.stderr.trim_end().rsplit_once("or set ").unwrap().1.split_once('=').unwrap();
    run_app(&["--port", "0"], "exit=0").env(name, value).start().finish().expect_code(0);
    let outcome = run(&[], ["-x"]).start().finish().expect_code(127);
    golden("dash-as-command", &outcome.stderr, &[]);
}

#[test]
fn a_command_line_in_one_argument_is_explained() {
    let outcome = run(&[], ["printf it-works"]).start().finish().expect_code(127);
    golden("one-argument", &outcome.stderr, &[]);
    let list: Vec<String> =
        serde_json::from_str(outcome.stderr.trim_end().rsplit_once("split it, as ").unwrap().1).unwrap();
    assert_eq!(run(&[], list).start().finish().expect_code(0).stdout, "it-works");
    // A path with a space in it is a path, unless its first word is a program.
    run(&[], ["/opt/my app/run"]).start().finish().expect_code(127).expect_stderr("/opt/my app/run: no such file");
    run(&[], ["/bin/sh -c true"]).start().finish().expect_code(127).expect_stderr("[\"/bin/sh\", \"-c\", \"true\"]");
}

#[test]
fn an_app_that_never_listens_is_reported() {
    let port = place::free_port().to_string();
    let mut running = run_app(&["--port", &port], "ready line exit=3").stdin(Stdio::Pipe).start();
    running.ready();
    running.stderr_until("not listening on any port yet");
    running.write("\n");
    let outcome = running.finish().expect_code(3);
    golden("listens-nowhere", &outcome.stderr, &[("PORT", &port)]);
    let outcome = run_app(&["--port", &port, "--handover", "bind"], "exit=3").start().finish().expect_code(3);
    golden("never-listened", &outcome.stderr, &[("PORT", &port)]);
    // An app that did listen gets no such warning, and neither does one that is stopped.
    let outcome =
        run_app(&["--port", &port, "--handover", "bind"], &format!("listen=0.0.0.0:{port} exit=3")).start().finish();
    assert!(!outcome.stderr.contains("never seen"), "{}", outcome.report());
    let mut stopped = run_app(&["--port", &port], "ready pause").start();
    stopped.ready();
    stopped.signal(15);
    let outcome = stopped.finish().expect_code(143);
    assert!(!outcome.stderr.contains("never seen"), "{}", outcome.report());
}

/// A typo in an `ENTRYPOINT` is reported immediately, not after the wait.
#[test]
fn a_missing_command_is_reported_before_the_wait() {
    let port = place::free_port().to_string();
    let _old = holder(port.parse().unwrap());
    let outcome = run(&["--port", &port, "--wait", "forever"], ["no-such-app"]).start().finish().expect_code(127);
    golden("not-found", &outcome.stderr, &[("PORT", &port)]);
    let place = place::TempDir::new();
    let script = place.file("app", "#!/opt/venv/bin/python3\n", 0o755);
    let outcome = run(&["--port", &port, "--wait", "forever"], [&script]).start();
    golden(
        "not-executable",
        &outcome.finish().expect_code(126).stderr,
        &[("PORT", &port), ("SCRIPT", script.to_str().unwrap())],
    );
}

/// Without the permission to bind port 80, the advice is what works in that place; here that is outside any container.
#[test]
fn a_low_port_outside_a_container_is_reported_with_the_fix() {
    assert!(nix::unistd::geteuid().is_root(), "this one gives a file a capability: it needs root");
    let as_user = "setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"; echo code $?; ";
    let place = place::TempDir::new();
    let copy = place.path().join("reberth");
    std::fs::copy(env!("CARGO_BIN_EXE_reberth"), &copy).unwrap();
    let steps = |flags: &[&str]| {
        let mut launch = run(flags, ["true"]);
        launch.words[0] = copy.clone().into();
        launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
        alone(launch, &format!("{as_user}set -- true; ")).start()
    };
    let mut refused = steps(&["--port", "80"]);
    refused.line_after("code 125");
    let said = refused.stderr();
    if std::fs::read_link("/proc/self/ns/pid").unwrap().to_str() != Some("pid:[4026531836]") {
        // The tests themselves run in a container; tests/container covers the rest.
        return assert!(said.contains("--sysctl"), "{said}");
    }
    golden("low-port", &said, &[]);
    typed(
        &between(&said, "capability (", " FILE)").replacen("setcap", program("setcap").to_str().unwrap(), 1).add(&copy),
    );
    let flag = between(&said, "hand the port over (", ", or on)");
    steps(&[&["--port", "80"][..], &words(flag)].concat()).line_after("code 0");
}

trait Add {
    fn add(self, path: &Path) -> String;
}

impl Add for String {
    fn add(self, path: &Path) -> String {
        format!("{self} {}", path.display())
    }
}

#[test]
fn files_that_cannot_be_written_are_all_reported() {
    let flags = ["--port", "0", "--port-file", "/no/such/port", "--log-file", "/no/such/log"];
    let outcome = run_app(&flags, "exit=0").start().finish().expect_code(125);
    golden("files", &outcome.stderr, &[]);
    let mut launch = run_app(&["--port", "0", "--state-dir", "/no/such/dir"], "exit=0");
    launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
    golden("state-dir", &launch.start().finish().expect_code(125).stderr, &[]);
    let check = Launch::new(env!("CARGO_BIN_EXE_reberth")).args([
        "healthcheck",
        "--state-dir",
        "/no/such/dir",
        "http://127.0.0.1:9/",
    ]);
    let outcome = check.start().finish().expect_code(1);
    assert!(outcome.stdout.starts_with("unhealthy"), "{}", outcome.report());
    let check = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["healthcheck", "--state-dir", "/no/such/dir"]);
    golden("state-dir-healthcheck", &check.env("PORT", "9").start().finish().expect_code(1).stdout, &[]);
}

#[test]
fn a_port_set_by_a_kubernetes_service_is_explained() {
    let outcome = run_app(&[], "exit=0").env("PORT", "tcp://10.0.0.1:80").start().finish().expect_code(0);
    golden("service-link", &outcome.stderr, &[]);
    let flag = between(&outcome.stderr, "(set ", " or");
    let outcome = run_app(&[flag, "0"], "var=PORT").env("PORT", "tcp://10.0.0.1:80").start().finish().expect_code(0);
    assert!(!outcome.stdout.contains("tcp:"), "{}", outcome.report());
}

/// Everything that is wrong, in one run, each with a suggestion.
#[test]
fn bad_values_are_reported_together() {
    let flags = ["--wait", "60", "--grace", "900", "--drain", "5000", "--fallback", "maybe", "--porf", "80"];
    golden(
        "bad-values",
        &run_app(&flags[..8], "exit=0").env("REBERTH_WIAT", "1s").start().finish().expect_code(125).stderr,
        &[],
    );
    golden("bad-flag", &run_app(&flags[8..], "exit=0").start().finish().expect_code(125).stderr, &[]);
}

/// A user who has just typed a command needs no timestamps.
#[test]
fn usage_errors_at_a_terminal_are_reported() {
    let (master, slave) = terminal::pair();
    let mut launch = run_app(&["--wait", "60"], "exit=0").stderr(Stdio::Given(slave));
    launch.stdout = Stdio::Null;
    let mut running = launch.start();
    running.read_from(master);
    running.expect("\u{1b}[31merror:\u{1b}[0m --wait 60: a duration needs a unit: 250ms, 10s, 1m30s, 2h (did you mean 60s?); or forever");
    running.finish().expect_code(125);
}

/// A stop that a supervisor takes for a failure.
#[test]
fn a_stop_is_143_unless_it_is_mapped() {
    for (flags, code) in [(&[][..], 143), (&["--exit-map", "143=0"], 0)] {
        let mut running = run_app(flags, "ready pause").start();
        running.ready();
        running.signal(15);
        running.finish().expect_code(code);
    }
}

#[test]
fn a_quiet_healthcheck_prints_nothing() {
    let flags = ["healthcheck", "-q", "file:/"];
    let outcome = Launch::new(env!("CARGO_BIN_EXE_reberth")).args(flags).start().finish().expect_code(0);
    assert!(outcome.stdout.is_empty(), "{}", outcome.report());
}

/// The app's own mistakes are reported as well.
#[test]
fn an_app_that_listens_at_the_wrong_place_is_reported() {
    let (port, other) = (place::free_port(), place::free_port());
    let (asked, side) = (port.to_string(), other.to_string());
    for (name, listens, until) in [
        ("loopback-only", format!("127.0.0.1:{port}"), "is ready on port"),
        ("another-port", format!("0.0.0.0:{other}"), "not on port"),
        ("wrong-address", format!("127.0.0.2:{port}"), "is ready on port"),
    ] {
        let told = if name == "wrong-address" { format!("127.0.0.1:{port}") } else { asked.clone() };
        let flags = ["--port", &told, "--start-timeout", "3s"];
        let mut running = run_app(&flags, &format!("listen={listens} ready pause")).start();
        running.ready();
        running.stderr_until(until);
        let said = running.stderr();
        golden(name, &said, &[("PORT", &asked), ("OTHER", &side)]);
    }
    let outcome = run_app(&["--port", "198.51.100.7:8080"], "exit=0").start();
    let said = outcome.finish().expect_code(125).stderr;
    let has = between(&said, "it has ", ": name one").to_owned();
    golden("no-such-address", &said, &[("ADDRESSES", &has)]);
    // The fix: no address at all.
    run_app(&["--port", "0"], "exit=0").start().finish().expect_code(0);
}
