//! docs/discovery.md as written: its settings, its commands and their printed output, on a host with the page's name, address and registry
//! (in namespaces of this test, because the page uses well-known ports).

use crate::harness::launch::Stdio;
use crate::harness::place::TempDir;
use crate::harness::{Launch, Running, running, until};
use crate::{APP, beside};

const PAGE: &str = include_str!("../../docs/discovery.md");

const HOST: &str = "
hostname node-a; ip link set lo up; ip address add 10.0.0.11/32 dev lo
mount --bind \"$1\" /etc/hosts && echo \"ready (pid $$)\" && read -r _
";

/// The page's host, until dropped.
struct Host {
    running: Running,
    dir: TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = TempDir::new();
        let names = dir.file("hosts", "127.0.0.1 localhost etcd-0 etcd-1\n", 0o644);
        let launch = Launch::new("unshare").args(["--net", "--uts", "--mount", "sh", "-c", HOST, "sh"]);
        let mut running = launch.arg(names).stdin(Stdio::Pipe).start();
        running.ready();
        Self { running, dir }
    }

    /// This command on the host.
    fn launch(&self, words: &[&str]) -> Launch {
        let pid = self.running.pid.to_string();
        Launch::new("nsenter").args(["-t", &pid, "--net", "--uts", "--mount", "--"]).args(words.iter().copied())
    }

    /// A command line of the page.
    fn shell(&self, script: &str) -> Launch {
        let script = format!("cd \"$1\"\n{script}");
        self.launch(&["bash", "-uo", "pipefail", "-c", &script, "bash"]).arg(self.dir.path())
    }

    #[track_caller]
    fn prints(&self, script: &str) -> String {
        self.shell(script).start().finish().expect_code(0).stdout
    }

    fn etcd(&self) -> Running {
        let data = self.dir.path().join("data");
        let etcd = self.launch(&["etcd", "--data-dir"]).arg(data).stdout(Stdio::Null).stderr(Stdio::Null).start();
        until("etcd answers", || self.shell("etcdctl --command-timeout=1s get x").start().finish().code == Some(0));
        etcd
    }

    /// An instance of the page's Deployment.
    fn instance(&self) -> Running {
        let launch = self.launch(&[env!("CARGO_BIN_EXE_reberth"), "run", "--", "python3", "-S", "-c", APP]);
        let state = launch.dir.path().to_owned();
        let launch = launch.env("REBERTH_STATE_DIR", state).stdin(Stdio::Pipe);
        let mut running = settings().into_iter().fold(launch, |launch, (name, value)| launch.env(name, value)).start();
        running.ready();
        running.stderr_until("announced in");
        assert!(beside(&running).is_some());
        running
    }
}

/// What the Deployment sets; the engine fills in the node's address.
fn settings() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in blocks("yaml").remove(0).lines() {
        let Some((name, rest)) = line.trim().strip_prefix("- { name: REBERTH_").and_then(|line| line.split_once(", "))
        else {
            continue;
        };
        let value = match rest.strip_prefix("value: \"") {
            Some(value) => value.split('"').next().unwrap(),
            None => {
                assert!(rest.contains("status.hostIP"), "{line}");
                "10.0.0.11"
            }
        };
        all.push((format!("REBERTH_{name}"), value.to_owned()));
    }
    assert_eq!(all.len(), 6, "{all:?}");
    all
}

/// The page's code blocks of one kind.
fn blocks(kind: &str) -> Vec<&'static str> {
    let opening = format!("```{kind}\n");
    PAGE.split(opening.as_str()).skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

#[test]
fn the_page_works_as_written() {
    let host = Host::new();
    let etcd = host.etcd();
    let (first, second) = (host.instance(), host.instance());

    let [said] = blocks("console").try_into().expect("one block");
    let (command, printed) = said.strip_prefix("$ ").and_then(|said| said.split_once('\n')).expect("a command");
    assert_eq!(host.prints(command), printed);
    let [list, prometheus] = blocks("sh").try_into().expect("two blocks");
    assert_eq!(host.prints(list), "10.0.0.11:8080\n10.0.0.11:8081\n");

    let file = host.dir.path().join("api.json");
    let has = |targets: &str| {
        let wanted = format!("[{{\"targets\":[{targets}]}}]\n");
        std::fs::read_to_string(&file).is_ok_and(|text| text == wanted)
    };
    let mut listing = host.shell(prometheus).start();
    until("both are in Prometheus' file", || has("\"10.0.0.11:8080\",\"10.0.0.11:8081\""));
    drain(second);
    until("the second has gone from it", || has("\"10.0.0.11:8080\""));
    // A registry that does not answer is no reason to scrape nothing.
    running::kill(etcd.pid, 9);
    listing.stderr_until("error");
    assert!(has("\"10.0.0.11:8080\""));
    running::kill(first.init, 9);
    running::kill(listing.pid, 9);
}

/// Stops it, and waits for its drain of five seconds.
fn drain(mut running: Running) {
    running.signal(15);
    running.stderr_until("withdrawn from");
    running.signal(15);
    running.finish().expect_code(143);
}
