//! What the app inherits unchanged through reberth, what it must not inherit, and what reberth releases.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::harness::launch::{self, Stdio};
use crate::harness::{Launch, look, place, running, until};
use crate::{app, both, run, run_app};

fn bits(signals: &[i32]) -> String {
    format!("{:016x}", signals.iter().fold(0u64, |bits, n| bits | 1 << (n - 1)))
}

#[test]
fn the_mask_and_the_dispositions_are_the_original_ones() {
    both(|mode| {
        let everything: Vec<i32> = (1..=31).filter(|n| ![9, 19].contains(n)).chain(34..=64).collect();
        for (blocked, ignored) in [
            (&[][..], &[][..]),
            (&[10, 15, 17, 34, 64], &[]),
            (&[], &[13]),
            (&[], &[17]),
            (&[15], &[1, 2, 3, 13, 17, 20, 21, 22, 40]),
            (&everything, &everything),
        ] {
            let launch = mode(run_app(&[], "status exit=4").blocked(blocked).ignored(ignored));
            let outcome = launch.start().finish().expect_code(4);
            // The signals reserved by the C library (32, 33) are ignored.
            for (name, signals) in [("SigBlk", blocked), ("SigIgn", ignored), ("SigCgt", &[])] {
                let line = format!("{name}: {}", bits(signals));
                assert!(outcome.stdout.lines().any(|l| l == line), "expected {line}\n{}", outcome.report());
            }
        }
    });
}

#[test]
fn limits_and_umask_are_the_original_ones() {
    let command = ["sh", "-c", "umask; ulimit -n; ulimit -Hn; ulimit -c"];
    let outcome = run(&[], command).limit(libc::RLIMIT_NOFILE, 77).limit(libc::RLIMIT_CORE, 0).start().finish();
    assert_eq!(outcome.stdout, "0022\n77\n77\n0\n", "{}", outcome.report());
}

/// The `fd` lines of an app with the step `fds`.
fn seen(stdout: &str) -> Vec<&str> {
    stdout.lines().filter_map(|l| l.strip_prefix("fd ")).collect()
}

fn numbers(stdout: &str) -> Vec<&str> {
    seen(stdout).iter().filter_map(|l| l.split(' ').next()).collect()
}

#[test]
fn no_descriptor_of_reberth_reaches_the_app() {
    both(|mode| {
        let log = place::TempDir::new();
        let log_file = log.path().join("log").to_string_lossy().into_owned();
        for flags in [&[][..], &["--port", "0"], &["--port", "0", "--log-file", &log_file, "--grace", "1s"]] {
            let outcome = mode(run_app(flags, "fds exit=0")).start().finish().expect_code(0);
            assert_eq!(numbers(&outcome.stdout), ["0", "1", "2"], "{}", outcome.report());
        }
    });
}

#[test]
fn inherited_descriptors_reach_the_app_and_are_not_kept() {
    let (reader, writer) = std::io::pipe().unwrap();
    let command = ["sh", "-c", "echo through >&9; exec 9>&-; echo closed; read x; exit 6"];
    let mut running = run(&[], command).descriptor(9, writer).stdin(Stdio::Pipe).start();
    running.expect("closed");
    // The pipe reaches its end while reberth still runs: reberth holds no copy.
    assert_eq!(running::read_to_end(reader.into()), "through\n");
    running.write("\n");
    running.finish().expect_code(6);
    both(|mode| {
        let port = place::free_port().to_string();
        let listening = format!("listen=0.0.0.0:{port} ready pause");
        for (flags, steps) in [
            (&[][..], "ready pause"),
            (&["--port", &port, "--relaunch", "0"], "ready pause"),
            (&["--port", &port, "--handover", "on"], "ready pause"),
            // An app that may be launched again needs the descriptors again; one that listens will not be.
            (&["--port", &port], &listening),
        ] {
            let zero = launch::open("/dev/zero", libc::O_RDONLY);
            let mut running = mode(run_app(flags, steps).descriptor(5, zero)).start();
            let app = running.ready();
            let app = running.outside(app);
            let init = running.init;
            until("reberth lets go of them", || look::descriptors(init).values().all(|target| target != "/dev/zero"));
            assert_eq!(look::descriptors(app).get(&5).map(String::as_str), Some("/dev/zero"), "{flags:?}");
        }
    });
    let null = launch::open("/dev/zero", libc::O_RDONLY);
    let outcome = run_app(&["--port", "0"], "fds").descriptor(7, null).start().finish().expect_code(0);
    assert_eq!(numbers(&outcome.stdout), ["0", "1", "2", "7"], "{}", outcome.report());
    assert!(seen(&outcome.stdout).contains(&"7 /dev/zero"), "{}", outcome.report());
}

#[test]
fn the_working_directory_is_the_apps_and_not_reberths() {
    both(|mode| {
        let place = place::TempDir::new();
        let mut running = mode(run_app(&[], "cwd ready pause").cwd(place.path())).start();
        let expected: String =
            place.path().to_path_buf().into_os_string().into_vec().iter().map(|b| format!("{b:02x}")).collect();
        running.expect(&format!("cwd {expected}"));
        running.ready();
        let init = running.init;
        until("reberth is at the root", || look::cwd(init).unwrap().to_str() == Some("/"));
    });
}

#[test]
fn a_relative_command_is_relative_to_the_given_directory() {
    let mut launch = run(&[], ["./here"]);
    launch.dir.file("here", "#!/bin/sh\nexit 9\n", 0o755);
    launch.cwd = launch.dir.path().to_owned();
    launch.start().finish().expect_code(9);
}

#[test]
fn the_app_leads_a_process_group_of_its_own() {
    both(|mode| {
        let mut running = mode(run_app(&[], "ids ready pause")).start();
        let ids = running.line_after("ids ");
        let pid = running.ready();
        assert!(ids.contains(&format!("pid={pid} ")) && ids.contains(&format!("pgrp={pid} ")), "{ids}");
        let (app, init) = (look::stat(running.outside(pid)).unwrap(), look::stat(running.init).unwrap());
        assert_eq!((app.parent, app.session), (running.init, init.session));
        assert_ne!(app.group, init.group);
    });
}

/// Bytes that are not UTF-8, with everything that can confuse a careless reader.
const ODD: &[u8] = b"\xff\xfe=\x80 'x' \"y\" \n\t{}$\\";

#[test]
fn the_environment_and_the_arguments_are_the_same_bytes() {
    both(|mode| {
        let odd = || OsString::from_vec(ODD.to_vec());
        let launch = run_app(&[], "environ cmdline")
            .env("EMPTY", "")
            .env("ODD_VALUE", odd())
            .env(OsString::from_vec(b"ODD_\xffNAME".to_vec()), "x")
            .env("TWICE", "1")
            .env("TWICE", "2")
            .env("LOOKS_LIKE_A_LINK_PORT", "tcp://10.0.0.1:80")
            .env("HTTP_PROXY", "http://nowhere.invalid")
            .arg("say=")
            .arg(odd());
        let hex = |text: &[u8]| text.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut environment = Vec::new();
        for (name, value) in &launch.environment {
            let pair = [name.clone().into_vec(), b"=".to_vec(), value.clone().into_vec(), b"\0".to_vec()].concat();
            environment.extend(pair);
        }
        let first = launch.words.iter().position(|w| *w == *app::program()).unwrap();
        let command = launch.words[first..].iter().flat_map(|w| [w.clone().into_vec(), b"\0".to_vec()].concat());
        let command: Vec<u8> = command.collect();
        let outcome = mode(launch).start().finish();
        for line in [format!("environ {}", hex(&environment)), format!("cmdline {}", hex(&command))] {
            assert!(outcome.stdout.lines().any(|l| l == line), "expected {line}\n{}", outcome.report());
        }
    });
}

#[test]
fn variables_without_a_value_or_a_name_do_not_stop_the_start() {
    // `env` interprets its own words, so another program starts reberth with a handmade environment.
    let launch = run_app(&[], "environ exit=0").env("", "nameless").env("REBERTH_PORT", "").env("PORT", "");
    launch.start().finish().expect_code(0);
}

#[test]
fn the_app_dies_with_reberth() {
    both(|mode| {
        let mut running = mode(run_app(&[], "block ids ready until=15 exit=0")).start();
        let ids = running.line_after("ids ");
        let app = running.ready();
        let app = running.outside(app);
        running.signal(libc::SIGKILL);
        if running.init == running.pid {
            assert!(ids.ends_with("pdeathsig=15"), "{ids}");
            running.expect("signal 15");
        }
        // When PID 1 dies, the kernel kills its whole namespace.
        until("the app is gone", || !look::alive(app));
    });
}

#[test]
fn the_parent_death_signal_reaches_reberth_and_is_forwarded() {
    // The shell in between is the parent that dies.
    let inner = run_app(&["--parent-death-signal", "USR1"], "block ready until=10 exit=0");
    let mut outer = Launch::new("sh").args(["-c", "\"$@\" & wait", "sh"]).args(inner.words.clone());
    outer.environment.extend(inner.environment.iter().filter(|(name, _)| name == "REBERTH_STATE_DIR").cloned());
    let mut running = outer.start();
    running.ready();
    running.signal(libc::SIGKILL);
    running.expect("signal 10");
}

/// The kernel reports a parent's death only after it was asked to. A parent that has died before that is noticed all the same.
#[test]
fn a_parent_that_dies_while_reberth_starts_is_not_missed() {
    for waits in [false, true] {
        let port = place::free_port();
        let held = waits.then(|| std::net::TcpListener::bind(("0.0.0.0", port)).unwrap());
        let port = port.to_string();
        let flags = ["--parent-death-signal", "USR1", "--port", &port, "--wait", "forever"];
        let flags = if waits { &flags[..] } else { &flags[..2] };
        let inner = run_app(flags, "pause");
        // Reading the environment takes reberth some time; its parent exits as soon as reberth has started.
        let script = "import os, sys\n\
                      environ = dict(os.environ, **{f'V{n}': '' for n in range(60000)})\n\
                      child = os.posix_spawn(sys.argv[1], sys.argv[1:], environ)\n\
                      print('child', child, flush=True)\n\
                      while 'SigBlk:\\tf' not in open(f'/proc/{child}/status').read(): pass\n\
                      os._exit(0)";
        let mut outer = Launch::new("python3").args(["-c", script]).args(inner.words.clone());
        outer.environment.extend(inner.environment.iter().filter(|(name, _)| name == "REBERTH_STATE_DIR").cloned());
        let mut running = outer.start();
        let child: i32 = running.line_after("child ").parse().unwrap();
        until("reberth has ended", || !look::alive(child));
        let said = if waits { "SIGUSR1 received while waiting" } else { "the app was ended by SIGUSR1" };
        assert!(running.stderr().contains(said), "{}", running.report());
        drop(held);
    }
}

/// `environ` may contain an entry that is not NAME=VALUE; the app gets it all the same.
#[test]
fn an_entry_without_an_equals_sign_reaches_the_app() {
    both(|mode| {
        let inner = run_app(&[], "environ exit=0");
        let script = "import ctypes, os, sys\nwords = [os.fsencode(w) for w in sys.argv[1:]]\n\
                      argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)\n\
                      pairs = [os.fsencode(k) + b'=' + os.fsencode(v) for k, v in os.environ.items()]\n\
                      env = (ctypes.c_char_p * (len(pairs) + 4))(b'nameless', b'=', *pairs, b'\\xff', None)\n\
                      ctypes.CDLL(None).execve(words[0], argv, env)\nsys.exit(99)";
        let mut launch = crate::harness::Launch::new("python3").args(["-c", script]).args(inner.words.clone());
        launch.environment.extend(inner.environment.iter().filter(|(name, _)| name == "REBERTH_STATE_DIR").cloned());
        let mut running = mode(launch).start();
        let environ = running.line_after("environ ");
        let hex = |text: &[u8]| text.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for entry in [&b"\0nameless\0"[..], b"\0=\0", b"\0\xff\0"] {
            assert!(format!("00{environ}").contains(&hex(entry)), "{entry:?} {environ}\n{}", running.report());
        }
        running.finish().expect_code(0);
    });
}
