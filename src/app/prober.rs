//! Owns the probing of one health target: one child process at a time probes it, and reports why it is not healthy. Must not know what
//! follows from that.

use std::os::fd::OwnedFd;

use crate::error::words;
use crate::health;
use crate::health::settings::Subject;
use crate::health::target::Target;
use crate::health::terms::Terms;
use crate::state::{Phase, State};
use crate::sys::descriptor;
use crate::sys::fork;
use crate::sys::process::{self, End};

/// The longest reason that is kept. Bytes.
const LONGEST: usize = 1024;

/// One health target, probed repeatedly. A probe may block, so each runs in its own child process.
pub struct Prober {
    target: Target,
    subject: Subject,
    terms: Box<Terms>,
    probe: Option<Probe>,
    last_failure: Option<String>,
}

/// A running probe: the child, and the pipe on which it reports why the target is not healthy.
struct Probe {
    pid: i32,
    reason: OwnedFd,
}

impl Prober {
    /// A prober of `target`, its name in the log; `subject` and the app's state decide what is queried.
    pub fn new(target: Target, subject: Subject, terms: Box<Terms>) -> Self {
        Self { target, subject, terms, probe: None, last_failure: None }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Why the last failed probe failed; `None`: none has failed.
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// A probe is running.
    pub fn is_probing(&self) -> bool {
        self.probe.is_some()
    }

    /// Starts a probe of an app in this state, unless one is running.
    pub fn probe(&mut self, state: &State) {
        if self.probe.is_some() {
            return;
        }
        let started = descriptor::pipe().and_then(|(reason, write)| {
            let pid = fork::fork_off(|| match self.query(state) {
                Ok(()) => 0,
                Err(reason) => {
                    let text = reason.get(..reason.floor_char_boundary(LONGEST)).unwrap_or_default();
                    let _ = nix::unistd::write(&write, text.as_bytes());
                    1
                }
            })?;
            Ok(Probe { pid, reason })
        });
        match started {
            Ok(probe) => self.probe = Some(probe),
            Err(error) => {
                self.last_failure = Some(format!(
                    "nothing, because no probe could be started: {}; raise the limit of processes (pids limit of the container, ulimit -u) or of open \
                     files",
                    words(&error)
                ));
            }
        }
    }

    /// Blocks, so it runs in the child. The phase is set to `Ready`: in any other the verdict would be that of the phase, not of the
    /// target.
    fn query(&self, state: &State) -> Result<(), String> {
        health::ask_once(&self.subject, &self.terms, State { phase: Phase::Ready, ..state.clone() })
    }

    /// A child of reberth has exited. Whether the target is healthy, if the child was the probe.
    pub fn ended(&mut self, pid: i32, end: End) -> Option<bool> {
        let probe = self.probe.take_if(|probe| probe.pid == pid)?;
        if end == End::Code(0) {
            return Some(true);
        }
        let mut text = [0; LONGEST];
        let length = nix::unistd::read(&probe.reason, &mut text).unwrap_or(0);
        self.last_failure = Some(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned());
        Some(false)
    }

    /// Kills the running probe, if there is one. Returns its pid, which is yet to be reaped.
    pub fn cancel(&mut self) -> Option<i32> {
        let probe = self.probe.take()?;
        let _ = process::send(probe.pid, libc::SIGKILL);
        Some(probe.pid)
    }
}
