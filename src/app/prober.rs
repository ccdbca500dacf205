//! Owns the probing of one health target: one child at a time asks it, and says why it is not healthy. Must not know what follows from
//! that.

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

/// The longest reason that is kept, in bytes.
const LONGEST: usize = 1024;

/// One health target, probed again and again. A probe may block, so each runs in a child of its own.
pub struct Prober {
    target: Target,
    subject: Subject,
    terms: Box<Terms>,
    probe: Option<Probe>,
    last_failure: Option<String>,
}

/// A probe under way: the child, and the pipe through which it says why the target is not healthy.
struct Probe {
    pid: i32,
    reason: OwnedFd,
}

impl Prober {
    /// A prober of `target`, which is its name in the log; what is asked follows from `subject` and the app's state.
    pub fn new(target: Target, subject: Subject, terms: Box<Terms>) -> Self {
        Self { target, subject, terms, probe: None, last_failure: None }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Why the last probe that failed did so; `None`: none has.
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// A child is asking.
    pub fn is_probing(&self) -> bool {
        self.probe.is_some()
    }

    /// Starts a probe of an app in this state, unless one is under way.
    pub fn probe(&mut self, state: &State) {
        if self.probe.is_some() {
            return;
        }
        let started = descriptor::pipe().and_then(|(reason, write)| {
            let pid = fork::fork_off(|| match self.ask(state) {
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
                    "nothing, it cannot be asked: {}; raise the limit of processes (pids limit of the container, ulimit -u) or of open \
                     files",
                    words(&error)
                ));
            }
        }
    }

    /// Blocks, so it is for the child. In any other phase the answer would be the phase's, and not the target's.
    fn ask(&self, state: &State) -> Result<(), String> {
        health::ask_once(&self.subject, &self.terms, State { phase: Phase::Ready, ..state.clone() })
    }

    /// A child of ours has ended. Whether the target is healthy, if it is the child that asked.
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

    /// Kills the child that asks, if one does. Its pid: it has still to be reaped.
    pub fn cancel(&mut self) -> Option<i32> {
        let probe = self.probe.take()?;
        let _ = process::send(probe.pid, libc::SIGKILL);
        Some(probe.pid)
    }
}
