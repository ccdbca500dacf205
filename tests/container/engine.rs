//! Owns the engine: containers that are removed with the test, and streams that are awaited with a deadline. Must not know what is tested.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No single wait is longer than this. Nothing here needs a tenth of it on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The result of a finished command.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
}

/// Runs a command until it exits, both streams together, within the deadline.
pub fn command(program: &str, arguments: &[&str]) -> Done {
    let limit = DEADLINE.as_secs().to_string();
    let output = Command::new("timeout")
        .args(["--kill-after=5", &limit, program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    let mut out = String::from_utf8_lossy(&output.stdout).into_owned();
    out.push_str(&String::from_utf8_lossy(&output.stderr));
    Done { code: output.status.code().unwrap_or(-1), out }
}

/// `docker ARGUMENTS`, whatever its code.
pub fn docker(arguments: &[&str]) -> Done {
    command("docker", arguments)
}

/// `docker ARGUMENTS`, which must succeed. What it printed, trimmed.
pub fn docker_ok(arguments: &[&str]) -> String {
    let done = docker(arguments);
    assert_eq!(done.code, 0, "docker {}: {}", arguments.join(" "), done.out);
    done.out.trim().to_owned()
}

/// The images' common name. Built once; a missing engine is a failure, never a skip.
pub fn image(tag: &str) -> String {
    static PREFIX: OnceLock<String> = OnceLock::new();
    let prefix = PREFIX.get_or_init(|| {
        // Two checkouts on one machine must not test each other's binary.
        let hash = env!("CARGO_MANIFEST_DIR").bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        let prefix = format!("reberth-test-{hash:08x}");
        let engine = docker(&["info", "--format", "{{.ServerVersion}}"]);
        assert_eq!(engine.code, 0, "these tests need a running Docker engine: {}", engine.out);
        let made = Command::new("timeout")
            .args(["600", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/container/images"), &prefix])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(made.status.success(), "the images: {}", String::from_utf8_lossy(&made.stderr));
        prefix
    });
    format!("{prefix}:{tag}")
}

/// A name that no other test, run or checkout uses.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("reberth-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A port that no process has, below the range from which the kernel picks ports for outgoing connections, and never the same one twice.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = 20_000 + (std::process::id() % 100) * 100;
    for _ in 0..100 {
        let port = u16::try_from(base + NEXT.fetch_add(3, Ordering::Relaxed) % 2_000).unwrap();
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {base} on");
}

/// A volume or a network, removed when the test ends, after the containers that use it.
pub struct Made {
    kind: &'static str,
    pub name: String,
}

impl Made {
    /// `docker KIND create`.
    pub fn new(kind: &'static str) -> Self {
        let name = unique(kind);
        docker_ok(&[kind, "create", &name]);
        Self { kind, name }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        docker(&[self.kind, "rm", &self.name]);
    }
}

/// A container, removed when the test ends, and shown in full if the test failed.
pub struct Container {
    pub name: String,
    created: String,
}

impl Container {
    /// `docker run -d OPTIONS IMAGE COMMAND`.
    pub fn run(options: &[&str], tag: &str, arguments: &[&str]) -> Self {
        let image = image(tag);
        let name = unique(tag);
        let created = command("date", &["+%s.%N"]).out.trim().to_owned();
        let container = Self { name: name.clone(), created };
        let fixed = ["run", "-d", "--name", &name];
        docker_ok(&[&fixed, options, &[&image], arguments].concat());
        container
    }

    pub fn inspect(&self, format: &str) -> String {
        docker_ok(&["inspect", "--format", format, &self.name])
    }

    /// Everything it has logged so far.
    pub fn logs(&self) -> String {
        docker(&["logs", &self.name]).out
    }

    /// Waits until a line of the log contains `needle`, and returns that line.
    pub fn wait_log(&self, needle: &str) -> String {
        Stream::of("docker", &["logs", "-f", &self.name]).wait_for(needle)
    }

    /// Waits until the engine reports this health. A report before this call counts too, if it came after `since`.
    pub fn wait_health_since(&self, since: &str, health: &str) {
        let filter = format!("container={}", self.name);
        let arguments = [
            "events",
            "--since",
            since,
            "--filter",
            &filter,
            "--filter",
            "event=health_status",
            "--format",
            "{{.Status}}",
        ];
        Stream::of("docker", &arguments).wait_for(&format!("health_status: {health}"));
    }

    pub fn wait_health(&self, health: &str) {
        self.wait_health_since(&self.created, health);
    }

    pub fn exec(&self, arguments: &[&str]) -> Done {
        docker(&[&["exec", &self.name], arguments].concat())
    }

    /// `docker stop`: how long it took.
    pub fn stop(&self) -> Duration {
        let start = Instant::now();
        docker_ok(&["stop", &self.name]);
        start.elapsed()
    }

    /// Waits for the exit.
    pub fn exit_code(&self) -> i32 {
        docker_ok(&["wait", &self.name]).parse().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let inspect = docker(&[
                "inspect",
                "--format",
                "{{json .State}} {{json .Config}} {{json .HostConfig.NetworkMode}}",
                &self.name,
            ]);
            eprintln!("--- {} ---\n{}\n--- its log ---\n{}\n---", self.name, inspect.out, self.logs());
        }
        docker(&["rm", "-f", "-v", &self.name]);
    }
}

/// The output of a command that keeps running, byte by byte, so that a prompt without a newline is seen too.
pub struct Stream {
    child: Child,
    chunks: Receiver<Vec<u8>>,
    seen: String,
    /// Where in `seen` the next wait starts.
    at: usize,
}

impl Stream {
    pub fn of(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
        let (send, chunks) = channel();
        pump(child.stdout.take().unwrap(), send.clone());
        pump(child.stderr.take().unwrap(), send);
        Self { child, chunks, seen: String::new(), at: 0 }
    }

    /// Types into it.
    pub fn send(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Waits until `needle` has appeared after the end of the previous wait. Returns its line, as far as it has arrived.
    pub fn wait_for(&mut self, needle: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = self.seen[self.at..].find(needle) {
                let start = self.at + found;
                self.at = start + needle.len();
                let line = self.seen[..start].rfind('\n').map_or(0, |n| n + 1);
                let stop = self.seen[start..].find('\n').map_or(self.seen.len(), |n| start + n);
                return self.seen[line..stop].to_owned();
            }
            match self.chunks.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.seen.push_str(&String::from_utf8_lossy(&chunk)),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("'{needle}' did not come within {DEADLINE:?}; what came:\n{}", self.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the output ended without '{needle}'; all of it:\n{}", self.seen)
                }
            }
        }
    }

    /// Everything seen by the waits so far.
    pub fn seen(&self) -> &str {
        &self.seen
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pump(mut from: impl Read + Send + 'static, to: Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 || to.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
}

/// One try of a client.
#[derive(Debug, Clone)]
pub enum Try {
    /// The body of the answer.
    Answer(String),
    Refused,
    /// Connected, and then no answer: the instance exited with the connection.
    Lost,
}

/// One HTTP GET of `/` on loopback.
pub fn get(port: u16) -> Try {
    get_at(on_loopback(port))
}

fn on_loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// One HTTP GET of `/` at this address.
pub fn get_at(address: SocketAddr) -> Try {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, DEADLINE) else {
        return Try::Refused;
    };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    if stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_err() {
        return Try::Lost;
    }
    let mut lines = BufReader::new(stream).lines();
    if !lines.next().is_some_and(|line| line.is_ok_and(|line| line.contains(" 200 "))) {
        return Try::Lost;
    }
    match lines.map_while(Result::ok).skip_while(|line| !line.is_empty()).nth(1) {
        Some(body) => Try::Answer(body),
        None => Try::Lost,
    }
}

/// A client that sends a request every millisecond until it is stopped, with the start time and the outcome of each.
pub struct Client {
    stop: Sender<()>,
    tries: JoinHandle<Vec<(Instant, Try)>>,
    answers: Receiver<String>,
}

impl Client {
    pub fn start(port: u16) -> Self {
        Self::at(on_loopback(port))
    }

    pub fn at(address: SocketAddr) -> Self {
        let (stop, told) = channel::<()>();
        let (tell, answers) = channel();
        let tries = std::thread::spawn(move || {
            let mut tries = Vec::new();
            loop {
                let start = Instant::now();
                let outcome = get_at(address);
                if let Try::Answer(body) = &outcome {
                    let _ = tell.send(body.clone());
                }
                tries.push((start, outcome));
                // The pause between two tries also waits for the stop.
                if told.recv_timeout(Duration::from_millis(1)) != Err(RecvTimeoutError::Timeout) {
                    return tries;
                }
            }
        });
        Self { stop, tries, answers }
    }

    /// Waits until an answer with this body has arrived.
    pub fn wait_answer(&self, body: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(answer) if answer == body => return,
                Ok(_) => {}
                Err(e) => panic!("no answer '{body}' within {DEADLINE:?}: {e}"),
            }
        }
    }

    pub fn end(self) -> Tries {
        self.stop.send(()).unwrap();
        Tries(self.tries.join().unwrap())
    }

    /// Stops several clients, and merges their tries.
    pub fn end_all(clients: impl IntoIterator<Item = Self>) -> Tries {
        let mut tries: Vec<_> = clients.into_iter().flat_map(|client| client.end().0).collect();
        tries.sort_by_key(|(start, _)| *start);
        Tries(tries)
    }
}

/// The tries of a client, in order.
pub struct Tries(Vec<(Instant, Try)>);

impl Tries {
    pub fn refused(&self) -> usize {
        self.0.iter().filter(|(_, outcome)| matches!(outcome, Try::Refused)).count()
    }

    pub fn lost(&self) -> usize {
        self.0.iter().filter(|(_, outcome)| matches!(outcome, Try::Lost)).count()
    }

    /// From the start of the last request answered by `old` to the start of the first one answered by `new`: at most this long no instance
    /// served.
    pub fn gap(&self, old: &str, new: &str) -> Duration {
        let is = |outcome: &Try, who: &str| matches!(outcome, Try::Answer(body) if body == who);
        let last = self.0.iter().rev().find(|(_, outcome)| is(outcome, old)).unwrap().0;
        let first = self.0.iter().find(|(_, outcome)| is(outcome, new)).unwrap().0;
        first.saturating_duration_since(last)
    }

    /// The time from the first to the last refused try.
    pub fn refused_for(&self) -> Duration {
        let mut refused = self.0.iter().filter(|(_, outcome)| matches!(outcome, Try::Refused)).map(|(start, _)| *start);
        match (refused.next(), refused.next_back()) {
            (Some(first), Some(last)) => last - first,
            _ => Duration::ZERO,
        }
    }

    pub fn summary(&self) -> String {
        let mut text = String::new();
        let _ = write!(
            text,
            "{} tries, {} refused over {:?}, {} lost",
            self.0.len(),
            self.refused(),
            self.refused_for(),
            self.lost()
        );
        text
    }
}
