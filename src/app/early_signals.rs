//! Owns the signals that arrive before there is an app, and the reaping until then. Must not know what is waited for, except its name in
//! the log.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

use tracing::{debug, info};

use super::settings::Run;
use super::supervisor::{self, Effect};
use crate::exit::Code;
use crate::port::claim::Stop;
use crate::sys::process::{self, End, Reaped};
use crate::sys::signal::{self, Signals};

/// Handles the signals during one wait.
pub struct EarlySignals<'a> {
    pub signals: &'a Signals,
    pub config: &'a Run,
    /// What is waited for, as the log names it: `the port`.
    pub wait: &'static str,
}

impl EarlySignals<'_> {
    /// Readable when a signal is pending.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// Takes all pending signals. `ended` is called for each child that has exited; `Break`: a signal ended the wait.
    pub fn take(&self, ended: &mut dyn FnMut(i32, End)) -> ControlFlow<Stop> {
        while let Some(received) = self.signals.next() {
            // The kernel sends a process SIGPIPE when it writes to a closed pipe, and SIGXFSZ when it writes past a size limit.
            let own = i32::try_from(received.sender) == Ok(process::pid());
            // PID 1 inherits orphans from its first moment.
            if received.signal == libc::SIGCHLD {
                reap(ended);
            }
            let (map, death) = (&self.config.stop.signal_map, self.config.parent_death_signal);
            let effect =
                supervisor::effect_without_app(map, received.signal, death, |signal| self.signals.was_ignored(signal));
            let name = signal::name(received.signal);
            match effect {
                Effect::Terminates(by) if !own => {
                    let mapped =
                        if by == received.signal { String::new() } else { format!(" as {}", signal::name(by)) };
                    info!("{name}{mapped} received while waiting for {}: the app is not started", self.wait);
                    return ControlFlow::Break(Stop::Ended(Code::signalled(by)));
                }
                Effect::Suspends if process::pid() != 1 => signal::suspend(),
                _ => debug!("{name} ignored: there is no app yet"),
            }
        }
        ControlFlow::Continue(())
    }
}

/// Reaps every child that has exited while there is no app.
pub fn reap(ended: &mut dyn FnMut(i32, End)) {
    loop {
        match process::reap() {
            Reaped::Ended(pid, end) => ended(pid, end),
            Reaped::Stopped(..) => {}
            Reaped::Nothing | Reaped::NoChildren => return,
        }
    }
}
