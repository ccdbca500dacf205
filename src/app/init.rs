//! Owns the main loop while the app runs: it waits for signals, intercepted calls, exited children and deadlines, and performs the actions
//! of the state machines. Must not know policy: `supervisor` and `readiness` decide.
//!
//! After the launch nothing here fails: what cannot be done is logged, and the app continues.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use tracing::{debug, error, info, warn};

use super::advice;
use super::announce::{Taken, publish};
use super::forwarding::Forwarding;
use super::liveness::{Alive, Liveness};
use super::prewarm::{Prewarm, Prewarmed};
use super::readiness::Readiness;
use super::readiness::binds::Binds;
use super::readiness::fact::Fact;
use super::readiness::lost_port::Loss;
use super::readiness::machine;
use super::sharing::Sharing;
use super::supervisor::{Action, Event, NeverListened, Supervisor};
use super::tree::Tree;
use crate::error::words;
use crate::exit::Code;
use crate::register::workers::Workers;
use crate::state::{Phase, Publisher, State};
use crate::sys::descriptor;
use crate::sys::memory;
use crate::sys::process::{self, End, Reaped};
use crate::sys::signal::{self, Signals};

/// One launched app, until it has exited. reberth acts as its init (it forwards, reaps, exits with it), whatever reberth's own pid is.
pub struct Init<'a> {
    pub tree: Tree,
    pub forwarding: Forwarding,
    pub signals: &'a Signals,
    pub publisher: &'a mut Publisher,
    pub state: State,
    pub supervisor: Supervisor,
    pub readiness: Readiness,
    /// Set with `--exit-on-unhealthy`.
    pub liveness: Option<Liveness>,
    /// The app's calls, if they are intercepted.
    pub binds: Option<Binds>,
    /// The claim that continues beside the app.
    pub prewarm: Option<Prewarm<'a>>,
    /// The ports that other instances may share.
    pub sharing: Option<Sharing>,
    /// The processes that register the app.
    pub workers: Option<&'a mut Workers>,
    /// When reberth releases the memory that an idle init does not need; `None` once it has.
    pub settle_at: Option<Instant>,
    pub end: AppEnd,
}

/// How far the end of the app has progressed.
#[derive(Debug, Default)]
pub struct AppEnd {
    exit: Option<Exit>,
    /// The app lost its port to another process and may be launched again.
    again: bool,
    /// The last reaping found no child of any kind.
    childless: bool,
    /// Everything is done: exit with this code.
    finish: Option<Code>,
}

/// The app has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exit {
    how: End,
    at: Instant,
    /// Until then it may turn out that it lost its port; an event may decide that earlier. `None`: it is decided.
    unsure_until: Option<Instant>,
}

/// How a launch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub code: Code,
    /// It lost its port to another process and may be launched again.
    pub again: bool,
}

impl Init<'_> {
    /// Looks after the app until it and everything it left behind has exited.
    pub fn run(mut self) -> Ending {
        self.register(Instant::now());
        self.probe_liveness(Instant::now());
        loop {
            self.sleep();
            let now = Instant::now();
            self.take_signals(now);
            // The app is blocked until its calls are answered, so they come first.
            self.answer_calls(now);
            self.continue_claiming(now);
            if let Some(sharing) = &mut self.sharing {
                sharing.step(now);
            }
            self.readiness.take_events();
            // Signals come before children: a CONT must be forwarded before the suspension that it ended is handled.
            self.reap(now);
            self.meet_deadlines(now);
            self.register(now);
            self.probe_liveness(now);
            if self.end.exit.is_none() {
                self.readiness.end_watch(now);
            }
            // An app that is stopping may close its listener to refuse clients: reberth must not keep a copy of it open.
            if self.supervisor.stop_sent() || self.end.exit.is_some() {
                self.release_ports(now);
            }
            if let Some(code) = self.end.finish {
                self.forwarding.take_terminal_back();
                return self.ending(code);
            }
        }
    }

    fn ending(&self, code: Code) -> Ending {
        // The stop request arrived after the app had exited, before its next launch: there is nothing to stop.
        match self.supervisor.stop_signal().filter(|_| self.end.again) {
            Some(signal) => Ending { code: Code::signalled(signal), again: false },
            None => Ending { code, again: self.end.again },
        }
    }

    /// Sleeps until there is something to do, which may take as long as the app runs.
    fn sleep(&self) {
        let deadline = [
            self.supervisor.deadline(),
            self.readiness.wake_at(),
            self.liveness.as_ref().and_then(Liveness::deadline),
            self.end.exit.and_then(|exit| exit.unsure_until),
            self.prewarm.as_ref().map(Prewarm::deadline),
            self.sharing.as_ref().and_then(Sharing::deadline),
            self.binds.as_ref().and_then(Binds::deadline),
            self.workers.as_ref().and_then(|workers| workers.deadline(&self.state)),
        ];
        // Releasing memory is worth no wake-up of its own while another one is due.
        let deadline = deadline.into_iter().flatten().min().or(self.settle_at);
        let sources = std::iter::once(self.signals.as_fd())
            .chain(self.binds.as_ref().and_then(Binds::calls))
            .chain(self.readiness.events())
            .chain(self.prewarm.iter().flat_map(Prewarm::descriptors));
        let mut polled: Vec<PollFd<'_>> = sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        polled.extend(self.sharing.iter().flat_map(Sharing::polled));
        descriptor::wait_readable(&mut polled, deadline);
    }

    /// Passes the pending signals to the supervisor.
    fn take_signals(&mut self, now: Instant) {
        while let Some(received) = self.signals.next() {
            // The kernel sends a process SIGPIPE when it writes to a closed pipe, and SIGXFSZ when it writes past a size limit. These are
            // reberth's own, not the app's.
            let own = i32::try_from(received.sender) == Ok(process::pid());
            if received.signal == libc::SIGCHLD || own {
                continue;
            }
            self.may_call_off(now, received.signal);
            // The app has exited: it cannot receive the signal, and another process may already have its pid.
            if self.undecided_exit().is_none() {
                self.tell_supervisor(now, Event::Signal(received.signal));
            }
        }
        if self.supervisor.stop_requested() {
            self.stop_probing();
        }
    }

    /// The app's exit, while it is unsure whether it lost its port.
    fn undecided_exit(&self) -> Option<Exit> {
        self.end.exit.filter(|exit| exit.unsure_until.is_some())
    }

    /// If the app has exited and may be launched again, a signal that ends a wait without an app calls the next launch off. Then it no
    /// longer matters whether the app lost its port.
    fn may_call_off(&mut self, now: Instant, signal: i32) {
        let undecided = self.undecided_exit();
        if !self.end.again && undecided.is_none() {
            return;
        }
        let called_off = self.supervisor.call_off(signal, |signal| self.signals.was_ignored(signal));
        if let Some(exit) = undecided.filter(|_| called_off) {
            self.app_gone(now, exit, false);
        }
    }

    /// Answers the intercepted calls that are pending.
    fn answer_calls(&mut self, now: Instant) {
        if let Some(binds) = &mut self.binds {
            let facts = binds.answer(now, &self.tree);
            facts.into_iter().for_each(|fact| self.tell_readiness(now, fact));
        }
    }

    /// Continues the claim beside the app.
    fn continue_claiming(&mut self, now: Instant) {
        let (signals, calls) = (self.signals.as_fd(), self.binds.as_ref().and_then(Binds::calls));
        let mut interrupted = || descriptor::is_readable(signals) || calls.is_some_and(descriptor::is_readable);
        let Some(prewarm) = &mut self.prewarm else { return };
        match prewarm.step(now, &mut interrupted) {
            Ok(None) => {}
            Ok(Some(prewarmed)) => self.port_claimed(now, prewarmed),
            Err(error) => {
                error.lines().iter().for_each(|line| error!("{line}"));
                self.prewarm = None;
                self.tell_supervisor(now, Event::GiveUp(error.code()));
            }
        }
    }

    /// The ports are claimed. The app, which is blocked, gets them first; the announcements follow.
    fn port_claimed(&mut self, now: Instant, Prewarmed { taken, sharing, held }: Prewarmed) {
        let Some(prewarm) = self.prewarm.take() else { return };
        self.sharing = sharing;
        let facts = match (&mut self.binds, held) {
            (Some(binds), Ok(held)) => binds.port_claimed(held, &self.tree),
            (Some(binds), Err(error)) => {
                binds.release();
                vec![Fact::CallsLost(words(&error))]
            }
            (None, _) => Vec::new(),
        };
        prewarm.announce(&taken);
        self.state.take(&taken.iter().map(|taken| (&taken.spec, taken.port)).collect::<Vec<_>>());
        if self.supervisor.is_undisturbed() {
            self.publish(Phase::Starting);
        }
        self.readiness.port_claimed(taken.iter().map(Taken::actual).collect(), now);
        facts.into_iter().for_each(|fact| self.tell_readiness(now, fact));
    }

    /// Releases every copy of the app's ports.
    fn release_ports(&mut self, now: Instant) {
        (self.prewarm, self.sharing) = (None, None);
        if let Some(binds) = &mut self.binds {
            binds.release_for_stop(now);
        }
    }

    /// The app has exited or is to stop: whether it becomes ready, and who took its port, no longer matters.
    fn stop_probing(&mut self) {
        // A running probe is killed but not yet reaped. Until then it is a child of reberth that does not belong to the app.
        self.tree.exclude(self.readiness.stop_looking());
        self.tree.exclude(self.liveness.as_mut().and_then(Liveness::cancel));
    }

    /// Reaps all children that have exited.
    fn reap(&mut self, now: Instant) {
        let mut app_ended = None;
        let mut others_ended = false;
        self.end.childless = loop {
            match process::reap() {
                Reaped::Ended(pid, end) if pid == self.tree.app && self.end.exit.is_none() => app_ended = Some(end),
                Reaped::Ended(pid, end) => {
                    others_ended = true;
                    self.child_ended(now, pid, end);
                }
                Reaped::Stopped(pid, by) if pid == self.tree.app => self.app_suspended(now, by),
                Reaped::Stopped(..) => {}
                Reaped::Nothing => break false,
                Reaped::NoChildren => break true,
            }
        };
        if let Some(how) = app_ended {
            self.end.exit = Some(Exit { how, at: now, unsure_until: None });
        }
        let Some(exit) = self.end.exit else { return };
        if app_ended.is_some() || exit.unsure_until.is_some() {
            self.judge_exit(now, exit);
        } else if self.tree.is_gone(self.end.childless) {
            self.tell_supervisor(now, Event::LastChildGone);
        } else if others_ended {
            self.tell_supervisor(now, Event::ChildGone);
        }
    }

    /// A child other than the app has exited.
    fn child_ended(&mut self, now: Instant, pid: i32, end: End) {
        self.tree.reaped(pid);
        let app = self.tree.app;
        if let Some(alive) = self.liveness.as_mut().and_then(|liveness| liveness.ended(pid, end, app)) {
            self.judge_liveness(now, alive);
        } else if let Some(fact) = self.readiness.child_ended(pid, end) {
            self.tell_readiness(now, fact);
        } else {
            // tini's wording: people grep for it.
            debug!("Reaped zombie process with pid={pid}");
        }
    }

    /// The app has exited: did it lose its port to another process?
    fn judge_exit(&mut self, now: Instant, exit: Exit) {
        match self.readiness.port_lost(now, exit.how, exit.at, &self.tree) {
            Loss::Unsure(until) => self.end.exit = Some(Exit { unsure_until: Some(until), ..exit }),
            loss => self.app_gone(now, exit, loss == Loss::Lost),
        }
    }

    fn app_gone(&mut self, now: Instant, exit: Exit, again: bool) {
        self.end.exit = Some(Exit { at: now, unsure_until: None, ..exit });
        self.end.again = again;
        let stop_requested = self.supervisor.stop_requested();
        let served = self.readiness.serves();
        let never_listened = self.readiness.never_listened();
        let never_listened =
            never_listened.map(|(port, since)| NeverListened { port, lived: exit.at.duration_since(since) });
        self.stop_probing();
        let leftovers = !self.tree.is_gone(self.end.childless);
        if leftovers && !again && !stop_requested {
            self.log_leftovers(exit.how, served);
        }
        self.tell_supervisor(now, Event::AppEnded { end: exit.how, leftovers, again, never_listened });
    }

    /// When the app exits, everything is ended. An app that hands its work to a background process and exits would end the container
    /// without a word: say so.
    fn log_leftovers(&self, how: End, served: bool) {
        let Some(primary) = self.readiness.primary() else { return };
        let (app, port) = (self.tree.app, primary.port);
        match (self.readiness.still_serves(&self.tree), how) {
            (Some(left), End::Code(0)) => warn!("{}", advice::went_into_background(app, &left, port)),
            (Some(left), _) => info!("{}", advice::left_serving(&left, port)),
            (None, End::Code(0)) if !served => warn!("{}", advice::exited_before_listening(app, port)),
            (None, _) => {}
        }
    }

    /// The app was suspended. A shell above reberth may have to see that.
    fn app_suspended(&mut self, now: Instant, by: i32) {
        if !self.forwarding.suspended(by) {
            self.tell_supervisor(now, Event::AppSuspended { by, in_foreground: self.forwarding.is_in_foreground() });
        }
    }

    fn meet_deadlines(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        // One per turn of the loop: if another is due too, the next sleep ends immediately.
        if let Some(exit) = self.end.exit.filter(|exit| due(exit.unsure_until)) {
            self.judge_exit(now, exit);
        } else if due(self.readiness.fact_due_at()) {
            self.tell_readiness(now, Fact::Due);
            if self.readiness.looks_rarely(now) {
                memory::release_code();
            }
        } else if due(self.supervisor.deadline()) {
            self.tell_supervisor(now, Event::Due);
        } else if due(self.settle_at) && self.readiness.fact_due_at().is_none() {
            // Only once no look is due: its code would be read back at once.
            self.settle_at = None;
            memory::release_code();
        }
    }

    /// Tells readiness a fact, and performs its actions.
    fn tell_readiness(&mut self, now: Instant, fact: Fact) {
        let mut actions: VecDeque<machine::Action> = self.readiness.on(now, fact).into();
        while let Some(action) = actions.pop_front() {
            match action {
                machine::Action::Look => actions.extend(self.readiness.look(now, &self.tree)),
                machine::Action::Probe => self.readiness.probe(&self.state),
                machine::Action::Listens(places) => {
                    let Some(primary) = self.readiness.primary() else { continue };
                    self.state.listens_at(primary, &places);
                    // If `Ready` follows, one write publishes both.
                    if !actions.contains(&machine::Action::Ready) {
                        self.publish(self.state.phase);
                    }
                }
                machine::Action::Info(line) => info!("{line}"),
                machine::Action::Warn(line) => warn!("{line}"),
                machine::Action::Ready if self.supervisor.is_undisturbed() => self.publish(Phase::Ready),
                machine::Action::Ready => {}
                machine::Action::NotInTime => self.not_in_time(now),
            }
        }
    }

    /// `--start-timeout` has passed.
    fn not_in_time(&mut self, now: Instant) {
        warn!("{}", advice::not_in_time(self.tree.app, self.readiness.limit()));
        self.readiness.diagnosis(&self.tree).iter().for_each(|line| warn!("{line}"));
        self.tell_supervisor(now, Event::GiveUp(Code::TIMEOUT));
        self.stop_probing();
    }

    /// Probes the liveness of a ready app when a probe is due.
    fn probe_liveness(&mut self, now: Instant) {
        if let Some(liveness) = &mut self.liveness {
            let undisturbed = self.supervisor.is_undisturbed() && self.end.exit.is_none();
            liveness.set_active(now, undisturbed && self.state.phase == Phase::Ready);
            liveness.probe_if_due(now, self.tree.app, &self.state);
        }
    }

    /// A liveness probe has answered (`--exit-on-unhealthy`).
    fn judge_liveness(&mut self, now: Instant, alive: Alive) {
        let Some(liveness) = &self.liveness else { return };
        let (reason, limit) = (liveness.last_failure(), liveness.limit());
        match alive {
            Alive::Yes => {}
            Alive::Failing(failed) => warn!("{}", advice::failing(failed, limit, &reason)),
            Alive::No => {
                warn!("{}", advice::unhealthy(self.tree.app, limit, &reason));
                self.tell_supervisor(now, Event::Unhealthy);
                self.stop_probing();
            }
        }
    }

    /// Tells the supervisor an event, and performs its actions.
    fn tell_supervisor(&mut self, now: Instant, event: Event) {
        for action in self.supervisor.on(now, event) {
            match action {
                Action::Forward(signal) => self.forwarding.forward(signal),
                Action::Continue => self.forwarding.resume(),
                Action::KillApp => self.forwarding.send(libc::SIGKILL),
                Action::SignalTree(signal) => self.tree.signal(signal),
                Action::Suspend => signal::suspend(),
                Action::Publish(phase) => self.publish(phase),
                Action::Finish(code) => self.end.finish = Some(code),
            }
        }
    }

    /// Registers the app while it is ready, and only then.
    fn register(&mut self, now: Instant) {
        let started = self.workers.as_mut().map(|workers| workers.step(now, &self.state)).unwrap_or_default();
        started.into_iter().for_each(|pid| self.tree.exclude(Some(pid)));
    }

    fn publish(&mut self, phase: Phase) {
        self.state.phase = phase;
        publish(self.publisher, &self.state);
        self.register(Instant::now());
    }
}
