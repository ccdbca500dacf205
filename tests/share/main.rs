//! `--share` and `keep` from outside: instances of one name on one socket, and hostile peers. Must not know how the exchange is built,
//! except its messages, which a hostile peer also speaks.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
mod harness;

mod hostile;
mod keep;
mod together;

use harness::place::free_port;
use harness::{Launch, Running};

/// An app that sends its name to every client, binds for itself as most apps do, and takes commands: `close`, `shutdown`, `bind`.
const APP: &str = "import os, socket, sys, threading
name, port, fam = sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else '0.0.0.0'
def bound():
    s = socket.socket(socket.AF_INET6 if ':' in fam else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((fam, port)); s.listen(5)
    return s
listener = bound()
def serve():
    while True:
        try: c, peer = listener.accept()
        except OSError:
            # Somebody has shut it down; a server that means it goes on.
            import time; time.sleep(.01); continue
        try:
            c.recv(1024); body = (name + ' ' + peer[0]).encode()
            c.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)
        except OSError: pass
        c.close()
threading.Thread(target=serve, daemon=True).start()
print('serving', flush=True)
for line in sys.stdin:
    if line == 'shutdown\\n': listener.shutdown(socket.SHUT_RDWR)
    elif line == 'exit\\n': os._exit(3)
    print('done', flush=True)
import signal; signal.pause()
";

/// A name and a port that no other test uses.
fn group() -> (String, u16) {
    let port = free_port();
    (format!("t{}-{port}", std::process::id() % 100_000), port)
}

/// `reberth run --share` of the app.
fn instance(group: &str, port: u16, name: &str, more: &[&str]) -> Launch {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth"));
    let state = launch.dir.path().to_owned();
    let flags = ["run", "--port", &format!("0.0.0.0:{port}"), "--share", group, "--grace", "2s"].map(str::to_owned);
    let launch = launch.env("REBERTH_STATE_DIR", state).args(flags).args(more.iter().copied());
    launch.args(["--", "python3", "-S", "-c", APP, name, &port.to_string()]).stdin(harness::launch::Stdio::Pipe)
}

fn serving(group: &str, port: u16, name: &str, more: &[&str]) -> Running {
    let mut running = instance(group, port, name, more).start();
    running.expect("serving");
    running
}

/// The body of one answer; `None`: refused, or cut off.
fn ask(port: u16) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split("\r\n\r\n").nth(1).map(str::to_owned).filter(|body| !body.is_empty())
}

/// `reberth healthcheck` beside an instance.
fn healthcheck(running: &Running, words: &[&str]) -> (bool, String) {
    let launch =
        Launch::new(env!("CARGO_BIN_EXE_reberth")).arg("healthcheck").arg("--state-dir").arg(running.dir.path());
    let outcome = launch.args(words.iter().copied()).start().finish();
    (outcome.code == Some(0), outcome.stdout)
}

fn stop(mut running: Running) {
    running.signal(15);
    running.finish().expect_code(143);
}
