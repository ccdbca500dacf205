//! Owns the asking of the app's health target while it comes up: one child at a time that asks, and what it answered last. Must not
//! know what follows from an answer.

use std::os::fd::OwnedFd;

use crate::error::words;
use crate::health::target::Target;
use crate::state::State;
use crate::sys::descriptor;
use crate::sys::fork;
use crate::sys::process::{self, End};

/// Asks a health target once, of an app in this state, and says why it is not healthy. Runs in a child of its own, so it may block.
pub type Ask = Box<dyn Fn(&State) -> Result<(), String>>;

/// The longest answer that is kept, in bytes.
const LONGEST: usize = 1024;

/// A health target, asked again and again.
pub struct Inquiry {
    target: Target,
    ask: Ask,
    out: Option<Out>,
    answer: Option<String>,
}

/// A question on its way: the child that asks, and the pipe its answer comes through.
struct Out {
    pid: i32,
    answer: OwnedFd,
}

impl Inquiry {
    /// An inquiry about `target`, of which `ask` asks it; nothing is asked yet.
    pub fn new(target: Target, ask: Ask) -> Self {
        Self { target, ask, out: None, answer: None }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Why the target was not healthy when it answered last, if it has.
    pub fn last_answer(&self) -> Option<&str> {
        self.answer.as_deref()
    }

    /// A child is out, and will be back.
    pub fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// Sends a child to ask, unless one is still out.
    pub fn ask(&mut self, state: &State) {
        if self.out.is_some() {
            return;
        }
        let asked = descriptor::pipe().and_then(|(answer, write)| {
            let pid = fork::fork_off(|| match (self.ask)(state) {
                Ok(()) => 0,
                Err(reason) => {
                    let text = reason.get(..reason.floor_char_boundary(LONGEST)).unwrap_or_default();
                    let _ = nix::unistd::write(&write, text.as_bytes());
                    1
                }
            })?;
            Ok(Out { pid, answer })
        });
        match asked {
            Ok(out) => self.out = Some(out),
            Err(error) => {
                self.answer = Some(format!(
                    "nothing, it cannot be asked: {}; raise the limit of processes (pids limit of the container, ulimit -u) or of open \
                     files",
                    words(&error)
                ));
            }
        }
    }

    /// A child of ours has ended: what the target answered, if it is the one that asked.
    pub fn answered(&mut self, pid: i32, end: End) -> Option<bool> {
        let out = self.out.take_if(|out| out.pid == pid)?;
        if end == End::Code(0) {
            return Some(true);
        }
        let mut text = [0; LONGEST];
        let length = nix::unistd::read(&out.answer, &mut text).unwrap_or(0);
        self.answer = Some(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned());
        Some(false)
    }

    /// Whatever would be answered is of no interest any more. The child that was out, if one was, is killed and still to be reaped.
    pub fn withdraw(&mut self) -> Option<i32> {
        let out = self.out.take()?;
        let _ = process::send(out.pid, libc::SIGKILL);
        Some(out.pid)
    }
}
