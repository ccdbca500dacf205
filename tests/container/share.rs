//! One socket, several containers: rollouts, a keeper, and the page that explains them.

use std::collections::HashMap;
use std::process::Command;

use crate::RESTRICTED;
use crate::engine::{Client, Container, Try, docker, free_port, image, unique};

/// The uvicorn app, sharing its port on the host network, in the most restricted container.
fn instance(port: u16, name: &str, group: &str) -> Container {
    let (own, shared) = (format!("INSTANCE={name}"), format!("REBERTH_SHARE={group}"));
    let (told, port) = (format!("PORT={port}"), format!("REBERTH_PORT=0.0.0.0:{port}"));
    let options = ["--network", "host", "-e", &told, "-e", &port, "-e", &own, "-e", &shared, "--stop-timeout", "20"];
    Container::run(&[&options[..], &RESTRICTED].concat(), "finishing", &[])
}

fn rounds(least: usize) -> usize {
    least * std::env::var("REBERTH_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
fn rollouts_refuse_no_client() {
    let port = free_port();
    // A group for this test alone, unique among runs and checkouts.
    let group = format!("g{port}");
    let mut old = instance(port, "0", &group);
    old.wait_health("healthy");
    // Several: an instance that stops accepting for a moment has other clients' connections in its queue.
    let clients: Vec<Client> = (0..3).map(|_| Client::start(port)).collect();
    clients[0].wait_answer("0");
    let count = rounds(5);
    for round in 1..=count {
        let new = instance(port, &round.to_string(), &group);
        new.wait_log("is shared with another instance");
        new.wait_health("healthy");
        clients[0].wait_answer(&round.to_string());
        old.stop();
        // uvicorn shuts down properly, and then dies of the signal that it got.
        assert_eq!(old.exit_code(), 143, "{}", old.logs());
        old = new;
    }
    let tries = Client::end_all(clients);
    println!("{count} rollouts by --share: {}", tries.summary());
    assert_eq!((tries.refused(), tries.lost()), (0, 0), "{}\n{}", tries.summary(), old.logs());
    // Control: the port is released with the last one.
    old.stop();
    assert!(matches!(crate::engine::get(port), Try::Refused));
}

/// On the host network every container is in the same place, and the uid or the secret shows which ones belong together.
#[test]
fn on_the_host_network_the_uid_or_the_secret_decides_which_share() {
    let folder = std::env::temp_dir().join(unique("secrets"));
    std::fs::create_dir(&folder).unwrap();
    let secret = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, name).unwrap();
        format!("{}:/secret:ro", path.display())
    };
    let (known, other) = (secret("known"), secret("other"));
    let start = |port: u16, uid: &str, secret: Option<&str>| {
        let (share, told) = (format!("REBERTH_SHARE=g{port}"), format!("PORT={port}"));
        let port = format!("REBERTH_PORT=0.0.0.0:{port}");
        let mut options = vec!["--network", "host", "--user", uid, "-e", &share, "-e", &told, "-e", &port];
        options.extend(["--cap-drop", "ALL", "--read-only", "--tmpfs", "/tmp"]);
        if let Some(secret) = secret {
            options.extend(["-e", "REBERTH_SHARE_SECRET_FILE=/secret", "-v", secret]);
        }
        Container::run(&options, "finishing", &[])
    };
    let shares = "is shared with another instance";
    let (a, b) = (Some(known.as_str()), Some(other.as_str()));
    for (one, two, hears) in [
        (("0", None), ("0", None), shares),
        (("1000", None), ("1000", None), shares),
        (("1000", None), ("2000", None), "is a different user"),
        // Root is another user too, on either side.
        (("1000", None), ("0", None), "is a different user"),
        (("0", None), ("1000", None), "is a different user"),
        (("1000", a), ("2000", a), shares),
        (("0", a), ("2000", a), shares),
        (("1000", a), ("1000", b), "secret"),
        (("1000", a), ("1000", None), "secret"),
        (("1000", None), ("1000", a), "secret"),
    ] {
        let port = free_port();
        let old = start(port, one.0, one.1);
        old.wait_log("is ready on port");
        let new = start(port, two.0, two.1);
        let line =
            new.wait_log(if hears == shares { shares } else { "is not shared by the process that has the name" });
        assert!(line.contains(hears), "{one:?} {two:?}: {line}");
        if hears == shares {
            new.wait_log("is ready on port");
        } else {
            new.wait_log("is busy, waiting");
        }
        for (container, (uid, secret)) in [(&old, one), (&new, two)] {
            let warned = container.logs().contains("as uid 0 and without a secret");
            assert_eq!(warned, uid == "0" && secret.is_none(), "{one:?} {two:?}: {}", container.logs());
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The name of the compose command here.
fn compose() -> &'static str {
    if docker(&["compose", "version"]).code == 0 { "docker compose" } else { "docker-compose" }
}

/// The command lines of a section of the page, exactly as written.
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

/// Takes the project down, whatever the outcome of the test.
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

/// What the page shows for uvicorn is measured here.
#[test]
fn the_fix_in_the_message_is_the_one_on_the_page() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rollout.md")).unwrap();
    let shown = page.split("```python\n").nth(1).and_then(|text| text.split("```").next()).expect("the block");
    assert!(include_str!("finishing.py").ends_with(shown), "{shown}");
}

#[test]
fn plain_docker_works_as_written() {
    let port = free_port();
    let secret = std::env::temp_dir().join(unique("secret"));
    std::fs::write(&secret, "of both").unwrap();
    let name = unique("api").to_lowercase();
    // The names belong to this test; the rest of the lines is unchanged.
    let written = |text: &String| {
        let text = text.replace("/etc/api-secret", secret.to_str().unwrap()).replace(" api-", &format!(" {name}-"));
        text.replace("7878 ", &format!("{port} -e PORT={port} "))
            .replace(" example\n", &format!(" {}\n", image("finishing")))
    };
    let [first, rollout]: [String; 2] = commands("Plain Docker").try_into().expect("two blocks");
    let _ends = [1, 2].map(|number| Leftover(format!("{name}-{number}")));
    let none = HashMap::new();
    shell(&written(&first), &none);
    crate::engine::Stream::of("docker", &["logs", "-f", &format!("{name}-1")]).wait_for("is ready on port");
    let clients: Vec<Client> = (0..3).map(|_| Client::start(port)).collect();
    clients[0].wait_answer("nameless");
    shell(&written(&rollout), &none);
    let answer = crate::engine::get(port);
    assert!(matches!(answer, Try::Answer(_)), "{answer:?}");
    let tries = Client::end_all(clients);
    println!("a rollout by plain docker: {}", tries.summary());
    assert_eq!((tries.refused(), tries.lost()), (0, 0), "{}", tries.summary());
    std::fs::remove_file(&secret).unwrap();
}

/// A container created by a command line, removed whatever the outcome of the test.
struct Leftover(String);

impl Drop for Leftover {
    fn drop(&mut self) {
        docker(&["rm", "-f", "-v", &self.0]);
    }
}

#[test]
fn the_rollout_page_works_as_written() {
    let port = free_port();
    let project = Project(HashMap::from([
        ("API_IMAGE", image("finishing")),
        ("API_PORT", port.to_string()),
        ("API_HEALTH", "/".to_owned()),
        ("COMPOSE_PROJECT_NAME", unique("rollout").to_lowercase()),
    ]));
    let [up, beside, in_place]: [String; 3] = commands("Compose").try_into().expect("three blocks");
    shell(&up, &project.0);
    let clients = || -> Vec<Client> { (0..3).map(|_| Client::start(port)).collect() };
    let before = clients();
    before[0].wait_answer("1");
    shell(&beside, &project.0);
    before[0].wait_answer("2");
    shell(&in_place, &project.0);
    before[0].wait_answer("3");
    let tries = Client::end_all(before);
    println!("a rollout and a recreate beside keep: {}", tries.summary());
    assert_eq!((tries.refused(), tries.lost()), (0, 0), "{}", tries.summary());
    // A crash: the app's container is killed, and started again by its policy, or by hand. The connections it had accepted are lost.
    let crash = format!(
        "app=$({} -f docker/compose.rollout.yaml ps -q api); docker kill \"$app\"; docker start \"$app\"",
        compose()
    );
    let beside = clients();
    let count = rounds(2);
    for _ in 0..count {
        shell(&crash, &project.0);
        // This request waits in the queue until the app is back.
        let answer = crate::engine::get(port);
        assert!(matches!(&answer, Try::Answer(body) if body == "3"), "{answer:?}");
    }
    let tries = Client::end_all(beside);
    println!("{count} crashes beside keep: {}", tries.summary());
    assert_eq!(tries.refused(), 0, "{}", tries.summary());
    assert!(tries.lost() <= 3 * count, "{}", tries.summary());
}
