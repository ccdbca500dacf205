//! The process beside PID 1: when it registers the app, which descriptors it has, and how it ends.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, Manner};
use crate::harness::{look, place, running, until};
use crate::{AWAY, TTL, app, beside, both, count, serves};

#[test]
fn registered_when_ready_and_deregistered_at_the_start_of_the_drain() {
    both(|mode| {
        let gateway = Gateway::new(Manner::Good);
        let port = place::free_port().to_string();
        let flags = ["--port", &port, "--health", "/", "--drain", "60s", "--register", &gateway.url()];
        let mut running = mode(app(&flags, &["late"])).start();
        running.ready();
        running.stderr_until("listens on");
        // The app has been probed and is not healthy yet: the next probe shows that nothing was registered meanwhile.
        assert_eq!(beside(&running), None, "{}", running.report());
        assert_eq!(gateway.asked(), [""; 0]);
        running.write("well\n");
        until("it is announced", || gateway.count("kv/put") == 1);
        assert_eq!(gateway.asked(), ["/v3/lease/grant", "/v3/kv/put"]);
        running.signal(15);
        until("it is taken back", || gateway.count("lease/revoke") == 1);
        // The drain lasts a minute: the app has received no signal.
        assert!(!running.has_ended(), "{}", running.report());
        running.signal(15);
        running.finish_within(Duration::from_secs(5)).expect_code(143).expect_stderr("withdrawn from");
    });
}

#[test]
fn an_app_that_crashes_is_deregistered_and_its_code_is_kept() {
    both(|mode| {
        let gateway = Gateway::new(Manner::Good);
        let port = place::free_port().to_string();
        let mut running = mode(app(&["--port", &port, "--register", &gateway.url()], &[])).start();
        running.ready();
        until("it is announced", || gateway.count("kv/put") == 1);
        running.write("exit 7\n");
        let outcome = running.finish().expect_code(7);
        assert_eq!(gateway.count("lease/revoke"), 1, "{:?}", gateway.asked());
        // It does not count as left behind by the app.
        assert!(!outcome.stderr.contains("left"), "{}", outcome.report());
    });
}

/// What the app leaves behind is stopped, by PID 1 together with every other process: but the process beside it still has work to do then.
#[test]
fn it_does_not_count_as_left_behind_by_the_app() {
    both(|mode| {
        let gateway = Gateway::new(Manner::Good);
        let port = place::free_port().to_string();
        let mut running = mode(app(&["--port", &port, "--register", &gateway.url()], &[])).start();
        running.ready();
        until("it is announced", || gateway.count("kv/put") == 1);
        running.write("child\n");
        running.expect("heard");
        gateway.behave(Manner::Slow(Duration::from_millis(200)));
        running.write("exit 7\n");
        let outcome = running.finish().expect_code(7).expect_stderr("left processes behind");
        assert_eq!(gateway.count("lease/revoke"), 1, "{}", outcome.report());
        assert_eq!(count(&outcome.stderr, "withdrawn"), 1, "{}", outcome.report());
    });
}

#[test]
fn it_shares_no_descriptor_with_the_app() {
    for handover in ["off", "on", "bind"] {
        let gateway = Gateway::new(Manner::Good);
        let port = place::free_port();
        let spec = format!("127.0.0.1:{port}");
        let flags = ["--port", &spec, "--handover", handover, "--register", &gateway.url()];
        let words: &[&str] = if handover == "on" { &["given"] } else { &[] };
        let mut running = app(&flags, words).start();
        running.ready();
        until("it is announced", || gateway.count("kv/put") == 1);
        let one = beside(&running).unwrap();
        let inodes = |pid: i32| -> BTreeSet<String> {
            look::descriptors(pid).into_iter().filter(|(fd, _)| *fd > 2).map(|(_, what)| what).collect()
        };
        let own = inodes(one);
        // The socket to PID 1, and the connection to the registry.
        assert!(own.len() <= 2 && own.iter().all(|what| what.starts_with("socket:")), "{handover}: {own:?}");
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let listener = table.lines().find(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")));
        let inode = listener.and_then(|line| line.split_whitespace().nth(9)).map(|inode| format!("socket:[{inode}]"));
        // Control: the socket exists, and the right processes have it.
        let others = look::children(running.init).into_iter().filter(|pid| *pid != one);
        let mut of_app = others.clone().map(inodes);
        let holds = inode.as_ref().is_some_and(|inode| of_app.any(|all| all.contains(inode)));
        assert!(holds, "{handover}: {inode:?}");
        assert!(!own.contains(&inode.unwrap()), "{handover}: {own:?}");
        for pid in others {
            assert!(own.is_disjoint(&inodes(pid)), "{handover}: the app has {:?}", inodes(pid));
        }
        running.signal(9);
    }
}

#[test]
fn one_that_dies_is_started_again_once_a_ttl_and_none_outlives_pid_1() {
    both(|mode| {
        let gateway = Gateway::new(Manner::Good);
        let port = place::free_port().to_string();
        let mut running = mode(app(&["--port", &port, "--register", &gateway.url()], &[])).start();
        running.ready();
        until("it is announced", || gateway.count("kv/put") == 1);
        let began = Instant::now();
        let first = beside(&running).unwrap();
        // Only KILL stops it: at the end, TERM is sent to every process.
        running::kill(first, 15);
        running::kill(first, 9);
        running.stderr_until("has exited: it restarts");
        assert_eq!(look::zombies(running.init), 0, "{}", running.report());
        until("it is announced again", || gateway.count("kv/put") == 2);
        let after = began.elapsed();
        assert!(after + Duration::from_millis(500) >= Duration::from_secs(TTL), "{after:?}");
        let second = beside(&running).unwrap();
        assert_ne!(first, second);
        // The app has noticed nothing, and a stop works as usual.
        assert!(!running.has_ended());
        running::kill(running.init, 9);
        until("it has gone with reberth", || !look::alive(second));
    });
}

#[test]
fn a_term_alone_does_not_stop_it() {
    let gateway = Gateway::new(Manner::Good);
    let port = place::free_port().to_string();
    let mut running = app(&["--port", &port, "--register", &gateway.url()], &[]).start();
    running.ready();
    until("it is announced", || gateway.count("kv/put") == 1);
    let one = beside(&running).unwrap();
    for signal in [1, 2, 3, 10, 12, 13, 14, 15, 20] {
        running::kill(one, signal);
    }
    until("it renews the lease", || gateway.count("lease/keepalive") == 1);
    assert_eq!(beside(&running), Some(one), "{}", running.report());
    assert_eq!(count(&running.stderr(), AWAY), 0);
    running.signal(15);
    running.finish().expect_code(143);
    assert_eq!(gateway.count("lease/revoke"), 1);
}

/// Whatever the configured port, the one that was taken is registered.
#[test]
fn a_port_not_known_in_advance_is_registered() {
    for flags in [&["--port", "0"][..], &["--port", "0", "--prewarm"]] {
        let gateway = Gateway::new(Manner::Good);
        let mut running = app(&[flags, &["--register", &gateway.url()]].concat(), &[]).start();
        running.ready();
        running.stderr_until("announced in");
        let said = running.stderr();
        let line = said.lines().find(|line| line.contains("announced in")).unwrap().to_owned();
        let port: u16 = line.rsplit(':').next().unwrap().parse().unwrap();
        assert!(line.contains(&format!("-{port}, at 127.0.0.1:{port}")) && serves(port), "{line}");
        running.signal(15);
        running.finish().expect_code(143);
    }
}

/// Without a /proc of this namespace it is unknown which child belongs to what; the exit does not wait for the process beside.
#[test]
fn without_proc_the_exit_is_no_slower() {
    let gateway = Gateway::new(Manner::Good);
    let port = place::free_port().to_string();
    let mut launch = app(&["--port", &port, "--register", &gateway.url()], &[]);
    // Without /proc a state is of no use, and a configured directory is then an error.
    launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
    let unshare = ["unshare", "--mount", "--", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"];
    launch.words = unshare.iter().map(Into::into).chain(launch.words).collect();
    let mut running = launch.start();
    running.ready();
    until("it is announced", || gateway.count("kv/put") == 1);
    running.write("exit 7\n");
    running.finish_within(Duration::from_secs(4)).expect_code(7);
    assert_eq!(gateway.count("lease/revoke"), 1);
}

/// Nothing of it exists unless it was configured.
#[test]
fn without_register_there_is_no_process_beside() {
    let port = place::free_port().to_string();
    let mut running = app(&["--port", &port], &[]).start();
    running.ready();
    running.stderr_until("is ready");
    assert_eq!(beside(&running), None);
    running.signal(15);
    running.finish().expect_code(143);
}
