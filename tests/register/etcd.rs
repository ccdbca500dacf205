//! A real etcd (Debian's etcd-server and etcd-client), and what happens to it while an app runs.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;

use crate::harness::launch::Stdio;
use crate::harness::place::{TempDir, free_port};
use crate::harness::wait::holds_within;
use crate::harness::{Launch, Running, look, running, until};
use crate::{AWAY, BACK, TTL, app, beside, both, count, serves};

/// A lease may outlive its time by etcd's own tick and by what a loaded machine adds.
const LATE: Duration = Duration::from_secs(3);

struct Etcd {
    server: Option<Running>,
    port: u16,
    peer: u16,
    dir: TempDir,
    tls: Option<Tls>,
    login: Option<&'static str>,
}

struct Tls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Etcd {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(tls: Option<Tls>) -> Self {
        let mut etcd =
            Self { server: None, port: free_port(), peer: free_port(), dir: TempDir::new(), tls, login: None };
        etcd.start();
        etcd
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn start(&mut self) {
        let client = format!("{}://127.0.0.1:{}", self.scheme(), self.port);
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let mut launch = Launch::new("etcd").arg("--data-dir").arg(self.dir.path().join("data"));
        launch = launch.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        launch = launch.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        launch = launch.args(["--initial-cluster", &format!("default={peer}")]);
        if let Some(tls) = &self.tls {
            launch = launch.args(["--cert-file", tls.cert.to_str().unwrap(), "--key-file", tls.key.to_str().unwrap()]);
            launch = launch.args(["--trusted-ca-file", tls.ca.to_str().unwrap(), "--client-cert-auth"]);
        }
        self.server = Some(launch.stdout(Stdio::Null).stderr(Stdio::Null).start());
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&self) {
        until("etcd answers", || self.tried(&["get", "x"]).is_some());
    }

    /// The output of etcdctl; `None`: it failed.
    fn tried(&self, words: &[&str]) -> Option<String> {
        let url = format!("{}://127.0.0.1:{}", self.scheme(), self.port);
        let mut launch = Launch::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", &url]);
        launch = launch.args(["--command-timeout=2s", "--dial-timeout=2s"]);
        if let Some(tls) = &self.tls {
            launch = launch.env("ETCDCTL_CACERT", &tls.ca).env("ETCDCTL_CERT", &tls.cert).env("ETCDCTL_KEY", &tls.key);
        }
        if let Some(login) = self.login {
            launch = launch.env("ETCDCTL_USER", login);
        }
        let outcome = launch.args(words.iter().copied()).start().finish();
        (outcome.code == Some(0)).then_some(outcome.stdout)
    }

    #[track_caller]
    fn ctl(&self, words: &[&str]) -> String {
        self.tried(words).unwrap_or_else(|| panic!("etcdctl {words:?} failed"))
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "etcd+tls" } else { "etcd" };
        format!("{scheme}://127.0.0.1:{}/services/api", self.port)
    }

    /// Keys and values, as `etcdctl get --prefix` shows them.
    fn entries(&self) -> Vec<(String, Value)> {
        let text = self.ctl(&["get", "--prefix", "services/api/"]);
        let lines: Vec<&str> = text.lines().collect();
        lines.chunks(2).map(|two| (two[0].to_owned(), serde_json::from_str(two[1]).unwrap())).collect()
    }

    fn has(&self, port: u16) -> bool {
        self.entries().iter().any(|(key, _)| key.ends_with(&format!("-{port}")))
    }

    fn kill(&mut self) {
        let server = self.server.take().unwrap();
        running::kill(server.pid, 9);
        server.finish();
    }

    fn wipe(&self) {
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    fn pid(&self) -> i32 {
        self.server.as_ref().unwrap().pid
    }
}

fn announced(etcd: &Etcd, mode: &dyn Fn(Launch) -> Launch) -> (Running, u16) {
    let port = free_port();
    let mut running = mode(app(&["--port", &port.to_string(), "--register", &etcd.url()], &[])).start();
    running.ready();
    running.stderr_until("announced in");
    assert!(etcd.has(port), "{:?}", etcd.entries());
    (running, port)
}

fn end(mut running: Running) -> String {
    running.signal(15);
    running.finish().expect_code(143).stderr
}

/// `etcdctl get --prefix` shows it, in the format of etcd's own naming client; and it is removed before the app receives its stop signal.
#[test]
fn the_entry_exists_while_the_app_is_ready_and_no_longer() {
    let etcd = Etcd::new();
    both(|mode| {
        let port = free_port();
        let spec = format!("http={port}");
        let flags = ["--port", &spec, "--health", "/", "--drain", "60s", "--register-metadata", "version=1.4,zone=b"];
        let url = etcd.url();
        let flags = [&flags[..], &["--register", &url]].concat();
        let mut running = mode(app(&flags, &["late"])).start();
        running.ready();
        running.stderr_until("listens on");
        assert_eq!(etcd.entries(), []);
        running.write("well\n");
        running.stderr_until("announced in");
        let entries = etcd.entries();
        let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
        let instance = format!("{host}-{port}");
        assert_eq!(entries[0].0, format!("services/api/{instance}"));
        let metadata =
            serde_json::json!({"instance": instance, "ports": {"http": port}, "version": "1.4", "zone": "b"});
        let value = serde_json::json!({"Op": 0, "Addr": format!("127.0.0.1:{port}"), "Metadata": metadata.to_string()});
        assert_eq!(entries[0].1, value);
        running.signal(15);
        running.stderr_until("withdrawn from");
        assert_eq!(etcd.entries(), []);
        assert!(serves(port) && !running.has_ended());
        running.signal(15);
        running.finish().expect_code(143);
    });
}

#[test]
fn a_second_instance_falls_back_and_is_found() {
    let etcd = Etcd::new();
    let (first, port) = announced(&etcd, &|launch| launch);
    let flags = ["--port", &port.to_string(), "--wait", "0s", "--fallback", "next", "--register", &etcd.url()];
    let mut second = app(&flags, &[]).start();
    second.ready();
    second.stderr_until("announced in");
    let mut found: Vec<u16> = Vec::new();
    for (_, value) in etcd.entries() {
        let (host, told) = value["Addr"].as_str().unwrap().rsplit_once(':').unwrap();
        assert_eq!(host, "127.0.0.1");
        found.push(told.parse().unwrap());
    }
    found.sort_unstable();
    // A client that dials every entry reaches both.
    assert!(found.len() == 2 && found.contains(&port) && found.iter().all(|port| serves(*port)), "{found:?}");
    end(first);
    until("the second alone is left", || etcd.entries().len() == 1 && !etcd.has(port));
    end(second);
    assert_eq!(etcd.entries(), []);
}

#[test]
fn an_etcd_killed_and_started_again_has_the_entry_again_with_and_without_its_data() {
    let mut etcd = Etcd::new();
    let (mut running, port) = announced(&etcd, &|launch| launch);
    let one = beside(&running);
    let rounds = 3 * more();
    for round in 1..=rounds {
        etcd.kill();
        running.output_until("one line more", |_, err| count(err, AWAY) == round);
        if round > 1 {
            etcd.wipe();
        }
        etcd.start();
        let back = Instant::now();
        running.output_until("it is back", |_, err| count(err, BACK) == round);
        assert!(back.elapsed() < Duration::from_secs(TTL) + LATE, "{:?}", back.elapsed());
        assert!(etcd.has(port));
        assert!(serves(port) && beside(&running) == one, "{}", running.report());
    }
    let said = end(running);
    assert_eq!((count(&said, AWAY), count(&said, BACK)), (rounds, rounds), "{said}");
    assert_eq!(etcd.entries(), []);
    println!("etcd killed {rounds} times: the entry was back each time, and the app never noticed");
}

/// Each of its lives is registered when it is ready (it prints a line then), and deregistered when it has crashed.
#[test]
fn a_flapping_app_is_registered_only_while_it_is_ready() {
    let etcd = Etcd::new();
    let port = free_port();
    let rounds = 5 * more();
    for _ in 0..rounds {
        let flags = ["--port", &port.to_string(), "--health", "/", "--register", &etcd.url()];
        let mut running = app(&flags, &["late"]).start();
        running.ready();
        assert_eq!(etcd.entries(), []);
        running.write("well\n");
        running.stderr_until("announced in");
        assert!(etcd.has(port), "{}", running.report());
        running.write("exit 3\n");
        running.finish().expect_code(3);
        assert_eq!(etcd.entries(), []);
    }
    println!("{rounds} lives of a flapping app: announced while ready, and never else");
}

/// The factor in `REBERTH_TEST_ROUNDS`.
fn more() -> usize {
    std::env::var("REBERTH_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Wiped and restarted before anything noticed: the lease is unknown, which is the only sign.
#[test]
fn a_revoked_lease_is_granted_again() {
    let etcd = Etcd::new();
    let (mut running, port) = announced(&etcd, &|launch| launch);
    let leases = etcd.ctl(&["lease", "list"]);
    let lease = leases.lines().last().unwrap().to_owned();
    etcd.ctl(&["lease", "revoke", &lease]);
    // Control: with the lease the entry is removed.
    assert_eq!(etcd.entries(), []);
    running.stderr_until("has lost the entry");
    until("the entry is back", || etcd.has(port));
    let said = end(running);
    assert_eq!((count(&said, AWAY), count(&said, "announced in")), (0, 2), "{said}");
}

#[test]
fn a_frozen_one_costs_one_line_and_keeps_no_app_from_ending() {
    let etcd = Etcd::new();
    let (mut running, port) = announced(&etcd, &|launch| launch);
    let (other, _) = announced(&etcd, &|launch| launch);
    running::kill(etcd.pid(), libc::SIGSTOP);
    running.stderr_until(AWAY);
    assert!(serves(port));
    let told = Instant::now();
    let said = end(other);
    assert!(told.elapsed() < Duration::from_millis(1700), "{:?}: {said}", told.elapsed());
    running::kill(etcd.pid(), libc::SIGCONT);
    running.stderr_until(BACK);
    etcd.wait_until_it_answers();
    until("the entry is back, and only that", || etcd.has(port) && etcd.entries().len() == 1);
    let said = end(running);
    assert_eq!((count(&said, AWAY), count(&said, BACK)), (1, 1), "{said}");
}

/// As with a container that is paused, or a laptop that sleeps.
#[test]
fn a_lease_that_expired_during_a_stop_is_granted_again() {
    let etcd = Etcd::new();
    let (running, port) = announced(&etcd, &|launch| launch);
    let all = [beside(&running).unwrap(), running.pid];
    all.iter().for_each(|pid| running::kill(*pid, libc::SIGSTOP));
    until("the lease has expired", || etcd.entries().is_empty());
    all.iter().for_each(|pid| running::kill(*pid, libc::SIGCONT));
    until("the entry is back", || etcd.has(port));
    let said = end(running);
    assert_eq!(count(&said, AWAY), 0, "{said}");
    assert_eq!(etcd.entries(), []);
}

#[test]
fn after_a_kill_the_lease_removes_the_entry() {
    let etcd = Etcd::new();
    both(|mode| {
        let (running, port) = announced(&etcd, mode);
        let one = beside(&running).unwrap();
        let killed = Instant::now();
        running::kill(running.init, 9);
        until("it has gone with reberth", || !look::alive(one));
        let gone = holds_within(Duration::from_secs(TTL) + LATE, || !etcd.has(port));
        assert!(gone, "still there after {:?}", killed.elapsed());
    });
}

#[test]
fn a_crash_removes_the_entry_immediately() {
    let etcd = Etcd::new();
    let (mut running, _) = announced(&etcd, &Launch::first_in_namespace);
    running.write("exit 7\n");
    running.finish().expect_code(7);
    assert_eq!(etcd.entries(), []);
}

/// An app that loses its port before it listens is launched again: the life that never served is not registered, and the next one with its
/// actual data.
#[test]
fn a_relaunch_is_registered_with_its_new_port() {
    let etcd = Etcd::new();
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    both(|mode| {
        for moves in [false, true] {
            let (port, url) = (free_port(), etcd.url());
            let spec = format!("http={port}");
            let flags = ["--port", &spec, "--register", &url];
            let falls: &[&str] = if moves { &["--wait", "0s", "--fallback", "next"] } else { &[] };
            let mut running = mode(app(&[&flags[..], falls].concat(), &["told"])).start();
            running.ready();
            let thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
            running.write("listen\n");
            running.stderr_until("launching again");
            assert_eq!((etcd.entries(), beside(&running)), (vec![], None), "{}", running.report());
            let thief = moves.then_some(thief);
            running.ready();
            assert_eq!(etcd.entries(), []);
            running.write("listen\n");
            running.stderr_until("announced in");
            let entries = etcd.entries();
            let address = entries[0].1["Addr"].as_str().unwrap().to_owned();
            let taken: u16 = address.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
            assert_eq!(taken == port, !moves, "{address}");
            let instance = format!("{host}-{taken}");
            let metadata = serde_json::json!({"instance": instance, "ports": {"http": taken}}).to_string();
            let value = serde_json::json!({"Op": 0, "Addr": address, "Metadata": metadata});
            assert_eq!(entries, [(format!("services/api/{instance}"), value)]);
            assert!(serves(taken));
            let said = end(running);
            assert_eq!((count(&said, "announced in"), count(&said, "launching again")), (1, 1), "{said}");
            assert_eq!(etcd.entries(), []);
            drop(thief);
        }
    });
}

#[test]
fn an_app_is_announced_with_credentials() {
    let mut etcd = Etcd::new();
    for words in [
        &["user", "add", "root:hunter2"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "app:swordfish"],
        &["role", "add", "app"],
        &["role", "grant-permission", "--prefix=true", "app", "readwrite", "services/api/"],
        &["user", "grant-role", "app", "app"],
        &["role", "add", "root"],
        &["auth", "enable"],
    ] {
        // etcd 3.4 creates the role root by itself when it is granted.
        let _ = etcd.tried(words);
    }
    etcd.login = Some("root:hunter2");
    let start = |user: Option<&str>, password: Option<&str>| {
        let port = free_port();
        let mut launch = app(&["--log", "trace", "--port", &port.to_string(), "--register", &etcd.url()], &[]);
        for (name, value) in [("ETCDCTL_USER", user), ("ETCDCTL_PASSWORD", password)] {
            launch = value.into_iter().fold(launch, |launch, value| launch.env(name, value));
        }
        let mut running = launch.start();
        running.ready();
        (running, port)
    };
    for (user, password) in [("app:swordfish", None), ("app", Some("swordfish"))] {
        let (mut running, port) = start(Some(user), password);
        running.stderr_until("announced in");
        assert!(etcd.has(port));
        let said = end(running);
        assert!(!said.contains("swordfish"), "{said}");
        assert_eq!(etcd.entries(), []);
    }
    // Control: the login is required.
    for (user, words) in [(None, "set ETCDCTL_USER"), (Some("app:wrong"), "check ETCDCTL_USER")] {
        let (mut running, port) = start(user, None);
        running.stderr_until(words);
        assert!(serves(port) && etcd.entries().is_empty());
        let said = end(running);
        assert!(count(&said, AWAY) == 1 && !said.contains("wrong"), "{said}");
    }
}

#[test]
fn an_app_is_announced_over_tls_with_a_client_certificate() {
    let place = TempDir::new();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &authority).unwrap();
        let cert = place.file(&format!("{name}.pem"), certificate.pem(), 0o644);
        (cert, place.file(&format!("{name}.key"), key.serialize_pem(), 0o600))
    };
    let ca = place.file("ca.pem", authority.pem(), 0o644);
    let (cert, key) = issue("server");
    let etcd = Etcd::with(Some(Tls { ca: ca.clone(), cert, key }));
    let (cert, key) = issue("client");
    let start = |files: &[(&str, &PathBuf)]| {
        let port = free_port();
        let launch = app(&["--port", &port.to_string(), "--register", &etcd.url()], &[]);
        let launch = files.iter().fold(launch, |launch, (name, path)| launch.env(*name, *path));
        let mut running = launch.start();
        running.ready();
        (running, port)
    };
    let trust = ("ETCDCTL_CACERT", &ca);
    let (mut running, port) = start(&[trust, ("ETCDCTL_CERT", &cert), ("ETCDCTL_KEY", &key)]);
    running.stderr_until("announced in");
    assert!(etcd.has(port));
    end(running);
    assert_eq!(etcd.entries(), []);
    // Controls: neither side accepts the other without its certificate.
    let missing = place.path().join("missing.pem");
    for (files, words) in [
        (vec![("ETCDCTL_CERT", &cert), ("ETCDCTL_KEY", &key)], ""),
        (vec![trust], ""),
        (vec![("ETCDCTL_CACERT", &missing)], "cannot be read: no such file"),
    ] {
        let (mut running, port) = start(&files);
        running.stderr_until(AWAY);
        assert!(running.stderr().contains(words), "{}", running.report());
        assert!(serves(port) && etcd.entries().is_empty());
        assert_eq!(count(&end(running), AWAY), 1);
    }
}
