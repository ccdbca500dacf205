//! An app that has changed to another user, under a root without CAP_SYS_PTRACE, as in a container: reberth cannot inspect it, and still
//! sees when it is ready.

use std::time::Duration;

use crate::harness::wait::holds_within;
use crate::harness::{Launch, Running, place};
use crate::{is_root, rounds, run_app, stop, under};

/// The launch as a root that may change users, without the capability to inspect their processes. Other users than root need a user
/// namespace with more than one user for that; if there is none (`newuidmap`, `/etc/subuid`), this is `None`, and prints a note.
fn without_ptrace(launch: Launch) -> Option<Launch> {
    const SEVERAL: [&str; 4] = ["unshare", "--user", "--map-root-user", "--map-auto"];
    let users: &[&str] = match is_root() {
        true => &[],
        false if under(SEVERAL, Launch::new("true")).start().finish().code == Some(0) => &SEVERAL,
        false => {
            println!("NOT RUN: not root, and no user namespace with more than one user");
            return None;
        }
    };
    let capability = ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"];
    Some(under([users, &capability].concat(), launch))
}

/// Control: even root cannot inspect the app.
fn assert_hidden(running: &mut Running, app: i32) {
    let words = ["ls".to_owned(), "-l".to_owned(), format!("/proc/{app}/fd/")];
    let looked = without_ptrace(Launch::new(words[0].clone()).args(&words[1..])).unwrap().start().finish();
    assert_ne!(looked.code, Some(0), "the app can be looked into: {}\n{}", looked.report(), running.report());
}

#[test]
fn an_app_of_another_user_is_seen_coming_up() {
    let count = rounds(3);
    for _ in 0..count {
        for modes in [&[][..], &["--handover", "on"]] {
            let port = place::free_port();
            let text = port.to_string();
            let listens = if modes.is_empty() { format!("listen=0.0.0.0:{port}") } else { String::new() };
            let steps = format!("uid=65534 {listens} ready pause");
            let flags = [&["--port", &text, "--start-timeout", "15s"], modes].concat();
            let Some(launch) = without_ptrace(run_app(&flags, &steps)) else { return };
            let mut running = launch.start();
            let app = running.ready();
            assert_hidden(&mut running, app);
            running.stderr_until(&format!("the app is ready on port {port}"));
            stop(running);
        }
    }
    println!(
        "an app of another user: {count} rounds each of binding itself and of a socket handed over, each called ready"
    );
}

#[test]
fn a_listener_of_another_process_does_not_count_as_an_app_of_another_user() {
    // Now root has the port, and the app is not root: the listener is not the app's.
    let count = rounds(2);
    for _ in 0..count {
        let port = place::free_port();
        let launch = run_app(&["--port", &port.to_string()], "uid=65534 ready pause");
        let Some(launch) = without_ptrace(launch) else { return };
        let mut running = launch.start();
        let app = running.ready();
        assert_hidden(&mut running, app);
        let _stranger = crate::holder(port);
        let called = holds_within(Duration::from_millis(800), || running.stderr().contains("is ready"));
        assert!(!called, "{}", running.report());
        stop(running);
    }
    println!("a stranger's listener: {count} rounds, never called ready");
}
