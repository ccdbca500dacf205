//! `reberth healthcheck` and `reberth install` from outside: the real program against real servers, friendly and hostile. Must not know
//! how the probe is built; only the state files are written through the library, because the test is the `run` they speak of.

// The lints of `src` guard PID 1; a test may panic, and its servers are threads. What is unsafe in the harness says why, as there.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
mod harness;

mod addresses;
mod beside;
#[cfg(feature = "tls")]
mod client_certificates;
mod grpc;
mod hostile;
mod http;
mod install;
mod parting;
mod protocols;
mod redirect;
mod server;
mod state;
#[cfg(feature = "tls")]
mod tls;
mod wait;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use harness::Launch;

/// What a healthcheck said.
#[derive(Debug)]
struct Said {
    healthy: bool,
    line: String,
    stderr: String,
    took: Duration,
    /// How late this machine itself was meanwhile: on a busy one nobody keeps a deadline.
    late: Duration,
}

impl Said {
    /// Fails unless the verdict is this one and the line has all these words.
    #[track_caller]
    fn expect(self, healthy: bool, words: &[&str]) -> Self {
        assert!(
            self.healthy == healthy && words.iter().all(|word| self.line.contains(word)),
            "{healthy} {words:?}: {self:?}"
        );
        self
    }

    /// Fails when the verdict came later than `timeout` and the 150 ms that are promised, beyond what the machine was late itself.
    #[track_caller]
    fn within(self, timeout: Duration) -> Self {
        assert!(self.took <= timeout + Duration::from_millis(150) + self.late, "{timeout:?}: {self:?}");
        self
    }
}

/// `reberth healthcheck`, with an empty state directory of its own.
fn healthcheck() -> Launch {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth"));
    let dir = launch.dir.path().to_owned();
    launch.arg("healthcheck").arg("--state-dir").arg(dir)
}

#[track_caller]
fn check(words: &[&str]) -> Said {
    said(healthcheck().args(words.iter().copied()))
}

/// Runs it, and holds every verdict to its shape: code 0 or 1, one line of clean text that begins with the verdict.
#[track_caller]
fn said(launch: Launch) -> Said {
    let (stop, stopped) = channel();
    let lateness = std::thread::spawn(move || lateness(&stopped));
    let begun = Instant::now();
    let outcome = launch.start().finish();
    let took = begun.elapsed();
    drop(stop);
    let late = lateness.join().unwrap();
    let line = outcome.stdout.strip_suffix('\n').unwrap_or_else(|| panic!("no line\n{}", outcome.report()));
    assert!(outcome.stdout.len() <= 4096 && !line.contains(char::is_control), "not a clean line\n{}", outcome.report());
    let word = line.split(' ').next();
    let healthy = match (outcome.code, word) {
        (Some(0), Some("healthy")) => true,
        (Some(1), Some("unhealthy")) => false,
        _ => panic!("code and verdict do not fit\n{}", outcome.report()),
    };
    Said { healthy, line: line.to_owned(), stderr: outcome.stderr, took, late }
}

/// By how much short waits took longer than asked, all in all, until the other side of the channel is gone.
fn lateness(stopped: &Receiver<()>) -> Duration {
    const STEP: Duration = Duration::from_millis(5);
    let mut late = Duration::ZERO;
    loop {
        let begun = Instant::now();
        if stopped.recv_timeout(STEP) != Err(RecvTimeoutError::Timeout) {
            return late;
        }
        late += begun.elapsed().saturating_sub(STEP);
    }
}
