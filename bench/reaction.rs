//! Owns one measurement: from a holder's `close`, or the SIGKILL sent to it, to a successful `listen()`, both told by the processes that
//! do them. Nobody watches meanwhile, so that no observer takes a core from the one that waits. `cargo bench --bench reaction`.
//! Prints a line each: what, and the times of all rounds in nanoseconds.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a measurement, and no part of the program

use std::io::{BufRead, BufReader, Read, stdin};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::time::TimeValLike;
use reberth::config::{Backoff, Fallback, Wait};
use reberth::port::claim::{Hear, Policy, Stop, claim};
use reberth::port::spec::{Protocol, Spec};

/// How long the waiter is left alone before the port is let go: its first look at the holder is then over.
const SETTLE: Duration = Duration::from_millis(25);

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u16>().ok());
    match words.get(1).map(String::as_str) {
        Some("wait") => wait(number(2).unwrap()),
        Some("hold") => hold(number(2).unwrap()),
        _ => {
            let rounds = number(1).unwrap_or(1000);
            for kill in [false, true] {
                let times: Vec<String> = (0..rounds).map(|_| round(kill).to_string()).collect();
                println!("{} {}", if kill { "kill" } else { "close" }, times.join(" "));
            }
        }
    }
}

/// CLOCK_MONOTONIC, which all processes share, in nanoseconds.
fn now() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap().num_nanoseconds()
}

/// Nobody says anything to the one that waits.
struct Silence(OwnedFd);

impl Hear for Silence {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn heard(&mut self) -> ControlFlow<Stop> {
        ControlFlow::Continue(())
    }

    fn wait_started(&mut self, _: &Spec) {
        println!("waiting");
    }
}

fn wait(port: u16) {
    let (quiet, _open) = nix::unistd::pipe().unwrap();
    let spec = Spec { name: None, addr: None, port, protocol: Protocol::Tcp };
    let backoff = Backoff { min: Duration::from_millis(10), max: Duration::from_secs(1) };
    let policy = Policy { wait: Wait::Forever, fallback: Fallback::None, backoff, listen: true };
    let claims = claim(&[spec], &policy, &mut Silence(quiet)).unwrap();
    println!("{}", now());
    drop(claims);
}

fn hold(port: u16) {
    let _listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    println!("holding");
    let _ = stdin().read(&mut [0]);
}

fn start(words: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let own = std::env::current_exe().unwrap();
    let mut child = Command::new(own).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    (child, said)
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Nanoseconds of one round.
fn round(kill: bool) -> i64 {
    let port = TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
    let word = port.to_string();
    let mut holder = kill.then(|| start(&["hold", &word]));
    let own = (!kill).then(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
    if let Some((_, said)) = &mut holder {
        line(said);
    }
    let (mut waiter, mut said) = start(&["wait", &word]);
    line(&mut said);
    std::thread::sleep(SETTLE);
    let begun = now();
    match &mut holder {
        Some((holder, _)) => holder.kill().unwrap(),
        None => drop(own),
    }
    let ended: i64 = line(&mut said).parse().unwrap();
    waiter.wait().unwrap();
    if let Some((mut holder, _)) = holder {
        holder.wait().unwrap();
    }
    ended - begun
}
