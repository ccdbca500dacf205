//! Disks that are full or read-only, from the start or from one moment on, under everything that `run` writes.

use std::io::Write;
use std::path::PathBuf;

use crate::harness::launch::Stdio;
use crate::harness::place::{self, TempDir};
use crate::harness::wait::until;
use crate::harness::{Launch, Running};
use crate::{mounted, rounds, run_app, until_phase};

const SIZES: [&str; 2] = ["4k", "16k"];

/// The launch with a small disk at `dir`, set up by `more`.
fn on_disk(dir: &TempDir, size: &str, more: &str, launch: Launch) -> Launch {
    let path = dir.path().display();
    mounted(&[], &format!("mount -t tmpfs -o size={size} none '{path}'; d='{path}'; {more}"), launch)
}

const FILL: &str = "cat /dev/zero >\"$d/fill\" 2>/dev/null || true";
const READ_ONLY: &str = "mount -o remount,ro \"$d\"";

/// `run` with one of its files, or its state, in `dir`.
fn with(what: &str, dir: &TempDir, steps: &str) -> Launch {
    let path = dir.path().join(if what == "--state-dir" { "" } else { "file" });
    run_app(&["--port", "0", what, path.to_str().unwrap()], steps)
}

#[test]
fn what_cannot_be_written_from_the_start_is_125_and_nothing_is_launched() {
    let mut refused = 0;
    for _ in 0..rounds(1) {
        for what in ["--state-dir", "--port-file", "--log-file"] {
            for (size, more) in SIZES.iter().map(|size| (*size, FILL)).chain([("16k", READ_ONLY)]) {
                let dir = TempDir::new();
                let outcome = on_disk(&dir, size, more, with(what, &dir, "say=started")).start().finish();
                if what == "--log-file" && more == FILL {
                    // A full disk still accepts an empty file; lost lines are no reason to keep the app from its work.
                    assert_eq!(outcome.stdout, "started\n", "{}", outcome.report());
                    outcome.expect_code(0);
                    continue;
                }
                assert_eq!(outcome.stdout, "", "{}", outcome.report());
                outcome.expect_code(125).expect_stderr(what).expect_stderr(dir.path().to_str().unwrap());
                refused += 1;
                // Control: the same disk with room on it.
                on_disk(&dir, "64k", "true", with(what, &dir, "exit=0")).start().finish().expect_code(0);
            }
        }
    }
    println!("full or read-only from the start: {refused} refused with 125, the file named, nothing launched");
}

#[test]
fn without_a_word_where_the_state_goes_a_full_disk_is_passed_over() {
    // /run is full and /dev/shm is not: the state is there. All full: a warning, and it continues.
    for (covered, places) in [("/run", 1), ("/run /dev/shm /tmp", 0)] {
        let script =
            "for d in COVERED; do mount -t tmpfs -o size=4k none $d; cat /dev/zero >$d/fill 2>/dev/null || true; done";
        // With /tmp covered, the binaries may be unreachable by name.
        let mut launch = crate::run_in("/".as_ref(), &["--port", "0"], ["sh", "-c", "read x; exit 6"]);
        launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
        launch.words[0] = "/proc/self/fd/7".into();
        let binary = crate::harness::launch::open(crate::REBERTH, libc::O_RDONLY);
        let launch = mounted(&[], &script.replace("COVERED", covered), launch).descriptor(7, binary);
        let mut running = launch.stdin(Stdio::Pipe).start();
        // The state is written while the app starts, and an attempt may leave a temporary file for a moment: check what is left in the end.
        let (root, name) = (format!("/proc/{}/root", running.init), format!("-{}.json", running.init));
        let files = |dir: &str| {
            let found = std::fs::read_dir(format!("{root}{dir}")).unwrap();
            let names = found.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|file| file.contains(&name)).collect::<Vec<_>>()
        };
        match places {
            0 => running.stderr_until("no state file"),
            _ => until("the state is in /dev/shm", || files("/dev/shm").iter().any(|file| file.ends_with(&name))),
        }
        for dir in covered.split(' ') {
            assert_eq!(files(dir), Vec::<String>::new(), "{dir}: {}", running.report());
        }
        running.write("\n");
        let outcome = running.finish().expect_code(6);
        let warned = outcome.stderr.matches("no state file").count();
        assert_eq!(warned, 1 - places, "{}", outcome.report());
    }
    println!("default places full: 1 round with one of them, 1 with all; one warning where there was none left");
}

/// The directory as the program sees it.
fn inside(running: &Running, dir: &TempDir) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", running.init, dir.path().display()))
}

#[test]
fn failing_writes_after_the_start_do_no_harm() {
    let count = rounds(2);
    for _ in 0..count {
        for (size, read_only) in [("12k", false), ("64k", false), ("64k", true)] {
            let (dir, port) = (TempDir::new(), place::free_port());
            let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
            let (ports, log, state) = (file("ports"), file("log"), file(""));
            let text = port.to_string();
            let flags = ["--port", &text, "--port-file", &ports, "--state-dir", &state, "--drain", "1h"];
            // A file that is open for writing keeps a disk from being made read-only.
            let log = ["--log-file", &log];
            let flags = [&flags[..], if read_only { &[] } else { &log }].concat();
            let steps = format!("listen=0.0.0.0:{port} block ready until=15 exit=7");
            let mut running = on_disk(&dir, size, "true", run_app(&flags, &steps)).start();
            running.ready();
            let disk = inside(&running, &dir);
            until_phase(&disk, "ready");
            if read_only {
                let words = [
                    format!("--mount=/proc/{}/ns/mnt", running.init),
                    "mount".into(),
                    "-o".into(),
                    "remount,ro".into(),
                    state.clone(),
                ];
                Launch::new("nsenter").args(words).start().finish().expect_code(0);
            } else {
                let mut fill = std::fs::File::create(disk.join("fill")).unwrap();
                while fill.write_all(&[b'x'; 512]).is_ok() {}
            }
            running.signal(libc::SIGTERM);
            if read_only {
                running.stderr_until("phase draining cannot be written");
            } else {
                // There is no room for a second file, but the first one can be overwritten.
                until_phase(&disk, "draining");
            }
            running.signal(libc::SIGTERM);
            running.expect("signal 15");
            let outcome = running.finish().expect_code(7);
            assert_eq!(
                outcome.stderr.matches("cannot be written").count(),
                usize::from(read_only),
                "{}",
                outcome.report()
            );
        }
    }
    println!(
        "full or read-only after the start: {count} rounds each, the phase told where it could be, one warning where not, code kept"
    );
}

/// An image may have no `/dev/null`, which Rust's runtime would open in place of a closed standard descriptor, or abort.
#[test]
fn closed_descriptors_in_an_image_without_devices_are_no_reason_to_fail() {
    for closed in ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"] {
        let launch = run_app(&["--port", "0"], "exit=4");
        let launch = mounted(&[], &format!("mount -t tmpfs none /dev; exec {closed}"), launch);
        launch.start().finish().expect_code(4);
    }
    println!("without /dev/null: 4 ways of closed standard descriptors, and the app's code each time");
}
