//! `reberth healthcheck` and `reberth install` from outside: the real program against real servers, friendly and hostile. Must not know how
//! the probe is built. Only the state files are written through the library, because the test plays the `run` they describe.

// The lints of `src` protect PID 1; a test may panic, and its servers are threads. `unsafe` code in the harness states its reason, as
// there.
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

/// The outcome of a healthcheck.
#[derive(Debug)]
struct Said {
    healthy: bool,
    line: String,
    stderr: String,
    took: Duration,
    /// How late the machine itself was meanwhile: on a busy machine no program meets a deadline.
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

    /// Fails if the verdict came later than `timeout` plus the promised 150 ms, after subtracting the lateness of the machine.
    #[track_caller]
    fn within(self, timeout: Duration) -> Self {
        assert!(self.took <= timeout + Duration::from_millis(150) + self.late, "{timeout:?}: {self:?}");
        self
    }
}

/// `reberth healthcheck` with an empty state directory.
fn healthcheck() -> Launch {
    let launch = Launch::new(env!("CARGO_BIN_EXE_reberth"));
    let dir = launch.dir.path().to_owned();
    launch.arg("healthcheck").arg("--state-dir").arg(dir)
}

#[track_caller]
fn check(words: &[&str]) -> Said {
    said(healthcheck().args(words.iter().copied()))
}

/// Runs it, and checks the shape of every verdict: code 0 or 1, one line of clean text that begins with the verdict.
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

/// The total time by which short waits took longer than requested, until the channel is closed.
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
