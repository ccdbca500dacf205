//! Owns the loop that every wait of a running app is: signals, ended children, deadlines; and the doing of what the supervisor asks
//! for. Must not know policy: it decides nothing that `supervisor`, `arrival` and `contest` can decide.
//!
//! After the launch nothing here fails: what cannot be done is logged, and the app goes on.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use tracing::{debug, warn};

use super::arrival::{Arrival, Seen};
use super::contest::Contest;
use super::supervisor::{Action, Event, Supervisor};
use super::tree::Tree;
use crate::config::SignalScope;
use crate::error::words;
use crate::exit::Code;
use crate::state::{Phase, Publisher, State};
use crate::sys::descriptor;
use crate::sys::memory;
use crate::sys::process::{self, End, Reaped};
use crate::sys::signal::{self, Signals};
use crate::sys::terminal::Terminal;

/// One launched app, until it is gone.
pub struct Init<'a> {
    pub tree: Tree,
    pub scope: SignalScope,
    pub signals: &'a Signals,
    pub publisher: &'a mut Publisher,
    pub state: State,
    pub terminal: Option<Terminal>,
    /// The app was given the terminal, or has been stopped for want of it: it gets it when it is continued.
    pub wants_terminal: bool,
    pub supervisor: Supervisor,
    pub arrival: Arrival,
    /// The race for the port, while it may still be lost.
    pub contest: Option<Contest>,
    /// When `--start-timeout` ends; `None` once the app is ready.
    pub ready_by: Option<Instant>,
    /// When reberth lets go of the memory an idle init does not need; `None` once it has.
    pub settle_at: Option<Instant>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub code: Code,
    /// The app's own end, for a late look at why.
    pub app: Option<End>,
    /// It lost its port to somebody else and may be launched again.
    pub again: bool,
}

impl Init<'_> {
    /// Looks after the app until it and everything it left behind is gone.
    pub fn run(mut self) -> Ending {
        let mut ending = Ending { code: Code::OK, app: None, again: false };
        loop {
            self.sleep();
            let now = Instant::now();
            let mut finish = self.hear(now);
            if let Some(contest) = &mut self.contest {
                contest.hear(now);
            }
            // Signals come before children: a CONT must be passed on before a stop that it has ended is looked at.
            finish = self.reap(now, &mut ending).or(finish);
            finish = self.keep_deadlines(now).or(finish);
            self.end_contest(now);
            if let Some(code) = finish {
                ending.code = code;
                // The app was gone and about to be launched again when somebody wanted it to stop: there is nothing to stop any more.
                if ending.again
                    && let Some(signal) = self.supervisor.stop_signal()
                {
                    ending.again = false;
                    ending.code = Code::signalled(signal);
                }
                if let Some(terminal) = self.terminal {
                    terminal.take_back(self.tree.app);
                }
                return ending;
            }
        }
    }

    /// Sleeps until a signal, an event of the port or a deadline; with neither, as long as the app runs.
    fn sleep(&self) {
        let deadline = [
            self.supervisor.deadline(),
            self.arrival.next_look(),
            self.ready_by,
            self.contest.as_ref().map(Contest::ends_at),
        ];
        let deadline = deadline.into_iter().flatten().min().or(self.settle_at);
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.contest.as_ref().and_then(Contest::events).map(|events| PollFd::new(events, PollFlags::POLLIN)),
        );
        descriptor::wait_readable(&mut fds, deadline);
    }

    /// Reads what signals have come, and passes them to the supervisor.
    fn hear(&mut self, now: Instant) -> Option<Code> {
        let mut finish = None;
        while let Some(received) = self.signals.next() {
            // A write of ours to a closed pipe sends us SIGPIPE, and one past a size limit SIGXFSZ; neither is the app's affair.
            let own = i32::try_from(received.sender) == Ok(process::pid());
            if received.signal == libc::SIGCHLD || own {
                continue;
            }
            finish = self.on(now, Event::Signal(received.signal)).or(finish);
        }
        if self.supervisor.stop_asked() {
            self.give_up_waiting();
        }
        finish
    }

    /// Somebody wants the app gone: whether it comes up, and who took its port, is of no interest any more.
    fn give_up_waiting(&mut self) {
        self.contest = None;
        self.ready_by = None;
        self.arrival.give_up();
    }

    /// The port cannot be lost any more once the app listens, and a later end has another reason. Every socket that closes on the
    /// machine costs the kernel more while we subscribe to it.
    fn end_contest(&mut self, now: Instant) {
        let over = |contest: &Contest| contest.ends_at() <= now || self.arrival.has_listened();
        if self.contest.as_ref().is_some_and(over) {
            self.contest = None;
            self.arrival.no_contest();
        }
    }

    /// Reaps all that has ended.
    fn reap(&mut self, now: Instant, ending: &mut Ending) -> Option<Code> {
        let mut app_ended = None;
        let mut others_ended = false;
        let none_left = loop {
            match process::reap() {
                Reaped::Ended(pid, end) if pid == self.tree.app && ending.app.is_none() => app_ended = Some(end),
                Reaped::Ended(pid, end) => {
                    others_ended = true;
                    self.tree.reaped(pid);
                    if self.arrival.asks_by() != Some(pid) {
                        // The words are tini's: who greps for them finds them here.
                        debug!("Reaped zombie process with pid={pid}");
                    }
                    self.probed(now, pid, end);
                }
                Reaped::Stopped(pid, by) if pid == self.tree.app => self.stopped(now, by),
                Reaped::Stopped(..) => {}
                Reaped::Nothing => break false,
                Reaped::NoChildren => break true,
            }
        };
        if let Some(end) = app_ended {
            ending.app = Some(end);
            self.tree.leave_out(self.arrival.app_ended());
            ending.again = self.contest.as_mut().is_some_and(|contest| contest.lost(now, end, &self.arrival));
            self.give_up_waiting();
            let leftovers = !self.tree.is_gone(none_left);
            return self.on(now, Event::AppEnded { end, leftovers, again: ending.again });
        }
        // Until the app ends, whoever else does is only reaped.
        ending.app?;
        if self.tree.is_gone(none_left) {
            return self.on(now, Event::LastChildGone);
        }
        if others_ended { self.on(now, Event::ChildGone) } else { None }
    }

    /// The app was stopped, which a shell above us may want to know.
    fn stopped(&mut self, now: Instant, by: i32) {
        let wants_it = matches!(by, libc::SIGTTIN | libc::SIGTTOU);
        self.wants_terminal |= wants_it;
        if let Some(terminal) = self.terminal.filter(|terminal| wants_it && terminal.is_ours()) {
            // It asked for the terminal, and nobody but us has it.
            terminal.give_to(self.tree.app);
            return self.continue_app();
        }
        let in_front = self.terminal.is_some_and(|terminal| terminal.is_of(self.tree.app));
        self.on(now, Event::AppStopped { by, in_front });
    }

    fn probed(&mut self, now: Instant, pid: i32, end: End) {
        let seen = self.arrival.probed(now, pid, end);
        self.arrived(seen);
    }

    fn keep_deadlines(&mut self, now: Instant) -> Option<Code> {
        if self.arrival.next_look().is_some_and(|at| at <= now) {
            if let Some(contest) = &mut self.contest {
                contest.narrow();
            }
            let seen = self.arrival.look(now, &self.tree);
            self.arrived(seen);
            if self.arrival.is_patient(now) {
                memory::release_code();
            }
        }
        if self.ready_by.is_some_and(|at| at <= now) {
            self.ready_by = None;
            for line in self.arrival.why_not_ready(&self.tree) {
                warn!("{line}");
            }
            let finish = self.on(now, Event::NotReadyInTime);
            self.give_up_waiting();
            return finish;
        }
        if self.supervisor.deadline().is_some_and(|at| at <= now) {
            return self.on(now, Event::Due);
        }
        if self.settle_at.is_some_and(|at| at <= now) && self.arrival.next_look().is_none() {
            self.settle_at = None;
            memory::release_code();
        }
        None
    }

    fn arrived(&mut self, seen: Seen) {
        if seen == Seen::Ready && self.supervisor.is_running() {
            self.ready_by = None;
            self.publish(Phase::Ready);
        }
    }

    /// Lets the supervisor decide, and does what it says.
    fn on(&mut self, now: Instant, event: Event) -> Option<Code> {
        let mut finish = None;
        for action in self.supervisor.on(now, event) {
            match action {
                Action::Forward(signal) => self.forward(signal),
                Action::Continue => self.continue_app(),
                Action::KillApp => self.send_to_app(libc::SIGKILL),
                Action::SignalTree(signal) => self.tree.signal(signal),
                Action::Suspend => signal::suspend(),
                Action::Publish(phase) => self.publish(phase),
                Action::Finish(code) => finish = Some(code),
            }
        }
        finish
    }

    fn forward(&self, signal: i32) {
        let Some(terminal) = self.terminal.filter(|_| signal == libc::SIGCONT && self.wants_terminal) else {
            return self.send_to_app(signal);
        };
        // `fg` in the shell above gave the foreground to our group; the app needs it before it runs on, and all of its group does.
        if terminal.is_ours() {
            terminal.give_to(self.tree.app);
        }
        self.continue_app();
    }

    fn continue_app(&self) {
        let _ = process::send(-self.tree.app, libc::SIGCONT);
    }

    fn send_to_app(&self, signal: i32) {
        let target = match self.scope {
            SignalScope::Child => self.tree.app,
            SignalScope::Group => -self.tree.app,
        };
        // ESRCH: it has just ended, which is its SIGCHLD's to say. EPERM: it has become another user and we may not.
        if let Err(error) = process::send(target, signal)
            && error.raw_os_error() == Some(libc::EPERM)
        {
            warn!(
                "{} cannot be sent to the app (pid {}): {}; it runs as another user",
                signal::name(signal),
                self.tree.app,
                words(&error)
            );
        }
    }

    fn publish(&mut self, phase: Phase) {
        self.state.phase = phase;
        if let Some(line) = self.publisher.publish(&self.state) {
            warn!("{line}");
        }
    }
}
