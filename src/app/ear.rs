//! Owns what is heard while there is no app yet: signals, which act as on any program, and the ends of our children. Must not know what is
//! waited for, but for the word that says it.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

use tracing::{debug, info};

use super::settings::Run;
use super::supervisor::{self, Alone};
use crate::exit::Code;
use crate::port::claim::Stop;
use crate::sys::process::{self, End, Reaped};
use crate::sys::signal::{self, Signals};

/// The signals of a wait.
pub struct Ear<'a> {
    pub signals: &'a Signals,
    pub config: &'a Run,
    /// `the port`: what is waited for.
    pub wait: &'static str,
}

impl Ear<'_> {
    /// Readable when there is something to hear.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// Takes all that has come. `ended` gets every child of ours that has; `Break`: a signal ends the wait.
    pub fn hear(&self, ended: &mut dyn FnMut(i32, End)) -> ControlFlow<Stop> {
        while let Some(received) = self.signals.next() {
            // A write of ours to a closed pipe sends us SIGPIPE, and one past a size limit SIGXFSZ.
            let own = i32::try_from(received.sender) == Ok(process::pid());
            // PID 1 inherits orphans from the first moment on.
            if received.signal == libc::SIGCHLD {
                reap(ended);
            }
            let (map, death) = (&self.config.signal_map, self.config.parent_death_signal);
            let meaning = supervisor::alone(map, received.signal, death, |signal| self.signals.was_ignored(signal));
            let name = signal::name(received.signal);
            match meaning {
                Alone::Ends(by) if !own => {
                    let mapped =
                        if by == received.signal { String::new() } else { format!(" as {}", signal::name(by)) };
                    info!("{name}{mapped} received while waiting for {}: the app is not started", self.wait);
                    return ControlFlow::Break(Stop::Ended(Code::signalled(by)));
                }
                Alone::Suspends if process::pid() != 1 => signal::suspend(),
                _ => debug!("{name} ignored: there is no app yet"),
            }
        }
        ControlFlow::Continue(())
    }
}

/// Reaps whatever has ended while there is no app.
pub fn reap(ended: &mut dyn FnMut(i32, End)) {
    loop {
        match process::reap() {
            Reaped::Ended(pid, end) => ended(pid, end),
            Reaped::Stopped(..) => {}
            Reaped::Nothing | Reaped::NoChildren => return,
        }
    }
}
