//! Which state file a healthcheck trusts, and the effect of the phase of `run`. This test program is the `run` that its state files name.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use reberth::port::spec::{Protocol, Spec};
use reberth::state::{Phase, PortState, Publisher, State};

use crate::harness::launch::{Launch, program};
use crate::harness::place::{TempDir, free_port};
use crate::server::{Server, answer};
use crate::{Said, healthcheck, said};

fn tcp(port: u16) -> Spec {
    Spec { name: None, addr: None, port, protocol: Protocol::Tcp }
}

fn state(phase: Phase, port: u16) -> State {
    State {
        phase,
        ports: vec![PortState::new(&tcp(0), port)],
        health: None,
        liveness: None,
        app_pid: None,
        shared: false,
    }
}

fn publish(dir: &TempDir, state: &State) -> PathBuf {
    let mut publisher = Publisher::open(Some(dir.path()), state).unwrap();
    // `open` only checks that there is a place for the file.
    assert_eq!(publisher.publish(state), None);
    publisher.path().unwrap().to_owned()
}

fn launch(dir: &Path) -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_reberth")).env("REBERTH_STATE_DIR", dir).arg("healthcheck")
}

#[track_caller]
fn check(dir: &TempDir, words: &[&str]) -> Said {
    said(launch(dir.path()).args(words.iter().copied()))
}

/// Answers 200 on `/live`, `/ready` and `/`, and 404 elsewhere.
fn app() -> Server {
    Server::new(|head| {
        let known = ["/", "/live", "/ready"].contains(&head.split(' ').nth(1).unwrap());
        answer(if known { 200 } else { 404 }, "", "")
    })
}

#[test]
fn the_port_that_run_took_is_queried() {
    let (dir, app) = (TempDir::new(), app());
    publish(&dir, &state(Phase::Ready, app.port));
    check(&dir, &[]).expect(true, &[&app.url("/"), "status 200"]);
    check(&dir, &["/ready"]).expect(true, &[&app.url("/ready")]);
    check(&dir, &["/missing"]).expect(false, &["status 404"]);
    check(&dir, &["tcp"]).expect(true, &["tcp://"]);
    // What run actually did overrides the settings of the image.
    said(launch(dir.path()).env("PORT", free_port().to_string())).expect(true, &[&app.url("/")]);
    // Their errors do not matter to a check that never needs them.
    said(launch(dir.path()).env("PORT", "nonsense")).expect(true, &[]);
}

/// Next.js and others bind a single address: a wildcard is queried at the address where the app was seen, and the verdict names that
/// address.
#[test]
fn a_wildcard_is_queried_where_the_app_was_seen_listening() {
    let dir = TempDir::new();
    // A port that other tests do not use; the kernel gives theirs on 127.0.0.1 as well, where no process may listen here.
    let listener = TcpListener::bind(("127.0.0.2", free_port())).unwrap();
    let app = Server::on(listener, |_| answer(200, "", ""));
    let at = |addr: Option<&str>, listens: &[&str]| {
        let mut state = state(Phase::Ready, app.port);
        state.ports[0].addr = addr.map(|addr| addr.parse().unwrap());
        state.ports[0].listens = listens.iter().map(|addr| addr.parse().unwrap()).collect();
        publish(&dir, &state);
    };
    let url = format!("http://127.0.0.2:{}/", app.port);
    let place = format!("tcp://127.0.0.2:{}", app.port);
    for (addr, listens) in [
        (None, &["127.0.0.2"][..]),
        (Some("0.0.0.0"), &["127.0.0.2"]),
        (Some("::"), &["10.0.0.1", "127.0.0.2"]),
        (Some("127.0.0.2"), &[]),
        (Some("127.0.0.2"), &["10.0.0.1"]),
    ] {
        at(addr, listens);
        check(&dir, &[]).expect(true, &[&url, "status 200"]);
        check(&dir, &["tcp"]).expect(true, &[&place]);
        check(&dir, &["--timeout", "200ms", "grpc"]).expect(false, &[&place.replace("tcp", "grpc")]);
    }
    // Its address is unknown, as in the file of an older reberth: loopback is queried, and the reason names the listeners that do exist.
    at(None, &[]);
    let refused = format!("nothing listens on 127.0.0.1:{}", app.port);
    for target in [&[][..], &["tcp"], &["grpc"]] {
        check(&dir, target).expect(false, &[&refused, &format!("listens on 127.0.0.2:{} only", app.port)]);
    }
    // Listening on loopback or on all addresses includes 127.0.0.1, or ::1.
    for listens in [&["127.0.0.2", "127.0.0.1"][..], &["0.0.0.0"], &["::"], &["::1"]] {
        at(None, listens);
        check(&dir, &["tcp"]).expect(false, &[&refused]);
    }
    // A configured address is the one that is queried.
    at(Some("127.0.0.3"), &["127.0.0.2"]);
    check(&dir, &["tcp"]).expect(false, &[&format!("127.0.0.3:{}", app.port)]);
}

#[test]
fn the_targets_configured_for_run_are_queried() {
    let (dir, app) = (TempDir::new(), app());
    let told = |health: Option<&str>, liveness: Option<&str>| State {
        health: health.map(str::to_owned),
        liveness: liveness.map(str::to_owned),
        ..state(Phase::Ready, app.port)
    };
    for (health, liveness, readiness_asks, liveness_asks) in [
        (None, None, "/", "/"),
        (Some("/ready"), None, "/ready", "/ready"),
        (Some("/ready"), Some("/live"), "/ready", "/live"),
    ] {
        publish(&dir, &told(health, liveness));
        for (probe, path) in [("readiness", readiness_asks), ("startup", readiness_asks), ("liveness", liveness_asks)] {
            check(&dir, &["--probe", probe]).expect(true, &[&format!("{},", app.url(path))]);
        }
    }
    let elsewhere = Server::saying(answer(503, "", ""));
    publish(&dir, &told(Some(&elsewhere.url("/x")), Some("tcp")));
    check(&dir, &[]).expect(false, &[&elsewhere.url("/x"), "status 503"]);
    check(&dir, &["--probe", "liveness"]).expect(true, &["tcp://"]);
}

#[test]
fn the_phase_decides_first() {
    let (dir, app) = (TempDir::new(), app());
    for (phase, startup, liveness, readiness) in [
        (Phase::Waiting, "fail", "pass", "fail"),
        (Phase::Starting, "ask", "pass", "ask"),
        (Phase::Ready, "ask", "ask", "ask"),
        (Phase::Draining, "pass", "pass", "fail"),
        (Phase::Exited, "fail", "fail", "fail"),
        (Phase::Exec, "ask", "ask", "ask"),
    ] {
        publish(&dir, &state(phase, app.port));
        for (probe, ruling) in [("startup", startup), ("liveness", liveness), ("readiness", readiness)] {
            for target in [&[][..], &["/ready"], &["/missing"], &["tcp"]] {
                let said = check(&dir, &[&["--probe", probe], target].concat());
                let about = (phase, probe, target);
                if ruling == "ask" {
                    assert!(
                        said.healthy == (target != ["/missing"]) && said.line.contains("127.0.0.1"),
                        "{about:?}: {said:?}"
                    );
                } else {
                    let words = said.line.contains(&format!("phase {}", phase.name()));
                    assert!(said.healthy == (ruling == "pass") && words, "{about:?}: {said:?}");
                }
            }
            // A complete URL is simply queried.
            check(&dir, &["--probe", probe, &app.url("/")]).expect(true, &["status 200"]);
        }
    }
}

#[test]
fn with_neither_port_nor_target_healthy_means_that_the_app_runs() {
    let dir = TempDir::new();
    check(&dir, &[]).expect(false, &["no run here"]);
    publish(&dir, &State { ports: Vec::new(), ..state(Phase::Ready, 0) });
    check(&dir, &[]).expect(true, &["the app is running"]);
    check(&dir, &["/x"]).expect(false, &["no tcp port"]);
    publish(&dir, &State { ports: Vec::new(), ..state(Phase::Waiting, 0) });
    check(&dir, &[]).expect(false, &["waiting"]);
}

#[test]
fn a_writer_that_died_is_a_failure_whatever_the_settings() {
    let (dir, app) = (TempDir::new(), app());
    // The writer is this program, so its file can be forged: the same place and form, another start time.
    let path = publish(&dir, &state(Phase::Ready, app.port));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"start_time\":", "\"start_time\":1")).unwrap();
    for probe in ["readiness", "liveness", "startup"] {
        let said = said(launch(dir.path()).env("PORT", app.port.to_string()).args(["--probe", probe]));
        said.expect(false, &["gone", path.to_str().unwrap()]);
    }
    check(&dir, &[&app.url("/")]).expect(true, &[]);
}

#[test]
fn what_is_not_trusted_is_named_and_settings_decide() {
    let app = app();
    type Spoil = fn(&Path);
    let cases: &[(&str, Spoil)] = &[
        ("damaged", |path| fs::write(path, "{}").unwrap()),
        ("damaged", |path| fs::write(path, &fs::read(path).unwrap()[..50]).unwrap()),
        ("more than", |path| fs::write(path, vec![b' '; 1 << 20]).unwrap()),
        ("symbolic link", |path| {
            fs::rename(path, path.with_extension("real")).unwrap();
            std::os::unix::fs::symlink(path.with_extension("real"), path).unwrap();
        }),
        ("regular file", |path| {
            fs::remove_file(path).unwrap();
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        }),
        ("others can write", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap()),
    ];
    for (why, spoil) in cases {
        let dir = TempDir::new();
        let path = publish(&dir, &state(Phase::Waiting, app.port));
        spoil(&path);
        let named = path.to_str().unwrap();
        said(launch(dir.path()).env("PORT", app.port.to_string())).expect(true, &["not believed", why, named]);
        // If only the state contained the port, the verdict is unhealthy.
        said(launch(dir.path()).env("PORT", "0")).expect(false, &["not believed", why, named]);
        said(launch(dir.path()).env("REBERTH_PROFILE", "test")).expect(false, &["not believed", why, named]);
        for (name, value) in [("REBERTH_FALLBACK", "next"), ("REBERTH_PROFILE", "dev")] {
            let moved = launch(dir.path()).env("PORT", app.port.to_string()).env(name, value);
            said(moved).expect(false, &["not believed", why, named, "only the state file knows"]);
        }
        check(&dir, &[]).expect(false, &["not believed", why, named]);
    }
}

/// In another mount namespace the same file belongs to another container; in another PID namespace its pid belongs to another process.
#[test]
fn other_namespaces_are_other_containers() {
    let (dir, app) = (TempDir::new(), app());
    publish(&dir, &state(Phase::Ready, app.port));
    let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    for flags in
        [&["--mount"][..], &["--pid", "--fork", "--kill-child"], &["--pid", "--fork", "--mount-proc", "--kill-child"]]
    {
        let inside = |variables: &[(&str, String)]| {
            let mut launch = Launch::new(program("unshare")).args(user.iter().chain(flags).copied());
            for (name, value) in variables {
                launch = launch.env(*name, value);
            }
            said(launch.arg(env!("CARGO_BIN_EXE_reberth")).args(["healthcheck", "--state-dir"]).arg(dir.path()))
        };
        inside(&[]).expect(false, &["not believed", "another container"]);
        inside(&[("PORT", app.port.to_string())]).expect(true, &["not believed", "another container", "status 200"]);
    }
}

#[test]
fn a_state_file_of_another_owner_is_not_trusted() {
    let (dir, app) = (TempDir::new(), app());
    let path = publish(&dir, &state(Phase::Ready, app.port));
    if !nix::unistd::geteuid().is_root() {
        return a_file_of_another_owner_in_a_user_namespace(&dir);
    }
    // Root's file is trusted by every user, another user's file only by that user.
    check(&dir, &[]).expect(true, &[]);
    std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
    check(&dir, &[]).expect(false, &["belongs to uid 4242"]);
}

/// Only root can give a file away. In a user namespace, root's files belong to another user, and one of them can be mounted over a state
/// file.
fn a_file_of_another_owner_in_a_user_namespace(dir: &TempDir) {
    let script = "file=$1/reberth-$(readlink /proc/self/ns/mnt | tr -dc 0-9)-1.json; : >\"$file\"; \
                  mount --bind /etc/passwd \"$file\" && exec \"$2\" healthcheck --state-dir \"$1\"";
    let launch =
        Launch::new(program("unshare")).args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    said(launch.arg(dir.path()).arg(env!("CARGO_BIN_EXE_reberth"))).expect(false, &["belongs to uid 65534"]);
}

#[test]
fn settings_that_turn_out_to_be_needed_are_reported() {
    let dir = TempDir::new();
    let said = said(launch(dir.path()).env("PORT", "nonsense")).expect(false, &["settings", "nonsense"]);
    assert!(said.stderr.contains("nonsense") && said.stderr.lines().count() == 1, "{said:?}");
}

/// If a fallback may have moved `run`, another process may answer on the configured port.
#[test]
fn without_a_state_a_port_that_may_have_moved_is_not_queried() {
    let server = Server::saying(answer(200, "", ""));
    for (name, value, healthy) in
        [("REBERTH_FALLBACK", "next", false), ("REBERTH_PROFILE", "dev", false), ("REBERTH_FALLBACK", "none", true)]
    {
        let launch = healthcheck().env("REBERTH_PORT", server.port.to_string()).env(name, value);
        said(launch).expect(healthy, if healthy { &["status 200"] } else { &["only the state file knows"] });
    }
}
