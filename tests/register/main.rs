//! `--register` from outside: when an app is registered, when it is not, and that it never notices what happens to the registry. Must not
//! know how a registry is contacted; `gateway` knows how an etcd answers.
//!
//! Tests that need a real etcd are in `etcd`, behind the feature `server-tests`: they fail if Debian's etcd-server and etcd-client are
//! missing.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)]
#![cfg(feature = "register")]

#[path = "../harness/mod.rs"]
mod harness;

mod beside;
#[cfg(not(target_env = "musl"))]
mod clock;
#[cfg(feature = "server-tests")]
mod etcd;
mod gateway;
mod hostile;
#[cfg(feature = "server-tests")]
mod page;

use harness::launch::Stdio;
use harness::{Launch, Running, look};

/// The shortest TTL that is accepted, in seconds.
const TTL: u64 = 5;

/// An app that listens on PORT, prints that, and serves `ok`. `late`: it serves 503 until a line arrives on its standard input; `given`: it
/// listens on descriptor 3; `told`: it prints a line at its start, and listens once a line has arrived.
const APP: &str = "
import os, sys, socket, threading, http.server
well = threading.Event()
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if well.is_set() else 503); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *_): pass
if 'late' not in sys.argv: well.set()
given = 'given' in sys.argv
if 'told' in sys.argv:
    os.write(1, b'ready (pid %d)\\n' % os.getpid())
    sys.stdin.readline()
s = http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), H, bind_and_activate=not given)
if given: s.socket = socket.socket(fileno=3)
threading.Thread(target=s.serve_forever, daemon=True).start()
os.write(1, b'ready (pid %d)\\n' % os.getpid())
for line in sys.stdin:
    if line.startswith('exit'): os._exit(int(line.split()[1]))
    if line.startswith('child') and os.fork() == 0:
        import signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); signal.pause()
    well.set()
    os.write(1, b'heard\\n')
threading.Event().wait()
";

/// `reberth run` of the app with these flags, and `words` for the app.
fn app(flags: &[&str], words: &[&str]) -> Launch {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth"));
    let state = launch.dir.path().to_owned();
    let launch = launch.env("REBERTH_STATE_DIR", state).arg("run").args(flags.iter().copied());
    launch
        .args(["--register-ttl", "5s", "--", "python3", "-S", "-c", APP])
        .args(words.iter().copied())
        .stdin(Stdio::Pipe)
}

/// Once as PID 1 of a namespace, once as an ordinary process.
fn both(test: impl Fn(&dyn Fn(Launch) -> Launch)) {
    test(&|launch| launch);
    test(&Launch::first_in_namespace);
}

/// The process beside it.
fn beside(running: &Running) -> Option<i32> {
    look::children(running.init).into_iter().find(|pid| look::status(*pid, "Name").as_deref() == Some("reberth-beside"))
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// The line that a registry is unreachable, and the one that it is back.
const AWAY: &str = "cannot be used now";
const BACK: &str = "is back: announced";

/// Whether the app answers on its port.
fn serves(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text.ends_with("ok")
}
