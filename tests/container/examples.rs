//! The folders of `examples/`, built unchanged: real servers that know nothing of reberth are healthy without any privileges, and are
//! restarted with `--prewarm` under a client that counts. Must not know how reberth does it.

use std::net::SocketAddr;

use crate::RESTRICTED;
use crate::engine::{Client, Container, docker, docker_ok, image};

/// What every example listens on, in its own network.
const PORT: u16 = 7878;

/// A network namespace that outlives the instances in it, like a pod's: its address, and the container that holds it.
fn network() -> (SocketAddr, Container) {
    let holder = Container::run(&["--entrypoint", "sleep"], "busybox", &["600"]);
    let address = holder.inspect("{{.NetworkSettings.IPAddress}}").parse().unwrap();
    (SocketAddr::new(address, PORT), holder)
}

/// An instance of the example in this network, in the most restricted container.
fn instance(example: &str, network: &Container, name: &str, more: &[&str]) -> Container {
    let (network, name) = (format!("container:{}", network.name), format!("INSTANCE={name}"));
    let options = ["--network", &network, "-e", &name, "--tmpfs", "/tmp", "--health-interval", "1s"];
    // The engine adds no network to another container's.
    Container::run(&[&options, &RESTRICTED[..], more].concat(), &format!("example-{example}"), &[])
}

/// Healthy in its own folder; then each instance takes over from the previous one, which has been sent its stop signal. A client sends a
/// request every millisecond, and between the old one's close and the claim lies an event: measured are at most two refused per restart, on
/// a busy machine.
fn restarts(example: &str, command: impl Fn(&str) -> Vec<String>) {
    is_checked(example);
    let rounds = 2 * std::env::var("REBERTH_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_usize);
    let (address, network) = network();
    let start = |round: usize| {
        let name = round.to_string();
        let more = command(&name);
        instance(example, &network, &name, &more.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut old = start(0);
    old.wait_health("healthy");
    assert!(!old.logs().contains("WARN"), "{}", old.logs());
    let client = Client::at(address);
    client.wait_answer("0");
    for round in 1..=rounds {
        let new = start(round);
        new.wait_log("the app waits in its bind");
        assert!(!new.logs().contains("is ready"), "{}", new.logs());
        old.stop();
        client.wait_answer(&round.to_string());
        old = new;
    }
    old.wait_health("healthy");
    let tries = client.end();
    println!("{rounds} restarts of {example} by --prewarm: {}", tries.summary());
    assert!(tries.refused() <= 20 * rounds, "{}\n{}", tries.summary(), old.logs());
}

/// A dry run of the unmodified image: it would launch, on its own port and with its own health target.
fn is_checked(example: &str) {
    let image = image(&format!("example-{example}"));
    let command: Vec<String> =
        serde_json::from_str(&docker_ok(&["inspect", "--format", "{{json .Config.Cmd}}", &image])).unwrap();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let run = ["run", "--rm", "--entrypoint", "/reberth", &image, "run", "--check", "--"];
    let done = docker(&[&run[..], &command].concat());
    assert_eq!(done.code, 0, "{}", done.out);
    for needle in ["7878/tcp             free", "asks /health on port", "the app would be launched"] {
        assert!(done.out.contains(needle), "{needle}: {}", done.out);
    }
}

fn unchanged(example: &str) {
    restarts(example, |_| Vec::new());
}

#[test]
fn uvicorn_is_healthy_and_restarts_by_prewarm() {
    unchanged("uvicorn");
}

#[test]
fn hypercorn_is_healthy_and_restarts_by_prewarm() {
    unchanged("hypercorn");
}

#[test]
fn gunicorn_is_healthy_and_restarts_by_prewarm() {
    unchanged("gunicorn");
}

#[test]
fn node_is_healthy_and_restarts_by_prewarm() {
    unchanged("node");
}

#[test]
fn go_is_healthy_and_restarts_by_prewarm() {
    unchanged("go");
}

#[test]
fn java_is_healthy_and_restarts_by_prewarm() {
    unchanged("java");
}

#[test]
fn nginx_is_healthy_and_restarts_by_prewarm() {
    // Its page shows which instance it is: one folder each.
    let folder = std::env::temp_dir().join(format!("reberth-nginx-{}", std::process::id()));
    restarts("nginx", |name| {
        let page = folder.join(name);
        std::fs::create_dir_all(&page).unwrap();
        std::fs::write(page.join("index.html"), name).unwrap();
        vec!["-v".to_owned(), format!("{}:/www:ro", page.display())]
    });
    std::fs::remove_dir_all(folder).unwrap();
}

/// What the other tests would see without interception: an app that starts when the port is free is unavailable for its whole start.
#[test]
fn without_prewarm_the_start_is_a_gap() {
    let (address, network) = network();
    let off = ["-e", "REBERTH_PREWARM=off", "-e", "REBERTH_HANDOVER=off"];
    let old = instance("uvicorn", &network, "old", &off);
    old.wait_health("healthy");
    let client = Client::at(address);
    client.wait_answer("old");
    let new = instance("uvicorn", &network, "new", &off);
    new.wait_log("is busy, waiting");
    old.stop();
    client.wait_answer("new");
    let tries = client.end();
    println!("one restart of uvicorn by --handover off: {}", tries.summary());
    assert!(tries.refused() > 20, "{}\n{}", tries.summary(), new.logs());
}
