//! `--handover bind` and `--prewarm` from outside: what an unmodified app gets in its own bind(2), promise by promise. Must not know how a
//! call is intercepted.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
mod harness;

mod bind;
mod prewarm;

use harness::launch::Stdio;
use harness::{Launch, Running};

/// Once as PID 1 of a namespace, once as an ordinary process.
fn both(test: impl Fn(&dyn Fn(Launch) -> Launch)) {
    test(&|launch| launch);
    test(&Launch::first_in_namespace);
}

/// `reberth run` of a Python script that reads and prints lines. `S(family, address, port, **how)` creates, binds and listens.
fn python(flags: &[&str], script: &str) -> Launch {
    let head = "import os, signal, socket, sys, threading, errno, time
def say(*words): os.write(1, (' '.join(map(str, words)) + '\\n').encode())
def made(fam=socket.AF_INET, v6only=None, reuse=True, block=True):
    s = socket.socket(fam)
    if reuse: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if v6only is not None: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    s.setblocking(block)
    return s
def S(fam, address, port, listens=True, **how):
    s = made(fam, **how); s.bind((address, port))
    if listens: s.listen(5)
    return s
def hello(s):
    c, peer = s.accept(); c.sendall(peer[0].encode() + b'\\n'); c.close()
def greet(s):
    while True:
        try: hello(s)
        except OSError: time.sleep(.01)
V4, V6 = socket.AF_INET, socket.AF_INET6
";
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth"));
    let state = launch.dir.path().to_owned();
    let launch = launch.env("REBERTH_STATE_DIR", state).arg("run").args(flags.iter().copied());
    launch.args(["--", "python3", "-S", "-c", &format!("{head}{script}")]).stdin(Stdio::Pipe)
}

fn bound(flags: &[&str], script: &str) -> Launch {
    python(&[&["--handover", "bind"], flags].concat(), script)
}

/// What the app sends to a client; `None`: refused, or cut off.
fn greeted(address: &str, port: u16) -> Option<String> {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect((address, port)).ok()?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.strip_suffix('\n').map(str::to_owned)
}

fn stop(mut running: Running) {
    running.signal(15);
    running.finish().expect_code(143);
}

fn state(running: &Running) -> String {
    let files = std::fs::read_dir(running.dir.path()).unwrap().flatten();
    files.map(|file| String::from_utf8_lossy(&std::fs::read(file.path()).unwrap_or_default()).into_owned()).collect()
}
