//! The messages that only a real engine causes: which container has the port, how to stop it, and what works in a container where something
//! else does not. The advice is typed exactly as printed.

use std::time::Duration;

use crate::engine::{Container, Done, Made, Try, command, docker, docker_ok, free_port, get, image, unique};
use crate::golden::{between, golden};
use crate::on_host;

/// reberth on the host, beside the engine.
fn reberth(arguments: &[&str]) -> Done {
    let arch = command("dpkg", &["--print-architecture"]).out;
    let binary = format!("{}/dist/reberth-linux-{}", env!("CARGO_MANIFEST_DIR"), arch.trim());
    command(&binary, arguments)
}

fn claim(port: u16) -> Done {
    reberth(&["run", "--port", &port.to_string(), "--wait", "0s", "--", "true"])
}

/// The same on a port that the stopped holder may not have released yet.
fn claim_soon(port: u16) -> Done {
    reberth(&["run", "--port", &port.to_string(), "--wait", "30s", "--", "true"])
}

fn typed(line: &str) {
    let done = command("sh", &["-c", line]);
    assert_eq!(done.code, 0, "{line}: {}", done.out);
}

#[test]
fn a_container_that_has_the_port_is_named_with_the_fix() {
    let port = free_port();
    let old = on_host(port, &["--restart", "always"]);
    old.wait_health("healthy");
    let (id, pid) = (old.inspect("{{.Id}}"), old.inspect("{{.State.Pid}}"));
    let done = claim(port);
    assert_eq!(done.code, 124, "{}", done.out);
    let holder = between(&done.out, "held by pid ", " `").to_owned();
    let words = between(&done.out, " `", "`, uid");
    let places = [("ID", &id[..12]), ("PID", &holder), ("COMMAND", words), ("PORT", &port.to_string())];
    golden("container-holder", &done.out, &places);
    // Control: a killed holder returns, because of its restart policy.
    typed(&format!("kill -9 {pid}"));
    let back = format!(
        "until [ \"$(docker inspect -f '{{{{.State.Pid}}}} {{{{.State.Running}}}}' {})\" != '{pid} true' ] && docker inspect -f '{{{{.State.Running}}}}' {} | grep -q true; do :; done",
        old.name, old.name
    );
    typed(&back);
    while !matches!(get(port), Try::Answer(_)) {}
    typed(between(&done.out, "stop the holder's container (", ")"));
    let done = claim_soon(port);
    assert_eq!(done.code, 0, "{}", done.out);
}

#[test]
fn a_published_port_is_reported_as_held_by_dockers_proxy() {
    let port = free_port();
    let (network, publish) = (Made::new("network"), format!("{port}:8080"));
    let old = Container::run(&["--network", &network.name, "-p", &publish, "-e", "PORT=8080"], "busybox", &[]);
    old.wait_health("healthy");
    let done = claim(port);
    assert_eq!(done.code, 124, "{}", done.out);
    assert!(done.out.contains("docker-proxy"), "the engine's own way to publish a port: {}", done.out);
    let advice = done.out.lines().find(|line| line.contains("docker-proxy holds it")).unwrap();
    golden("docker-proxy", advice, &[("PORT", &port.to_string())]);
    let list = command("sh", &["-c", between(&done.out, "stop that container (", " names it)")]);
    assert!(list.out.contains(&old.name), "{}", list.out);
    docker_ok(&["stop", &old.name]);
    let done = claim_soon(port);
    assert_eq!(done.code, 0, "{}", done.out);
}

/// On the host network, from a separate PID namespace.
#[test]
fn a_holder_that_a_container_cannot_see_is_reported_with_the_fix() {
    let port = free_port();
    let old = on_host(port, &[]);
    old.wait_health("healthy");
    let new = on_host(port, &["-e", "REBERTH_WAIT=1s"]);
    assert_eq!(new.exit_code(), 124);
    let logs = new.logs();
    golden("container-hidden", &logs, &[("PORT", &port.to_string())]);
    // On the host, as root.
    let words: Vec<&str> = between(&logs, "as root: reberth ", ")").split(' ').collect();
    let seen = reberth(&words);
    assert_eq!(seen.code, 1, "{}", seen.out);
    typed(between(&seen.out, "stop the holder's container (", ")"));
    // And the advice that stops no process.
    let (name, value) = between(&logs, "take another port: ", ", ").split_once('=').unwrap();
    let next = on_host(port, &["-e", &format!("{name}={value}")]);
    next.wait_health("healthy");
}

#[test]
fn a_low_port_in_a_container_is_reported_with_the_fix() {
    let port = format!("PORT={}", 81);
    let plain = ["--user", "65534:65534", "-e", &port];
    // In a separate network namespace.
    let network = Made::new("network");
    let sysctl = ["--network", &network.name, "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"];
    let refused = Container::run(&[&plain[..], &sysctl].concat(), "busybox", &[]);
    assert_eq!(refused.exit_code(), 125);
    let logs = refused.logs();
    golden("low-port-container", &logs, &[]);
    let advice: Vec<&str> = between(&logs, "or start with ", " (in a pod").split(' ').collect();
    let app = Container::run(&[&plain[..], &advice, &["--network", &network.name]].concat(), "busybox", &[]);
    app.wait_health("healthy");
    // On the host network: the engine would refuse the same advice, and a capability does not reach a plain uid.
    let host = ["--network", "host"];
    let refused = Container::run(&[&plain[..], &host].concat(), "busybox", &[]);
    assert_eq!(refused.exit_code(), 125);
    let logs = refused.logs();
    golden("low-port-host-network", &logs, &[]);
    let name = unique("refused");
    let image = image("busybox");
    let create = [&["run", "-d", "--name", &name][..], &host, &advice, &[&image]].concat();
    let engine = docker(&create);
    docker(&["rm", "-f", &name]);
    assert_ne!(engine.code, 0, "the control: the engine takes {advice:?} on the host's network");
    let capable = Container::run(&[&plain[..], &host, &["--cap-add", "NET_BIND_SERVICE"]].concat(), "busybox", &[]);
    assert_eq!(capable.exit_code(), 125, "the control: a plain uid gets no capability: {}", capable.logs());
    let user: Vec<&str> = between(&logs, "start as root (", ")").split(' ').collect();
    let capability: Vec<&str> = between(&logs, "with --cap-add", ",").split_whitespace().collect();
    let options = [&["--cap-drop", "ALL", "--cap-add"][..], &capability[..1], &user, &host, &["-e", &port]].concat();
    let app = Container::run(&options, "busybox", &[]);
    app.wait_health("healthy");
}

/// `docker run IMAGE --wait 120s`
#[test]
fn an_option_after_the_image_is_explained() {
    let network = ["--network", "none"];
    let app = Container::run(&network, "busybox", &["--wait", "120s"]);
    assert_eq!(app.exit_code(), 127);
    let logs = app.logs();
    golden("option-behind-the-image", &logs, &[]);
    let setting = logs.trim_end().rsplit_once("or set ").unwrap().1;
    let app = Container::run(&[&network[..], &["-e", "PORT=8080", "-e", setting]].concat(), "busybox", &[]);
    app.wait_health("healthy");
    assert!(app.stop() < Duration::from_secs(8));
}
