//! Before, during and beside the run, as in docker/compose.after.yaml: a database that starts late, an app that turns unhealthy, and two
//! instances, the second of which is found through etcd.

use crate::engine::{Stream, command, docker, docker_ok, free_port, get, image, unique};

/// A compose project, taken down when the test ends.
struct Project {
    variables: Vec<String>,
}

impl Project {
    fn new() -> Self {
        let [api, database, etcd, peer] = [free_port(), free_port(), free_port(), free_port()];
        let variables = vec![
            format!("COMPOSE_PROJECT_NAME={}", unique("after").to_lowercase()),
            format!("API_IMAGE={}", image("busybox")),
            format!("DB_IMAGE={}", image("servers")),
            format!("ETCD_IMAGE={}", image("servers")),
            "API_BEAT=200ms".to_owned(),
            format!("API_PORT={api}"),
            format!("DB_PORT={database}"),
            format!("ETCD_PORT={etcd}"),
            format!("ETCD_PEER_PORT={peer}"),
        ];
        Self { variables }
    }

    fn call(&self, arguments: &[&str]) -> String {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/compose.after.yaml");
        let plugin = docker(&["compose", "version"]).code == 0;
        let tool: &[&str] = if plugin { &["docker", "compose"] } else { &["docker-compose"] };
        let variables: Vec<&str> = self.variables.iter().map(String::as_str).collect();
        let done = command("env", &[&variables, tool, &["-f", file], arguments].concat());
        assert_eq!(done.code, 0, "compose {}: {}", arguments.join(" "), done.out);
        done.out
    }

    fn ids(&self, service: &str) -> Vec<String> {
        self.call(&["ps", "-q", service]).split_ascii_whitespace().map(str::to_owned).collect()
    }

    fn port(&self) -> u16 {
        let port = self.variables.iter().find_map(|one| one.strip_prefix("API_PORT="));
        port.unwrap().parse().unwrap()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.call(&["logs", "--no-color"]));
        }
        self.call(&["down", "--timeout", "2"]);
    }
}

fn now() -> String {
    command("date", &["+%s.%N"]).out.trim().to_owned()
}

/// Waits until the engine reports this event of the container, since then.
fn event(id: &str, since: &str, kind: &str, needle: &str) {
    let (container, kind) = (format!("container={id}"), format!("event={kind}"));
    let format = "{{.Status}} code={{index .Actor.Attributes \"exitCode\"}}.";
    Stream::of("docker", &["events", "--since", since, "--filter", &container, "--filter", &kind, "--format", format])
        .wait_for(needle);
}

#[test]
fn the_compose_example_survives_a_late_database_an_unhealthy_app_and_a_moved_port() {
    let project = Project::new();
    let began = now();
    project.call(&["up", "-d", "--scale", "api=2", "etcd", "api"]);
    let apis = project.ids("api");
    assert_eq!(apis.len(), 2, "{apis:?}");
    for api in &apis {
        // The engine has no database: each waits, logs that, and holds nothing.
        Stream::of("docker", &["logs", "-f", api]).wait_for("until healthy (--after): postgres://127.0.0.1:");
        let probe = |kind: &str| docker(&["exec", api, "/reberth", "healthcheck", "--probe", kind]).code;
        assert_eq!((probe("readiness"), probe("liveness")), (1, 0), "{api}");
    }
    drop(std::net::TcpListener::bind(("0.0.0.0", project.port())).expect("nothing of the port is held"));

    project.call(&["up", "-d", "--no-recreate", "--scale", "api=2", "db"]);
    for api in &apis {
        Stream::of("docker", &["logs", "-f", api]).wait_for("is healthy after");
        event(api, &began, "health_status", "health_status: healthy");
    }
    // One has the port, and the other the next one: a client finds both in etcd.
    let etcd = project.ids("etcd").remove(0);
    let entries = || docker_ok(&["exec", &etcd, "etcdctl", "get", "--prefix", "services/api/", "--print-value-only"]);
    let found = entries();
    for port in [project.port(), project.port() + 1] {
        let entry = found
            .lines()
            .find(|line| line.contains(&format!(":{port}\"")))
            .unwrap_or_else(|| panic!("{port}: {found}"));
        assert!(entry.contains(r#"\"zone\":\"here\""#), "{entry}");
        assert!(!matches!(get(port), crate::engine::Try::Refused), "{port}");
    }

    // Its page is removed: so many failures, code 1, and the restart policy starts it again, which writes the page again.
    let (sick, since) = (&apis[0], now());
    docker_ok(&["exec", sick, "rm", "/www/health"]);
    event(sick, &since, "die", "code=1.");
    event(sick, &since, "health_status", "health_status: healthy");
    assert_eq!(docker_ok(&["inspect", "--format", "{{.RestartCount}}", sick]), "1");
    let logs = docker(&["logs", sick]).out;
    assert!(logs.contains("reberth exits with 1: the app was unhealthy (--exit-on-unhealthy)"), "{logs}");
    assert!(logs.contains("is unhealthy, 3 failures in a row"), "{logs}");
    // Control: the other one is unchanged.
    assert_eq!(docker_ok(&["inspect", "--format", "{{.RestartCount}}", &apis[1]]), "0");
    let watched = entries();
    assert_eq!(watched.lines().count(), 2, "{watched}");
}
