//! The app's own bind in real containers: restarts of unmodified apps under a client that counts.

use crate::RESTRICTED;
use crate::engine::{Client, Container, free_port, get};

/// uvicorn with its port hard-coded, as in OpenUI: it knows nothing of reberth.
fn hard_coded(port: u16, name: &str, more: &[&str]) -> Container {
    let (own, told) = (format!("INSTANCE={name}"), format!("REBERTH_PORT=0.0.0.0:{port}"));
    let options = ["--network", "host", "-e", &own, "-e", &told];
    let port = port.to_string();
    let app = [
        "python3",
        "-m",
        "uvicorn",
        "--app-dir",
        "/",
        "--log-level",
        "warning",
        "--host",
        "0.0.0.0",
        "--port",
        &port,
        "app:app",
    ];
    Container::run(&[&options[..], &RESTRICTED, more].concat(), "python", &app)
}

#[test]
fn a_restart_by_prewarm_refuses_hardly_any_client() {
    let rounds = 5 * std::env::var("REBERTH_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_usize);
    let port = free_port();
    let prewarm = ["-e", "REBERTH_PREWARM=1"];
    let mut old = hard_coded(port, "0", &prewarm);
    old.wait_log("is ready");
    let client = Client::start(port);
    client.wait_answer("0");
    for round in 1..=rounds {
        let new = hard_coded(port, &round.to_string(), &prewarm);
        new.wait_log("the app waits in its bind");
        assert!(!new.logs().contains("is ready"));
        old.stop();
        client.wait_answer(&round.to_string());
        old = new;
    }
    let tries = client.end();
    println!("{rounds} restarts of an unmodified uvicorn by --prewarm: {}", tries.summary());
    // Between the old one's close and the claim lies the time of an event, in which a client that requests every millisecond comes once, or
    // on a busy machine a few times. Without prewarm it is the app's start, some hundreds.
    assert!(tries.refused() <= 10 * rounds, "{}\n{}", tries.summary(), old.logs());
}

#[test]
fn a_hard_coded_port_follows_a_fallback() {
    let port = free_port();
    let old = hard_coded(port, "old", &["-e", "REBERTH_HANDOVER=bind"]);
    old.wait_log("is ready");
    let more = ["-e", "REBERTH_HANDOVER=bind", "-e", "REBERTH_WAIT=0s", "-e", "REBERTH_FALLBACK=next"];
    let new = hard_coded(port, "new", &more);
    let line = new.wait_log("is ready on port");
    let taken: u16 = line.split("on port ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect(&line);
    assert_ne!(taken, port);
    let answer = |port| match get(port) {
        crate::engine::Try::Answer(body) => body,
        other => panic!("{other:?}"),
    };
    assert_eq!((answer(port), answer(taken)), ("old".to_owned(), "new".to_owned()));
}

/// A static program, which a C library's preload cannot reach: seccomp intercepts it all the same.
#[test]
fn a_static_app_gets_its_socket_too() {
    let port = free_port();
    let (told, address) = (format!("REBERTH_PORT=0.0.0.0:{port}"), format!("0.0.0.0:{port}"));
    let options = ["--network", "host", "-e", &told, "-e", "REBERTH_HANDOVER=bind", "-e", "REBERTH_HEALTH=/health"];
    let app = Container::run(
        &[&options[..], &RESTRICTED].concat(),
        "busybox",
        &["httpd", "-f", "-p", &address, "-h", "/www"],
    );
    app.wait_health("healthy");
    assert!(!app.logs().contains("WARN"), "{}", app.logs());
}
