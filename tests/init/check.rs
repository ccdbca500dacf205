//! `run --check`: it reports what a run would do and with which code it would exit, and does none of it.

use std::io::Write;
use std::os::fd::OwnedFd;

use crate::harness::launch::Stdio;
use crate::harness::running::Outcome;
use crate::harness::{Launch, place, until};
use crate::{app, run_app};

fn check(launch: Launch) -> Outcome {
    checked(launch, &["--check"])
}

fn checked(mut launch: Launch, flags: &[&str]) -> Outcome {
    let at = launch.words.iter().position(|word| word == "run").unwrap() + 1;
    launch.words.splice(at..at, flags.iter().map(Into::into));
    launch.stdin(Stdio::Null).start().finish()
}

fn json(launch: Launch) -> serde_json::Value {
    let outcome = checked(launch, &["--check", "--json"]);
    let said: serde_json::Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{}", outcome.report()));
    assert_eq!(said["code"].as_i64(), outcome.code.map(Into::into), "{}", outcome.report());
    assert!(outcome.stderr.is_empty(), "{}", outcome.report());
    said
}

/// Each of these as a check and as a run: the exit code is the same, and only the run has launched anything.
#[test]
fn the_exit_code_is_that_of_a_run() {
    let busy = place::free_port().to_string();
    let _holder = std::net::TcpListener::bind(("0.0.0.0", busy.parse().unwrap())).unwrap();
    let free = place::free_port().to_string();
    let place = place::TempDir::new();
    let script = place.file("script", "#!/no/such/interpreter\n", 0o755);
    // A program whose loader does not exist in the image, like a glibc program in a musl image.
    let mut foreign = std::fs::read(env!("CARGO_BIN_EXE_reberth")).unwrap();
    let loader = foreign.windows(7).position(|part| part == b"/lib64/");
    // A static program has no loader: then the script takes its place.
    let foreign = loader.map(|at| {
        foreign[at + 1..at + 4].copy_from_slice(b"xyz");
        place.file("foreign", &foreign, 0o755).to_str().unwrap().to_owned()
    });
    let foreign = foreign.unwrap_or_else(|| script.to_str().unwrap().to_owned());
    let file = place.path().join("port").to_str().unwrap().to_owned();
    let app = app::words("say=launched exit=0");
    let words = |list: &[&str]| list.iter().map(std::ffi::OsString::from).collect::<Vec<_>>();
    for (flags, command, code, said) in [
        (&["--port", &free, "--port-file", &file][..], app.clone(), 0, "the app would be launched"),
        (&["--port", "0"], app.clone(), 0, "the app would be launched"),
        (&[], app.clone(), 0, "the app is ready when it is launched"),
        (&["--port", &busy, "--wait", "0s"], app.clone(), 124, "busy: it would wait for up to 0s, and exit with 124"),
        (&["--port", &busy, "--wait", "0s", "--fallback", "next"], app.clone(), 0, "it would fall back to"),
        (&["--port", "0"], words(&["/no/such/app"]), 127, "/no/such/app: no such file"),
        (&["--port", "0"], words(&[script.to_str().unwrap()]), 126, "its interpreter /no/such/interpreter is missing"),
        (&["--port", "0"], words(&[&foreign]), 126, "is missing in this image"),
        (&["--wait", "60", "--grace", "x"], app.clone(), 125, "error: --grace x:"),
        (
            &["--port-file", "/no/such/folder/file"],
            app.clone(),
            125,
            "--port-file (REBERTH_PORT_FILE) /no/such/folder/file: cannot",
        ),
        (
            &["--log-file", "/no/such/folder/file"],
            app.clone(),
            125,
            "--log-file (REBERTH_LOG_FILE) /no/such/folder/file: cannot",
        ),
        (&["--port", "198.51.100.7:80"], app.clone(), 125, "does not have the address"),
    ] {
        let launch = || {
            let mut launch = crate::run(flags, command.clone());
            // The state directory is the one that cannot be written.
            launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
            let state = place.path().join("state");
            std::fs::create_dir_all(&state).unwrap();
            launch.env("REBERTH_STATE_DIR", state)
        };
        let names = || {
            let entries = std::fs::read_dir(place.path())
                .unwrap()
                .chain(std::fs::read_dir(place.path().join("state")).into_iter().flatten());
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names
        };
        let first = launch();
        let before = names();
        let outcome = check(first).expect_code(code);
        assert_eq!(names(), before, "nothing is written: {}", outcome.report());
        assert!(
            outcome.stdout.contains(said) && !outcome.stdout.contains("\nlaunched"),
            "{said}: {}",
            outcome.report()
        );
        assert!(outcome.stdout.ends_with(&format!("(exit code {code})\n")), "{}", outcome.report());
        let ran = launch().start().finish().expect_code(code);
        assert_eq!(ran.stdout.contains("launched"), code == 0, "{}", ran.report());
        let _ = std::fs::remove_file(&file);
    }
}

#[test]
fn the_json_reports_the_same() {
    let port = place::free_port();
    let holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let launch =
        || run_app(&["--port", &format!("web={port}"), "--health", "/ready"], "exit=0").env("REBERTH_WAIT", "5s");
    let said = json(launch());
    let setting = |name: &str| {
        let all = said["settings"].as_array().unwrap();
        all.iter().find(|one| one["setting"] == name).unwrap().clone()
    };
    assert_eq!((&setting("wait")["value"], &setting("wait")["source"]), (&"5s".into(), &"variable".into()));
    assert_eq!((&setting("wait")["place"], &setting("port")["place"]), (&"REBERTH_WAIT".into(), &"--port".into()));
    assert_eq!(setting("grace")["source"], "default");
    let held = &said["ports"][0];
    assert_eq!((&held["state"], &held["holders"][0]["pid"]), (&"held".into(), &std::process::id().into()));
    assert_eq!(said["health"][0]["asks"], format!("/ready on port {port} within 900ms"));
    assert_eq!((&said["code"], said["errors"].as_array().unwrap().len()), (&124.into(), 0));
    drop(holder);
    assert_eq!(json(launch())["code"], 0);
    let bad = json(run_app(&["--wait", "5"], "exit=0"));
    assert_eq!((&bad["code"], bad["errors"].as_array().unwrap().len()), (&125.into(), 1), "{bad}");
    run_app(&["--json"], "exit=0").start().finish().expect_code(125).expect_stderr("--json: requires --check");
}

#[test]
fn a_port_that_may_not_be_bound_is_not_free() {
    let launch = || {
        let mut launch = crate::run(&["--port", "80"], ["true"]);
        launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
        if nix::unistd::geteuid().is_root() { launch.uid(65534) } else { launch }
    };
    let outcome = check(launch()).expect_code(125);
    assert!(outcome.stdout.contains("error: port 80: permission denied"), "{}", outcome.report());
    launch().start().finish().expect_code(125);
}

/// What the service link of a Kubernetes Service does to a start is reported in advance.
#[test]
fn warnings_are_reported() {
    let outcome =
        check(run_app(&[], "exit=0").env("PORT", "tcp://10.0.0.1:80").env("REBERTH_WIAT", "1s")).expect_code(0);
    for said in ["no port is claimed", "did you mean REBERTH_WAIT?"] {
        assert!(outcome.stdout.contains(said), "{}", outcome.report());
    }
}

/// A handover implied by another setting is not a default.
#[test]
fn an_implied_setting_names_the_one_that_implies_it() {
    for (flags, variable, wanted) in [
        (&["--prewarm"][..], None, ("bind", "flag", "--prewarm")),
        (&[], Some(("REBERTH_SHARE", "api")), ("bind", "variable", "REBERTH_SHARE")),
        (&["--prewarm", "--handover", "bind"], None, ("bind", "flag", "--handover")),
        (&[], None, ("off", "default", "the default")),
    ] {
        let mut launch = run_app(&[&["--port", "0"], flags].concat(), "exit=0");
        if let Some((name, value)) = variable {
            launch = launch.env(name, value);
        }
        let said = json(launch);
        let all = said["settings"].as_array().unwrap();
        let one = all.iter().find(|one| one["setting"] == "handover").unwrap();
        let text = |key: &str| one[key].as_str().unwrap().to_owned();
        assert_eq!((text("value"), text("source"), text("place")), (wanted.0.into(), wanted.1.into(), wanted.2.into()));
    }
}

/// A pipe with no room left: whoever writes to it waits.
fn full_pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: the descriptor is open, and the call takes integers only.
    let room = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&writer), libc::F_SETPIPE_SZ, 4096) };
    writer.write_all(&vec![b'x'; usize::try_from(room).unwrap()]).unwrap();
    (reader, writer.into())
}

/// A check that hangs, here at a reader that does not read, is ended like any program: nothing of it reads signals.
#[test]
fn a_signal_ends_it() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        for first in [false, true] {
            let (_reader, stdout) = full_pipe();
            let mut launch =
                run_app(&["--check", "--port", "0"], "exit=0").stdin(Stdio::Null).stdout(Stdio::Given(stdout));
            launch.first = first;
            let running = launch.start();
            let call = format!("{} ", libc::SYS_write);
            let place = format!("/proc/{}/syscall", running.init);
            until("it waits in its write", || {
                std::fs::read_to_string(&place).is_ok_and(|text| text.starts_with(&call))
            });
            crate::harness::running::kill(running.init, signal);
            let outcome = running.finish();
            // PID 1 has no default actions; there it exits.
            let ended = if first { outcome.code == Some(1) } else { outcome.signal == Some(signal) };
            assert!(ended, "{}", outcome.report());
        }
    }
}

/// Like `run --check | head -1`: a reader that has closed its end is no error, and the exit code stays the run's.
#[test]
fn a_closed_pipe_is_not_an_error() {
    let (reader, stdout) = full_pipe();
    drop(reader);
    let launch = run_app(&["--check", "--port", "0"], "exit=0").stdin(Stdio::Null).stdout(Stdio::Given(stdout));
    launch.start().finish().expect_code(0);
}
