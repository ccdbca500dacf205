//! Owns the promises that only a real container engine can show: images FROM scratch with the static binary, driven through Docker.
//! Run it with `cargo test --features container-tests --test container` after `cargo xtask static`. Must not know how reberth works inside.

// `allow-unwrap-in-tests` covers the test functions, but not the functions they call; threads and child processes are up to the tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod after;
mod bind;
mod diagnosis;
mod engine;
mod examples;
#[path = "../harness/golden.rs"]
mod golden;
mod manifests;
mod share;

use std::time::Duration;

use engine::{Client, Container, Made, Stream, command, docker, docker_ok, free_port, get, image, unique};

/// The restrictions of a hardened container. reberth needs nothing of what these take away.
const RESTRICTED: [&str; 8] = [
    "--user",
    "65534:65534",
    "--cap-drop",
    "ALL",
    "--read-only",
    "--security-opt",
    "no-new-privileges",
    "--init=false",
];

/// busybox's httpd on the host network, on this port.
fn on_host(port: u16, more: &[&str]) -> Container {
    let port = format!("PORT={port}");
    Container::run(&[&["--network", "host", "-e", &port], more].concat(), "busybox", &[])
}

/// The uvicorn app on the host network, answering with its name.
fn python(port: u16, instance: &str, arguments: &[&str]) -> Container {
    let (port, instance) = (format!("PORT={port}"), format!("INSTANCE={instance}"));
    Container::run(&["--network", "host", "-e", &port, "-e", &instance], "python", arguments)
}

#[test]
fn a_first_instance_gets_healthy() {
    let app = on_host(free_port(), &[]);
    app.wait_health("healthy");
    let log = app.inspect("{{(index .State.Health.Log 0).Output}}");
    assert!(log.starts_with("healthy"), "one line that starts with the verdict: {log:?}");
    assert_eq!(log.trim_end().lines().count(), 1, "{log:?}");
}

#[test]
fn a_second_instance_waits_and_takes_over() {
    let port = free_port();
    let old = python(port, "old", &[]);
    old.wait_health("healthy");
    let new = python(port, "new", &[]);
    new.wait_log("waiting");
    assert_eq!(
        new.inspect("{{.State.Health.Status}}"),
        "starting",
        "one that waits is not healthy, though the old one answers"
    );
    assert_eq!(new.exec(&["/reberth", "healthcheck", "--probe", "readiness"]).code, 1);
    assert_eq!(new.exec(&["/reberth", "healthcheck", "--probe", "startup"]).code, 1);
    assert_eq!(
        new.exec(&["/reberth", "healthcheck", "--probe", "liveness"]).code,
        0,
        "and yet nothing to be killed for"
    );

    let client = Client::start(port);
    client.wait_answer("old");
    old.stop();
    client.wait_answer("new");
    let tries = client.end();
    let gap = tries.gap("old", "new");
    // Nearly all of the gap is the new app's own start, which depends on the load of the machine.
    println!("takeover, the app binds by itself: gap {gap:?}; {}", tries.summary());
    assert!(gap < Duration::from_secs(20), "{gap:?}: {}\n{}", tries.summary(), new.logs());
    new.wait_health("healthy");
}

#[test]
fn with_handover_hardly_any_client_is_refused() {
    let port = free_port();
    let uvicorn = ["python3", "-m", "uvicorn", "--app-dir", "/", "--log-level", "warning", "--fd", "{fd}", "app:app"];
    let old = python(port, "old", &uvicorn);
    old.wait_health("healthy");
    let new = python(port, "new", &uvicorn);
    new.wait_log("waiting");
    let client = Client::start(port);
    client.wait_answer("old");
    old.stop();
    client.wait_answer("new");
    let tries = client.end();
    println!("takeover with handover: gap {:?}; {}", tries.gap("old", "new"), tries.summary());
    // Only requests between the old one's close and the new one's listen are refused.
    assert!(tries.refused_for() < Duration::from_millis(250), "{}\n{}", tries.summary(), new.logs());
}

#[test]
fn a_wait_that_times_out_is_124_with_a_diagnosis() {
    let port = free_port();
    let old = on_host(port, &[]);
    old.wait_health("healthy");
    let new = on_host(port, &["-e", "REBERTH_WAIT=1s"]);
    assert_eq!(new.exit_code(), 124);
    let logs = new.logs();
    // In a container no user can type a flag.
    for needle in [port.to_string().as_str(), "REBERTH_WAIT=120s", "REBERTH_FALLBACK=next"] {
        assert!(logs.contains(needle), "the diagnosis names {needle}");
    }
    assert!(matches!(get(port), engine::Try::Answer(_)), "the holder is not touched");
}

#[test]
fn the_healthcheck_finds_a_fallback_port() {
    let port = free_port();
    let old = on_host(port, &[]);
    old.wait_health("healthy");
    let new = on_host(port, &["-e", "REBERTH_WAIT=0s", "-e", "REBERTH_FALLBACK=next"]);
    new.wait_health("healthy");
    let verdict = new.exec(&["/reberth", "healthcheck"]);
    assert_eq!(verdict.code, 0);
    let used: u16 = (port + 1..=port + 100).find(|p| verdict.out.contains(&p.to_string())).expect(&verdict.out);
    assert!(matches!(get(used), engine::Try::Answer(_)), "somebody serves on {used}");
    // The configured port still belongs to the other instance: the verdict must not be about that.
    assert!(!verdict.out.contains(&format!(":{port}/")), "{}", verdict.out);
}

#[test]
fn everything_works_with_nothing_allowed() {
    for network in ["none", "bridge"] {
        let app =
            Container::run(&[&RESTRICTED[..], &["--network", network, "-e", "PORT=8080"]].concat(), "busybox", &[]);
        app.wait_health("healthy");
        let who = app.exec(&["/reberth", "who", "8080"]);
        assert_eq!(who.code, 1, "somebody holds it: {}", who.out);
        assert!(who.out.contains("httpd"), "{}", who.out);
        app.stop();
        assert_eq!(app.exit_code(), 143, "httpd dies of the TERM it gets");
    }
}

#[test]
fn a_stop_is_quick_and_brings_the_apps_code() {
    let app = Container::run(&[], "busybox", &["sh", "-c", "trap 'exit 7' TERM; echo up; sleep 600 & wait"]);
    app.wait_log("up");
    let took = app.stop();
    assert_eq!(app.exit_code(), 7);
    // This includes the engine's own work. Without an init the engine waits for ten seconds and kills, as the control shows.
    assert!(took < Duration::from_secs(8), "docker stop took {took:?}");

    let control = Container::run(&["--entrypoint", "sleep"], "busybox", &["600"]);
    docker_ok(&["stop", "-t", "2", &control.name]);
    assert_eq!(control.exit_code(), 137, "a PID 1 without signal handlers does not hear TERM");
}

#[test]
fn orphans_leave_no_zombies() {
    // An orphan is created and exits; PID 1 inherits it.
    let orphans = "for n in 1 2 3 4 5; do (sh -c 'exit 3' &); done; echo born; exec sleep 600";
    let app = Container::run(&[], "busybox", &["sh", "-c", orphans]);
    app.wait_log("born");
    let none = "until ! grep -q '^State:.Z' /proc/[0-9]*/status; do :; done 2>/dev/null";
    assert_eq!(
        app.exec(&["timeout", "30", "sh", "-c", none]).code,
        0,
        "{}",
        app.exec(&["ps", "-o", "pid,ppid,stat,args"]).out
    );

    let control = Container::run(&["--entrypoint", "sh"], "busybox", &["-c", orphans]);
    control.wait_log("born");
    let some = "until grep -q '^State:.Z' /proc/[0-9]*/status; do :; done 2>/dev/null";
    assert_eq!(control.exec(&["timeout", "30", "sh", "-c", some]).code, 0, "a PID 1 that does not reap leaves zombies");
}

#[test]
fn health_follows_the_app() {
    let app = on_host(free_port(), &[]);
    app.wait_health("healthy");
    let now = || command("date", &["+%s.%N"]).out.trim().to_owned();
    let since = now();
    assert_eq!(app.exec(&["mv", "/www/health", "/www/broken"]).code, 0);
    app.wait_health_since(&since, "unhealthy");
    let since = now();
    let log = app.inspect("{{json .State.Health.Log}}");
    assert!(log.contains("404"), "the reason can be read: {log}");
    assert_eq!(app.exec(&["mv", "/www/broken", "/www/health"]).code, 0);
    app.wait_health_since(&since, "healthy");
}

#[test]
fn a_terminal_has_job_control() {
    image("busybox");
    let name = unique("terminal");
    let line = format!("docker run -it --rm --name {name} -e PS1='$ ' {} sh", image("busybox"));
    let mut terminal = Stream::of("script", &["-qefc", &line, "/dev/null"]);
    terminal.wait_for("$ ");
    terminal.send("sleep 600\n");
    terminal.wait_for("sleep 600");
    // Ctrl-Z may be typed only once sleep has the terminal.
    let running = format!("until docker exec {name} ps -o args | grep -qx 'sleep 600'; do :; done");
    assert_eq!(command("sh", &["-c", &running]).code, 0);
    terminal.send("\u{1a}");
    terminal.wait_for("Stopped");
    terminal.wait_for("$ ");
    terminal.send("fg\n");
    terminal.wait_for("sleep 600");
    let resumed = format!("until docker exec {name} ps -o stat,args | grep -q '^S.*sleep 600'; do :; done");
    assert_eq!(command("sh", &["-c", &resumed]).code, 0);
    terminal.send("\u{3}");
    terminal.wait_for("$ ");
    terminal.send("echo code=$?; exit 5\n");
    terminal.wait_for("code=130");
    assert!(!terminal.seen().contains("job control turned off"), "{}", terminal.seen());
    drop(terminal);
    docker(&["rm", "-f", &name]);
}

#[test]
fn an_image_that_cannot_be_changed_gets_it_from_a_volume() {
    let volume = Made::new("volume");
    let mount = format!("{}:/opt/reberth", volume.name);
    let install = ["run", "--rm", "--network", "none", "-v", &mount, "--entrypoint", "/reberth"];
    docker_ok(&[&install[..], &[&image("reberth"), "install", "/opt/reberth"]].concat());
    let options = ["-v", &format!("{mount}:ro"), "-e", "PORT=8080", "--entrypoint", "/opt/reberth/reberth"];
    let httpd = ["run", "--", "httpd", "-f", "-p", "{port}", "-h", "/www"];
    let app = Container::run(&[&RESTRICTED[..], &options].concat(), "unchanged", &httpd);
    let verdict = app.exec(&["/opt/reberth/reberth", "healthcheck", "--wait", "30s"]);
    assert_eq!(verdict.code, 0, "{}", verdict.out);
    let found = app.exec(&["stat", "-c", "%a", "/opt/reberth/reberth"]);
    assert_eq!(found.out.trim(), "755");
}

#[test]
fn exec_leaves_the_app_as_pid_1() {
    let app = Container::run(&["-e", "PORT=8080", "-e", "REBERTH_EXEC=1"], "busybox", &[]);
    app.wait_health("healthy");
    assert_eq!(app.exec(&["cat", "/proc/1/comm"]).out.trim(), "httpd");
}

#[test]
fn a_port_below_1024_without_permission_is_reported_with_the_fix() {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let first: u16 = first.trim().parse().unwrap();
    assert!(
        first > 81,
        "this host lets everybody bind port 81 (ip_unprivileged_port_start = {first}): nothing to see here"
    );
    let app = Container::run(&[&RESTRICTED[..], &["--network", "host", "-e", "PORT=81"]].concat(), "busybox", &[]);
    assert_eq!(app.exit_code(), 125);
    let logs = app.logs();
    for needle in ["81", "65534", "ip_unprivileged_port_start"] {
        assert!(logs.contains(needle), "the advice names {needle}");
    }
}

/// A compose project that is taken down when the test ends.
struct Compose {
    project: String,
    port: String,
}

impl Compose {
    fn call(&self, arguments: &[&str]) -> engine::Done {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/compose.yaml");
        let (image, port) = (format!("API_IMAGE={}", image("busybox")), format!("API_PORT={}", self.port));
        let plugin = docker(&["compose", "version"]).code == 0;
        let tool: &[&str] = if plugin { &["docker", "compose"] } else { &["docker-compose"] };
        command("env", &[&[&image[..], &port], tool, &["-p", &self.project, "-f", file], arguments].concat())
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        self.call(&["down", "-t", "1"]);
    }
}

#[test]
fn the_compose_example_starts_the_worker_when_the_api_is_healthy() {
    let compose = Compose { project: unique("compose"), port: free_port().to_string() };
    let up = compose.call(&["up", "-d"]);
    assert_eq!(up.code, 0, "{}", up.out);
    let worker = compose.call(&["ps", "-q", "worker"]);
    let api = compose.call(&["ps", "-q", "api"]);
    assert_eq!(docker_ok(&["inspect", "--format", "{{.State.Health.Status}}", api.out.trim()]), "healthy");
    assert_eq!(docker_ok(&["inspect", "--format", "{{.State.Status}}", worker.out.trim()]), "running");
}
