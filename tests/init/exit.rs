//! The exit code of `run`.

use crate::harness::look;
use crate::{both, denied, run, run_app};

/// Every signal whose default action ends a process (signal(7)).
fn deadly() -> impl Iterator<Item = i32> {
    (1..=31).filter(|n| ![17, 18, 19, 20, 21, 22, 23, 28].contains(n)).chain(34..=64)
}

#[test]
fn every_exit_code_is_the_apps_own() {
    for code in 0..=255 {
        run_app(&[], &format!("exit={code}")).start().finish().expect_code(code);
    }
}

#[test]
fn exit_codes_as_pid_1() {
    for code in [0, 1, 2, 124, 125, 126, 127, 128, 255] {
        run_app(&[], &format!("exit={code}")).first_in_namespace().start().finish().expect_code(code);
    }
}

#[test]
fn death_by_signal_is_128_and_its_number() {
    for signal in deadly() {
        run_app(&[], &format!("die={signal}")).start().finish().expect_code(128 + signal);
    }
    for signal in [6, 9, 11, 15, 34] {
        run_app(&[], &format!("die={signal}")).first_in_namespace().start().finish().expect_code(128 + signal);
    }
}

#[test]
fn what_cannot_be_executed_is_126_each_with_its_own_message() {
    both(|mode| {
        let mut said = Vec::new();
        for (name, content, mode_bits, words) in [
            ("plain", "echo hello\n", 0o644, "permission"),
            ("no-interpreter-line", "echo hello\n", 0o755, "#!"),
            ("interpreter-missing", "#!/no/such/interpreter\n", 0o755, "/no/such/interpreter"),
        ] {
            let mut launch = run(&[], ["placeholder"]);
            let path = launch.dir.file(name, content, mode_bits);
            *launch.words.last_mut().unwrap() = path.into();
            let outcome = mode(launch).start().finish().expect_code(126).expect_stderr(name).expect_stderr(words);
            assert_eq!(outcome.stdout, "", "{}", outcome.report());
            said.push(outcome.stderr.replace(name, "NAME"));
        }
        let outcome = mode(run(&[], ["/etc"])).start().finish().expect_code(126).expect_stderr("directory");
        said.push(outcome.stderr.clone());
        let mut distinct = said.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), said.len(), "two causes share their words: {said:#?}");
    });
}

#[test]
fn a_missing_command_is_127() {
    both(|mode| {
        for command in ["no-such-command-anywhere", "/no/such/file", "./no-such-file"] {
            mode(run(&[], [command])).start().finish().expect_code(127).expect_stderr(command);
        }
        // A valid interpreter line is no error.
        let mut launch = run(&[], ["placeholder"]);
        let path = launch.dir.file("script", "#!/bin/sh\nexit 5\n", 0o755);
        *launch.words.last_mut().unwrap() = path.into();
        mode(launch).start().finish().expect_code(5);
    });
}

#[test]
fn the_command_is_searched_in_path() {
    for (path, code) in [("/bin:/usr/bin", 0), ("/no/such/folder", 127)] {
        let mut launch = run(&[], ["true"]);
        launch.environment.retain(|(name, _)| name != "PATH");
        launch.env("PATH", path).start().finish().expect_code(code);
    }
    // As in execvp(3): a file that may not be executed does not hide later ones, and decides if there are none.
    for (later, code) in [("/bin:/usr/bin", 0), ("/no/such/folder", 126)] {
        let mut launch = run(&[], ["true"]);
        launch.dir.file("true", "not a program", 0o644);
        let path = format!("{}:{later}", launch.dir.path().display());
        launch.environment.retain(|(name, _)| name != "PATH");
        launch.env("PATH", path).start().finish().expect_code(code);
    }
}

#[test]
fn exit_map_rewrites_the_apps_codes() {
    for (map, steps, code) in [
        ("143=0", "die=15", 0),
        ("143=0", "exit=143", 0),
        ("143=0", "exit=1", 1),
        ("7=9,9=7", "exit=7", 9),
        ("7=9,9=7", "exit=9", 7),
        ("0=3", "exit=0", 3),
        ("255=0", "exit=255", 0),
        ("124=0,125=0,126=0,127=0", "exit=126", 0),
    ] {
        run_app(&["--exit-map", map], steps).start().finish().expect_code(code);
    }
    run_app(&[], "die=15").env("REBERTH_EXIT_MAP", "143=0").start().finish().expect_code(0);
}

#[test]
fn exit_map_leaves_reberths_own_codes_alone() {
    let map = ["--exit-map", "124=0,125=0,126=0,127=0,143=0"];
    run(&map, ["/no/such/file"]).start().finish().expect_code(127);
    run(&map, ["/etc"]).start().finish().expect_code(126);
    run(&[&map[..], &["--grace", "8"]].concat(), ["true"]).start().finish().expect_code(125);
    run(&[&map[..], &["--port-file", "/no/such/folder/file", "--port", "0"]].concat(), ["true"])
        .start()
        .finish()
        .expect_code(125);
}

#[test]
fn bad_settings_are_125_and_the_app_is_not_started() {
    for flags in [
        &["--grace", "8"][..],
        &["--grace", "soon"],
        &["--drain", "-1s"],
        &["--signal-map", "TERM"],
        &["--signal-map", "NOSUCH=TERM"],
        &["--signal-map", "TERM=65"],
        &["--exit-map", "256=0"],
        &["--exit-map", "1=x"],
        &["--signal-scope", "family"],
        &["--parent-death-signal", "NOSUCH"],
        &["--start-timeout", "1s"],
        &["--relaunch", "-1"],
        &["--no-such-flag"],
        &["--port", "web=99999"],
    ] {
        let outcome = run_app(flags, "say=started").start().finish().expect_code(125);
        assert_eq!(outcome.stdout, "", "{}", outcome.report());
        assert!(!outcome.stderr.is_empty(), "{}", outcome.report());
    }
    // All of them in one run, each with the name that was used.
    run_app(&["--grace", "8", "--signal-map", "TERM"], "say=started")
        .env("REBERTH_DRAIN", "5")
        .start()
        .finish()
        .expect_code(125)
        .expect_stderr("--grace")
        .expect_stderr("--signal-map")
        .expect_stderr("REBERTH_DRAIN");
}

#[test]
fn no_command_is_a_usage_error() {
    run::<&str>(&[], []).start().finish().expect_code(125);
}

#[test]
fn nothing_is_left_when_run_has_exited() {
    let mut running = run_app(&[], "fork pause end daemon pause end ready exit=0").start();
    running.ready();
    let tag = running.tag.clone();
    let _ended = running.finish().expect_code(0);
    assert_eq!(look::tagged(&tag), Vec::<i32>::new());
}

/// A directory of PATH on a network file system that is away: neither "not found" nor a missing loader.
#[test]
fn an_unreachable_program_is_reported_as_such() {
    for errno in [libc::ESTALE, libc::ENODEV, libc::ETIMEDOUT] {
        let reason = std::io::Error::from_raw_os_error(errno).to_string();
        for (word, part) in [("true", "cannot be executed"), ("not-there-at-all", "could not be searched")] {
            let launch = denied(&[(libc::SYS_execve, errno)], run(&[], [word]));
            let outcome = launch.start().finish().expect_code(126).expect_stderr(&reason).expect_stderr(part);
            assert!(!outcome.stderr.contains("interpreter"), "{}", outcome.report());
        }
    }
}
