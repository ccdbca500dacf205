//! Few descriptors, no room for another process, and clocks that do not start at zero.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::harness::place::TempDir;
use crate::harness::running::Outcome;
use crate::harness::{Launch, look, place, until};
use crate::{REBERTH, holder, is_root, median, rounds, run_app, stop, under};

/// Neither a panic nor silence on failure; whether it succeeded.
#[track_caller]
fn success_or_a_word(outcome: Outcome, fine: i32, failed: i32) -> bool {
    let clear =
        outcome.code == Some(failed) && (outcome.stderr.contains("open files") || outcome.stderr.contains("limit"));
    // The loader of a dynamic program needs a descriptor before the program itself runs.
    let loader = outcome.code == Some(127) && outcome.stderr.contains("shared libraries");
    assert!(outcome.code == Some(fine) || clear || loader, "{}", outcome.report());
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.report());
    outcome.code == Some(fine)
}

#[test]
fn with_few_descriptors_it_works_or_says_why_not() {
    const TIME: Duration = Duration::from_secs(10);
    let limited = |launch: Launch, limit: u64| launch.limit(libc::RLIMIT_NOFILE, limit);
    let mut least = Vec::new();
    for (name, flags, busy) in [
        ("one port", &[][..], false),
        ("three ports handed over", &["--handover", "on"], false),
        ("a wait", &[], true),
        ("a wait for three ports handed over", &["--handover", "on"], true),
    ] {
        let mut works = None;
        for limit in (4..=16).rev() {
            let port = place::free_port();
            let specs = if flags.is_empty() { format!("{port}") } else { format!("{port},a=0,b=0") };
            let mut held = busy.then(|| holder(port));
            let flags = [&["--port", &specs, "--wait", "30s", "--backoff", "20ms..100ms"], flags].concat();
            let mut running = limited(run_app(&flags, "exit=0"), limit).start();
            if let Some(held) = &mut held {
                until("it waits or has ended", || running.has_ended() || running.stderr().contains("is busy, waiting"));
                held.signal(libc::SIGKILL);
            }
            let fine = success_or_a_word(running.finish_within(TIME), 0, 125);
            assert!(fine || limit < 16, "16 descriptors are not enough for {name}");
            works = if fine { Some(limit) } else { works };
        }
        least.push(format!("{name} {}", works.unwrap()));
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let nobody = TempDir::new();
    for limit in 4..=16 {
        let who = limited(Launch::new(REBERTH).args(["who", &port]), limit).start().finish_within(TIME);
        assert!(matches!(who.code, Some(1 | 125 | 127)) && !who.stderr.contains("panicked"), "{}", who.report());
        // A separate state directory: another `run` on this machine must not interfere.
        let asked =
            Launch::new(REBERTH).args(["healthcheck", "tcp", "--state-dir"]).arg(nobody.path()).env("PORT", &port);
        let asked = limited(asked, limit).start().finish_within(TIME);
        assert!(matches!(asked.code, Some(0 | 1 | 127)) && !asked.stderr.contains("panicked"), "{}", asked.report());
        assert!(limit < 8 || (who.code, asked.code) == (Some(1), Some(0)), "{}\n{}", who.report(), asked.report());
    }
    println!(
        "RLIMIT_NOFILE from 4 to 16, least that works: {}; who and healthcheck from 8 on at the latest",
        least.join(", ")
    );
}

/// A control group that limits the number of processes started in it.
struct Group(std::path::PathBuf);

impl Group {
    /// `None` if no limit can be set here.
    fn new() -> Option<Self> {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        let made = roots
            .iter()
            .map(|root| Self(std::path::Path::new(root).join(format!("reberth-faults-{}", place::unique()))));
        made.into_iter().find(|group| std::fs::create_dir(&group.0).is_ok() && group.limit("max"))
    }

    fn limit(&self, most: &str) -> bool {
        std::fs::write(self.0.join("pids.max"), most).is_ok()
    }

    fn inside(&self, launch: Launch) -> Launch {
        let script = format!("echo $$ >'{}/cgroup.procs'; exec \"$@\"", self.0.display());
        under(["sh", "-c", &script, "sh"], launch)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn without_room_for_another_process_it_says_why_and_leaves_the_port() {
    let Some(group) = Group::new() else {
        println!(
            "NOT RUN: a limit of processes cannot be set in /sys/fs/cgroup here; RLIMIT_NPROC is tested with the init"
        );
        return;
    };
    let count = rounds(3);
    for _ in 0..count {
        let port = place::free_port();
        let text = port.to_string();
        // Not even a process for the app: 125, its line, and the port is released.
        assert!(group.limit("1"));
        let flags = ["--port", &text, "--handover", "on"];
        let outcome = group.inside(run_app(&flags, "say=started")).start().finish().expect_code(125);
        assert_eq!(outcome.stdout, "", "{}", outcome.report());
        outcome.expect_stderr("pids limit");
        drop(TcpListener::bind(("0.0.0.0", port)).unwrap());
        // No process for the probe: the app runs on, and is called ready once there is room.
        assert!(group.limit("2"));
        let flags = ["--port", &text, "--health", "tcp"];
        let steps = format!("listen=0.0.0.0:{port} ready pause");
        let mut running = group.inside(run_app(&flags, &steps)).start();
        running.ready();
        assert!(!crate::harness::wait::holds_within(Duration::from_millis(300), || running
            .stderr()
            .contains("is ready")));
        assert!(!running.has_ended(), "{}", running.report());
        assert!(group.limit("max"));
        running.stderr_until("is ready");
        stop(running);
        until("the group is empty", || {
            std::fs::read_to_string(group.0.join("cgroup.procs")).is_ok_and(|text| text.is_empty())
        });
    }
    println!(
        "no room for another process: {count} rounds of 125 with its line and the port left, {count} of an app that runs on"
    );
}

/// The launch in a time namespace with other clocks.
fn at(offset: &str, launch: Launch) -> Launch {
    let user: &[&str] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
    let words =
        [&["unshare"], user, &["--time", "--monotonic", offset, "--boottime", offset, "--fork", "--kill-child", "--"]]
            .concat();
    under(words, launch)
}

#[test]
fn other_clocks_change_no_duration() {
    let mut times = Vec::new();
    // Back to nearly the boot of the machine; and centuries ahead, where the clock is near its end.
    for offset in ["-1", "100000", "4000000000"] {
        for _ in 0..rounds(2) {
            let port = place::free_port();
            let text = port.to_string();
            let mut held = holder(port);
            let began = Instant::now();
            let flags = ["--port", &text, "--wait", "300ms"];
            at(offset, run_app(&flags, "say=never")).start().finish().expect_code(124).expect_stderr("listening");
            let took = began.elapsed();
            assert!(took > Duration::from_millis(290) && took < Duration::from_secs(5), "{took:?}");
            let flags =
                ["--port", &text, "--wait", "50s", "--backoff", "50s..50s", "--grace", "300ms", "--drain", "50ms"];
            let mut waiter =
                at(offset, run_app(&flags, &format!("ignore=15 ready listen=0.0.0.0:{port} pause"))).start();
            waiter.stderr_until("is busy, waiting");
            let freed = Instant::now();
            held.signal(libc::SIGKILL);
            waiter.ready();
            times.push(freed.elapsed());
            waiter.stderr_until("is ready");
            waiter.init = look::children(waiter.pid)[0];
            // From the same container: trusted there.
            let state = waiter.dir.path().to_owned();
            let ask = || Launch::new(REBERTH).args(["healthcheck", "--state-dir"]).arg(state.clone()).arg("tcp");
            at(offset, ask()).start().finish().expect_code(0);
            let began = Instant::now();
            waiter.signal(libc::SIGTERM);
            waiter.finish().expect_code(137);
            assert!(began.elapsed() > Duration::from_millis(340) && began.elapsed() < Duration::from_secs(5));
        }
    }
    println!(
        "clocks elsewhere: {} rounds, app ready {:?} after the port was free (median)",
        times.len(),
        median(times)
    );
}
