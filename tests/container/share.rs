//! One socket, several containers: rollouts, a keeper, and the page that tells how.

use std::collections::HashMap;
use std::process::Command;

use crate::RESTRICTED;
use crate::engine::{Client, Container, docker, free_port, image, unique};

/// The uvicorn app, sharing its port on the host's network, in the most restricted container there is.
fn instance(port: u16, name: &str, group: &str) -> Container {
    let (own, shared) = (format!("INSTANCE={name}"), format!("REBERTH_SHARE={group}"));
    let (told, port) = (format!("PORT={port}"), format!("REBERTH_PORT=0.0.0.0:{port}"));
    let options = ["--network", "host", "-e", &told, "-e", &port, "-e", &own, "-e", &shared, "--stop-timeout", "20"];
    Container::run(&[&options[..], &RESTRICTED].concat(), "python", &[])
}

fn rounds(least: usize) -> usize {
    least * std::env::var("REBERTH_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
fn rollouts_refuse_nobody() {
    let port = free_port();
    // One for this test alone, of every run and checkout.
    let group = format!("g{port}");
    let mut old = instance(port, "0", &group);
    old.wait_health("healthy");
    let client = Client::start(port);
    client.wait_answer("0");
    let count = rounds(5);
    for round in 1..=count {
        let new = instance(port, &round.to_string(), &group);
        new.wait_log("is shared with another instance");
        new.wait_health("healthy");
        client.wait_answer(&round.to_string());
        old.stop();
        // uvicorn ends in order, and then by the signal that it got.
        assert_eq!(old.exit_code(), 143, "{}", old.logs());
        old = new;
    }
    let tries = client.end();
    println!("{count} rollouts by --share: {}", tries.summary());
    assert_eq!(tries.refused(), 0, "{}\n{}", tries.summary(), old.logs());
    // The control: with the last one the port goes.
    old.stop();
    assert!(matches!(crate::engine::get(port), crate::engine::Try::Refused));
}

/// What compose calls itself here.
fn compose() -> &'static str {
    if docker(&["compose", "version"]).code == 0 { "docker compose" } else { "docker-compose" }
}

/// The command lines of the page's section, as they stand there.
fn commands(section: &str) -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rollout.md")).unwrap();
    let text = page.split("\n## ").find(|text| text.starts_with(section)).expect("the section");
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().replace("docker compose", compose())).collect()
}

fn shell(script: &str, variables: &HashMap<&str, String>) {
    let done = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .envs(variables)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{script}\n{said}");
}

/// Takes the project down, whatever became of the test.
struct Project(HashMap<&'static str, String>);

impl Drop for Project {
    fn drop(&mut self) {
        let _ = Command::new("bash")
            .args(["-c", &format!("{} -f docker/compose.rollout.yaml down --timeout 2", compose())])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(&self.0)
            .output();
    }
}

#[test]
fn the_rollout_page_works_as_written() {
    let port = free_port();
    let project = Project(HashMap::from([
        ("API_IMAGE", image("python")),
        ("API_PORT", port.to_string()),
        ("API_HEALTH", "/".to_owned()),
        ("COMPOSE_PROJECT_NAME", unique("rollout").to_lowercase()),
    ]));
    let [up, beside, in_place]: [String; 3] = commands("Compose").try_into().expect("three blocks");
    shell(&up, &project.0);
    let client = Client::start(port);
    client.wait_answer("1");
    shell(&beside, &project.0);
    client.wait_answer("2");
    shell(&in_place, &project.0);
    client.wait_answer("3");
    // A crash: the app's container is killed and started again by its policy, or by hand.
    shell(
        &format!(
            "app=$({} -f docker/compose.rollout.yaml ps -q api); docker kill \"$app\"; docker start \"$app\"",
            compose()
        ),
        &project.0,
    );
    client.wait_answer("3");
    let tries = client.end();
    println!("a rollout, a recreate and a crash beside keep: {}", tries.summary());
    assert_eq!(tries.refused(), 0, "{}", tries.summary());
}
