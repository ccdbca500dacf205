//! Redis, PostgreSQL, MariaDB and php-fpm as Debian packages them, probed by `reberth healthcheck`. The tests fail if those are missing:
//! `cargo test --features server-tests --test servers`, as root. Must not know how a probe is built.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// For a server to start, on a busy machine.
const UP: &str = "60s";

/// A directory that another user may work in, removed with its test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str, user: &str) -> Self {
        let path = std::env::temp_dir().join(format!("reberth-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let user = nix::unistd::User::from_name(user)
            .unwrap()
            .unwrap_or_else(|| panic!("no user {user}: is its package there?"));
        chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that is stopped with its test, whether the test passes or not.
struct Running(Child);

impl Running {
    fn start(user: &str, words: &[&str], log: &str) -> Self {
        let log = fs::File::create(log).unwrap();
        let mut command = as_user(user, words);
        command.process_group(0);
        Self(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    fn end(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its workers too: those of php-fpm outlive a master that is killed.
        let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn as_user(user: &str, words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups", "--pdeathsig", "KILL", "--"]).args(words);
    command.current_dir("/");
    command
}

#[track_caller]
fn done(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Probes with these arguments; returns the line.
#[track_caller]
fn ask(words: &[&str], healthy: bool, parts: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_reberth")).arg("healthcheck").args(words).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let same = output.status.code() == Some(i32::from(!healthy)) && parts.iter().all(|part| line.contains(part));
    assert!(same, "{words:?}: {line}, wanted {healthy} {parts:?}");
    line
}

/// The newest entry in `folder` whose name starts like this: versions change.
fn newest(folder: &str, start: &str) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(start);
    names.filter(is_it).max().unwrap_or_else(|| panic!("nothing in {folder} begins with {start}"))
}

/// Reads a log until it contains this text: a handshake, with the deadline of a server's start.
fn log_says(path: &str, text: &str) {
    let begun = Instant::now();
    while !fs::read_to_string(path).unwrap().contains(text) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", fs::read_to_string(path).unwrap());
        std::thread::yield_now();
    }
}

#[test]
fn redis_is_queried_in_its_own_protocol() {
    let dir = Dir::new("redis", "redis");
    let (port, socket) = (free_port().to_string(), dir.at("redis.sock"));
    let start = |more: &[&str]| {
        let words = ["redis-server", "--port", &port, "--unixsocket", &socket, "--dir", dir.0.to_str().unwrap()];
        Running::start("redis", &[&words[..], more].concat(), &dir.at("log"))
    };
    let target = format!("redis:{port}");
    let mut server = start(&["--save", ""]);
    ask(&["--wait", UP, &target], true, &["redis://127.0.0.1:", "it answers PONG"]);
    ask(&[&format!("redis:unix:{socket}")], true, &["PONG"]);
    // Something to load for the next one.
    let mut client = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    for key in 0..200 {
        client.write_all(format!("SET k{key} {}\r\n", "x".repeat(8192)).as_bytes()).unwrap();
    }
    client.write_all(b"SAVE\r\n").unwrap();
    let mut answers = BufReader::new(client).lines();
    assert!((0..201).all(|_| answers.next().unwrap().unwrap() == "+OK"));
    server.end();

    let mut server = start(&[
        "--save",
        "",
        "--key-load-delay",
        "300000",
        "--loading-process-events-interval-bytes",
        "1024",
        "--rdbcompression",
        "no",
    ]);
    // It listens before it loads. The last try of a wait reports why it failed.
    ask(&["--wait", "5s", "--timeout", "3s", &target], false, &["still loading its data (LOADING)"]);
    // Control: for a connect it looks like one that serves.
    ask(&[&format!("tcp:{port}")], true, &[]);
    server.0.kill().unwrap();
    server.0.wait().unwrap();

    let _server = start(&["--save", "", "--requirepass", "secret"]);
    ask(&["--wait", UP, &target], true, &["asks for a login"]);
}

#[test]
fn postgres_is_queried_in_its_own_protocol() {
    let dir = Dir::new("postgres", "postgres");
    let bin = newest("/usr/lib/postgresql", "").join("bin");
    let bin = |name: &str| bin.join(name).to_str().unwrap().to_owned();
    let (data, log, port) = (dir.at("data"), dir.at("log"), free_port().to_string());
    done(as_user("postgres", &[&bin("initdb"), "-D", &data, "-A", "trust", "-U", "postgres"]).output().unwrap());
    let server =
        Running::start("postgres", &[&bin("postgres"), "-D", &data, "-p", &port, "-k", dir.0.to_str().unwrap()], &log);
    let target = format!("postgres:{port}");
    ask(&["--wait", UP, &target], true, &["it takes clients"]);
    for _ in 0..10 {
        ask(&[&target], true, &[]);
        ask(&[&format!("postgres:unix:{}", dir.at(&format!(".s.PGSQL.{port}")))], true, &["it takes clients"]);
    }
    // With a password required, the same.
    let hba = Path::new(&data).join("pg_hba.conf");
    let rules = fs::read_to_string(&hba).unwrap().replace("trust", "scram-sha-256");
    fs::write(&hba, rules).unwrap();
    server.signal(nix::sys::signal::Signal::SIGHUP);
    log_says(&log, "received SIGHUP");
    let quiet = fs::read_to_string(&log).unwrap();
    assert!(!["FATAL", "ERROR", "WARNING", "could not"].iter().any(|word| quiet.contains(word)), "{quiet}");
    ask(&[&target], true, &[]);
    // In a smart shutdown it waits for existing clients, and accepts no new ones: 57P03.
    fs::write(&hba, "host all all all trust\n").unwrap();
    server.signal(nix::sys::signal::Signal::SIGHUP);
    let mut session = loop {
        let mut session = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        session.write_all(b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0").unwrap();
        let mut first = [0; 9];
        session.read_exact(&mut first).unwrap();
        // The rules are read again when the postmaster gets to it.
        if first == *b"R\0\0\0\x08\0\0\0\0" {
            break session;
        }
    };
    server.signal(nix::sys::signal::Signal::SIGTERM);
    log_says(&log, "received smart shutdown request");
    ask(&[&target], false, &["it takes no clients now (57P03): the database system is shutting down"]);
    ask(&[&format!("tcp:{port}")], true, &[]);
    session.write_all(b"X\0\0\0\x04").unwrap();
}

#[test]
fn mysql_is_queried_in_its_own_protocol() {
    let dir = Dir::new("mysql", "mysql");
    let (data, socket, log, port) = (dir.at("data"), dir.at("my.sock"), dir.at("log"), free_port().to_string());
    let datadir = format!("--datadir={data}");
    done(
        Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=mysql", &datadir, "--auth-root-authentication-method=normal"])
            .output()
            .unwrap(),
    );
    let (port_flag, socket_flag) = (format!("--port={port}"), format!("--socket={socket}"));
    let pid = format!("--pid-file={}", dir.at("pid"));
    let words = ["mariadbd", "--no-defaults", &datadir, &socket_flag, &port_flag, &pid];
    let _server = Running::start("mysql", &words, &log);
    let target = format!("mysql:{port}");
    let version = ask(&["--wait", UP, &target], true, &["it greets as "]);
    assert!(version.contains("MariaDB") && !version.contains("5.5.5-"), "{version}");
    for _ in 0..10 {
        ask(&[&target], true, &[]);
        ask(&[&format!("mysql:unix:{socket}")], true, &[]);
    }
    let sql = |text: &str| {
        let words = ["--no-defaults", "-u", "root", &socket_flag, "-N", "-B", "-e", text];
        done(Command::new("mariadb").args(words).output().unwrap())
    };
    let aborted = || sql("show global status like 'Aborted_c%'").split_whitespace().nth(3).unwrap().to_owned();
    // What counts against `max_connect_errors`: none of the probes. Control: a client that only connects.
    assert_eq!(aborted(), "0");
    let said = |word: &str| fs::read_to_string(&log).unwrap().contains(word);
    assert!(!said("Aborted connection") && !said("Access denied"), "{}", fs::read_to_string(&log).unwrap());
    ask(&[&format!("tcp:{port}")], true, &[]);
    log_says(&log, "Aborted connection");
    // Without the anonymous user that admits every client, the probe is refused, and the server is healthy all the same.
    sql("delete from mysql.global_priv where user = ''; flush privileges");
    ask(&[&target], true, &["it greets as "]);
    log_says(&log, "Access denied for user 'reberth'");
    // Full: every connection except root's own is taken.
    sql("set global max_connections = 10");
    let mut clients = Vec::new();
    for _ in 0..11 {
        let mut client = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        // Its greeting: the connection is taken now.
        client.read_exact(&mut [0; 16]).unwrap();
        clients.push(client);
    }
    ask(&[&target], false, &["it refuses clients with the error 1040: Too many connections"]);
}

#[test]
fn php_fpm_answers_its_ping() {
    let dir = Dir::new("fpm", "www-data");
    let (port, socket, config) = (free_port(), dir.at("fpm.sock"), dir.at("fpm.conf"));
    let pool = |name: &str, listen: &str| {
        format!(
            "[{name}]\nlisten = {listen}\npm = static\npm.max_children = 1\nping.path = /ping\ncatch_workers_output = yes\n"
        )
    };
    let text = format!(
        "[global]\nerror_log = {}\ndaemonize = no\n{}{}",
        dir.at("fpm.log"),
        pool("a", &format!("127.0.0.1:{port}")),
        pool("b", &socket)
    );
    fs::write(&config, text).unwrap();
    let fpm = newest("/usr/sbin", "php-fpm");
    let _server = Running::start("www-data", &[fpm.to_str().unwrap(), "-F", "-y", &config], &dir.at("log"));
    ask(&["--wait", UP, &format!("fcgi:{port}/ping")], true, &["/ping, status 200"]);
    ask(&["--body-contains", "pong", &format!("fcgi://127.0.0.1:{port}/ping")], true, &["contains the text"]);
    for target in [format!("fcgi:unix:{socket}/ping"), format!("fcgi:unix:{socket}:/ping")] {
        ask(&["--wait", UP, &target], true, &[&format!("healthy fcgi:unix:{socket}:/ping, status 200")]);
    }
    ask(&[&format!("fcgi:{port}/missing.php")], false, &["status 404", "Primary script unknown"]);
    let script = dir.at("busy.php");
    fs::write(&script, "<?php http_response_code(503); echo str_repeat('x', 20000);").unwrap();
    ask(&[&format!("fcgi:{port}{script}")], false, &["status 503"]);
    ask(&["--status", "503", &format!("fcgi:{port}{script}")], true, &["status 503"]);
    ask(&[&format!("http://127.0.0.1:{port}/ping")], false, &[]);
}
