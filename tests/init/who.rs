//! `who --watch`, and what `who` prints about shared ports.

use std::net::TcpListener;

use crate::harness::launch::{Stdio, program};
use crate::harness::{Launch, Running, place};
use crate::{app, run};

fn watch(flags: &[&str]) -> Running {
    Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["who", "--watch"]).args(flags.iter().copied()).start()
}

/// A line without its timestamp.
fn next(running: &mut Running) -> String {
    let line = running.line();
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == 20 && time.ends_with('Z'), "{line}");
    rest.to_owned()
}

#[test]
fn watch_prints_a_line_for_each_change() {
    let (port, other) = (place::free_port(), place::free_port());
    let mut running = watch(&[&port.to_string(), &format!("{other}/udp")]);
    assert_eq!(next(&mut running), format!("{port}/tcp free"));
    assert_eq!(next(&mut running), format!("{other}/udp free"));
    for _ in 0..3 {
        let mut holder =
            Launch::new(app::program()).args([app::MARK, &format!("listen=0.0.0.0:{port}"), "ready", "pause"]).start();
        holder.ready();
        // The kernel reports no event when a socket starts to listen: this change is found by polling.
        let line = next(&mut running);
        assert!(line.starts_with(&format!("{port}/tcp held by pid {} ", holder.pid)), "{line}");
        let ended = std::time::Instant::now();
        drop(holder);
        assert_eq!(next(&mut running), format!("{port}/tcp free"));
        assert!(
            ended.elapsed() < std::time::Duration::from_millis(700),
            "by the event, and not by the clock: {:?}",
            ended.elapsed()
        );
    }
    // Its own queries are no changes: the next line is about the next change.
    let _holder = std::net::UdpSocket::bind(("127.0.0.1", other)).unwrap();
    let line = next(&mut running);
    assert!(line.starts_with(&format!("{other}/udp held by pid {} ", std::process::id())), "{line}");
    running.signal(15);
    assert_eq!(running.finish().signal, Some(15));
}

#[test]
fn watch_prints_a_json_object_on_each_line() {
    let port = place::free_port();
    let holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut running = watch(&["--json", &port.to_string()]);
    let mut object = || serde_json::from_str::<serde_json::Value>(&running.line()).unwrap();
    let first = object();
    assert_eq!((&first["ports"][0]["state"], first["at"].is_string()), (&"held".into(), true), "{first}");
    drop(holder);
    assert_eq!(object()["ports"][0]["state"], "free");
}

/// `reberth who --watch 80 | head -1`: it exits with its reader, with the code for what it saw last.
#[test]
fn watch_exits_with_its_reader() {
    let port = place::free_port();
    let _holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let script = format!("{{ {} who --watch {port}; echo code $? >&2; }} | head -n 1", env!("CARGO_BIN_EXE_reberth"));
    let outcome = Launch::new(program("sh")).args(["-c", &script]).start().finish().expect_code(0);
    assert!(outcome.stderr.contains("code 1"), "{}", outcome.report());
    Launch::new(env!("CARGO_BIN_EXE_reberth"))
        .args(["who", "--watch"])
        .start()
        .finish()
        .expect_code(125)
        .expect_stderr("name the ports");
}

#[test]
fn shared_ports_are_listed_by_their_name() {
    let port = place::free_port();
    let flags = ["--port", &format!("127.0.0.1:{port}"), "--share", "nights"];
    let mut running = run(&flags, app::words(&format!("listen=127.0.0.1:{port} ready pause"))).start();
    running.ready();
    let outcome =
        Launch::new(env!("CARGO_BIN_EXE_reberth")).arg("who").stdin(Stdio::Null).start().finish().expect_code(0);
    let line = format!("{port}/tcp: shared by the instances of nights (--share)\n");
    assert!(outcome.stderr.contains(&line), "{}", outcome.report());
}
