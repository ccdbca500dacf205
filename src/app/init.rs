//! Owns the loop that every wait of a running app is: signals, ended children, deadlines; and the doing of what the two machines ask for.
//! Must not know policy: it decides nothing that `supervisor`, `readiness` and `race` can decide.
//!
//! After the launch nothing here fails: what cannot be done is logged, and the app goes on.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use tracing::{debug, error, info, warn};

use super::berth::{Berth, Heard};
use super::liveness::{Alive, Liveness};
use super::prewarm::{Prewarm, Taken};
use super::prober::Prober;
use super::race::{Race, Verdict};
use super::readiness::{Do, Fact, Readiness};
use super::sharing::Sharing;
use super::sight::Sight;
use super::signal::SignalScope;
use super::supervisor::{Action, Event, Supervisor, Unseen};
use super::tree::Tree;
use crate::error::words;
use crate::exit::Code;
use crate::port::claim::Claim;
use crate::port::held::Held;
use crate::register::beside::Beside;
use crate::share::Group;
use crate::state::{Phase, Publisher, State};
use crate::sys::descriptor;
use crate::sys::memory;
use crate::sys::process::{self, End, Reaped};
use crate::sys::signal::{self, Signals};
use crate::sys::terminal::Terminal;

/// How the programs run in the foreground that put themselves into the background as they come.
const FOREGROUND: &str =
    "run it in the foreground (nginx -g 'daemon off;', httpd -DFOREGROUND, redis-server --daemonize no, php-fpm -F)";

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
    pub readiness: Readiness,
    pub sight: Sight,
    /// The health target, if one is set.
    pub prober: Option<Prober>,
    /// Of an app that is ready, where it is probed.
    pub liveness: Option<Liveness>,
    /// The race for the port, while it may still be lost.
    pub race: Option<Race>,
    /// The app's calls, where they are heard.
    pub berth: Option<Berth>,
    /// The ports that others may share.
    pub sharing: Option<Sharing>,
    /// Whose instances these are.
    pub group: Option<Group>,
    /// Who tells a registry where the app is.
    pub beside: Option<&'a mut Beside>,
    /// The claim that goes on beside the app.
    pub prewarm: Option<Prewarm<'a>>,
    /// When reberth lets go of the memory an idle init does not need; `None` once it has.
    pub settle_at: Option<Instant>,
    pub end: Option<Ended>,
    /// No child of any kind was left when we last reaped.
    pub childless: bool,
}

/// The app has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    how: End,
    at: Instant,
    /// Whether it lost the race for its port is not known before then, unless an event tells.
    unsure_until: Option<Instant>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub code: Code,
    /// It lost its port to somebody else and may be launched again.
    pub again: bool,
}

impl Init<'_> {
    /// Looks after the app until it and everything it left behind is gone.
    pub fn run(mut self) -> Ending {
        let mut ending = Ending { code: Code::OK, again: false };
        self.register(Instant::now());
        self.watch(Instant::now());
        loop {
            self.sleep();
            let now = Instant::now();
            let mut finish = self.hear(now, &mut ending);
            // An app waits for the answer to its call: before all that can wait.
            finish = self.answer_calls(now).or(finish);
            finish = self.go_on_claiming(now).or(finish);
            if let Some(sharing) = &mut self.sharing {
                sharing.step(now);
            }
            if let Some(race) = &mut self.race {
                race.hear();
            }
            // Signals come before children: a CONT must be passed on before a stop that it has ended is looked at.
            finish = self.reap(now, &mut ending).or(finish);
            finish = self.keep_deadlines(now, &mut ending).or(finish);
            self.register(now);
            self.watch(now);
            self.end_race(now);
            // An app that is to stop may close its listener to refuse clients: nothing of ours may keep it open.
            if self.supervisor.is_stopping() || self.end.is_some() {
                self.let_go(now);
            }
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
            self.readiness.next(),
            self.liveness.as_ref().and_then(Liveness::deadline),
            self.race.as_ref().map(Race::ends_at),
            self.end.and_then(|end| end.unsure_until),
            self.prewarm.as_ref().map(Prewarm::deadline),
            self.sharing.as_ref().and_then(Sharing::deadline),
            self.berth.as_ref().and_then(Berth::deadline),
            self.beside.as_ref().and_then(|beside| beside.deadline(&self.state)),
        ];
        let deadline = deadline.into_iter().flatten().min().or(self.settle_at);
        let sources = std::iter::once(self.signals.as_fd())
            .chain(self.berth.as_ref().and_then(Berth::calls))
            .chain(self.race.as_ref().and_then(Race::events))
            .chain(self.prewarm.iter().flat_map(Prewarm::descriptors));
        let mut fds: Vec<PollFd<'_>> = sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        fds.extend(self.sharing.iter().flat_map(Sharing::polled));
        descriptor::wait_readable(&mut fds, deadline);
    }

    /// Answers the binds and listens of the app that wait.
    fn answer_calls(&mut self, now: Instant) -> Option<Code> {
        let heard = self.berth.as_mut()?.hear(now, &self.tree);
        self.take(now, heard)
    }

    fn take(&mut self, now: Instant, heard: Vec<Heard>) -> Option<Code> {
        let mut finish = None;
        for one in heard {
            finish = match one {
                Heard::Listens(port, there) if self.readiness.primary().is_some_and(|primary| primary.port == port) => {
                    self.learn(now, Fact::Listens(there.into_iter().collect()))
                }
                Heard::Listens(..) | Heard::Elsewhere => self.learn(now, Fact::Stirs),
                Heard::Waits(port) => {
                    info!("the app waits in its bind for port {port}: nothing of its start is left for the takeover");
                    None
                }
                Heard::Reset(clients, place) => {
                    warn!(
                        "{clients} clients that had queued were cut off: the app binds {place}, and not what its port's spec says; name that \
                         address in --port"
                    );
                    None
                }
                Heard::Deaf(why) => {
                    warn!("--handover bind (REBERTH_HANDOVER) has ended: {why}; going on as with --handover off");
                    self.readiness.look(now);
                    None
                }
            }
            .or(finish);
        }
        finish
    }

    /// The wait for the port goes on beside the app.
    fn go_on_claiming(&mut self, now: Instant) -> Option<Code> {
        let (signals, calls) = (self.signals.as_fd(), self.berth.as_ref().and_then(Berth::calls));
        let mut interrupted = || descriptor::is_readable(signals) || calls.is_some_and(descriptor::is_readable);
        let error = match self.prewarm.as_mut()?.step(now, &mut interrupted) {
            Ok(None) => return None,
            Ok(Some(claims)) => return self.claimed(now, claims),
            Err(error) => error,
        };
        error.lines().iter().for_each(|line| error!("{line}"));
        self.prewarm = None;
        self.on(now, Event::GiveUp(error.code()))
    }

    /// The ports are ours: first the app gets what it waits for, then everybody is told.
    fn claimed(&mut self, now: Instant, mut claims: Vec<Claim>) -> Option<Code> {
        let prewarm = self.prewarm.take()?;
        let taken = Taken::of(&claims);
        if let Some(group) = self.group.clone() {
            self.sharing = Sharing::begin(group, &mut claims)
                .inspect_err(|error| warn!("the ports cannot be shared: {}", words(error)))
                .ok();
        }
        let shares = self.sharing.is_some();
        let held = Held::new(claims).map(|held| if shares { held.shared() } else { held });
        let heard = match (&mut self.berth, held) {
            (Some(berth), Ok(held)) => berth.claimed(held, &self.tree),
            (Some(berth), Err(error)) => {
                berth.release();
                vec![Heard::Deaf(words(&error))]
            }
            (None, _) => Vec::new(),
        };
        prewarm.announce(&taken);
        self.state.take(&taken.iter().map(|taken| (&taken.spec, taken.port)).collect::<Vec<_>>());
        if self.supervisor.is_running() {
            self.publish(Phase::Starting);
        }
        let ports: Vec<_> = taken.iter().map(|taken| taken.spec.with_port(taken.port)).collect();
        self.readiness.wake(ports, now);
        self.sight.look_for(self.readiness.primary().cloned());
        self.take(now, heard)
    }

    /// Nothing of ours stands on the app's ports any more.
    fn let_go(&mut self, now: Instant) {
        (self.prewarm, self.sharing) = (None, None);
        if let Some(berth) = &mut self.berth {
            berth.leave(now);
        }
    }

    /// Reads what signals have come, and passes them to the supervisor.
    fn hear(&mut self, now: Instant, ending: &mut Ending) -> Option<Code> {
        let mut finish = None;
        while let Some(received) = self.signals.next() {
            // A write of ours to a closed pipe sends us SIGPIPE, and one past a size limit SIGXFSZ; neither is the app's affair.
            let own = i32::try_from(received.sender) == Ok(process::pid());
            if received.signal == libc::SIGCHLD || own {
                continue;
            }
            // Nobody is there to get it: the app is gone, and its number may be anybody's next.
            let unsure = self.end.filter(|end| end.unsure_until.is_some());
            if ending.again || unsure.is_some() {
                let ignored = |signal| self.signals.was_ignored(signal);
                let called_off = self.supervisor.call_off(received.signal, ignored);
                if let Some(end) = unsure.filter(|_| called_off) {
                    finish = self.gone(now, end.how, false, ending).or(finish);
                }
            }
            if self.end.is_none_or(|end| end.unsure_until.is_none()) {
                finish = self.on(now, Event::Signal(received.signal)).or(finish);
            }
        }
        if self.supervisor.stop_asked() {
            self.give_up_waiting();
        }
        finish
    }

    /// Somebody wants the app gone, or it is: whether it comes up, and who took its port, is of no interest any more.
    fn give_up_waiting(&mut self) {
        self.race = None;
        self.readiness.give_up();
        // The child that asks is killed and still to be reaped; until then it is a child of ours that is none of the app's.
        let asks = self.prober.as_mut().and_then(Prober::cancel);
        self.tree.leave_out(asks);
        let asks = self.liveness.as_mut().and_then(Liveness::cancel);
        self.tree.leave_out(asks);
    }

    /// The port cannot be lost any more once the app listens, and a later end has another reason. Every socket that closes on the
    /// machine costs the kernel more while we subscribe to it.
    fn end_race(&mut self, now: Instant) {
        let over = |race: &Race| race.ends_at() <= now || self.readiness.serves();
        if self.end.is_none() && self.race.as_ref().is_some_and(over) {
            self.race = None;
            self.readiness.no_contest();
        }
    }

    /// Reaps all that has ended.
    fn reap(&mut self, now: Instant, ending: &mut Ending) -> Option<Code> {
        let mut app_ended = None;
        let mut others_ended = false;
        let mut finish = None;
        let none_left = loop {
            match process::reap() {
                Reaped::Ended(pid, end) if pid == self.tree.app && self.end.is_none() => app_ended = Some(end),
                Reaped::Ended(pid, end) => {
                    others_ended = true;
                    self.tree.reaped(pid);
                    let app = self.tree.app;
                    if let Some(alive) = self.liveness.as_mut().and_then(|liveness| liveness.ended(pid, end, app)) {
                        finish = self.judge_liveness(now, alive).or(finish);
                        continue;
                    }
                    match self.prober.as_mut().and_then(|prober| prober.ended(pid, end)) {
                        Some(healthy) => finish = self.learn(now, Fact::Answered { healthy }).or(finish),
                        // The words are tini's: who greps for them finds them here.
                        None => debug!("Reaped zombie process with pid={pid}"),
                    }
                }
                Reaped::Stopped(pid, by) if pid == self.tree.app => self.stopped(now, by),
                Reaped::Stopped(..) => {}
                Reaped::Nothing => break false,
                Reaped::NoChildren => break true,
            }
        };
        if let Some(how) = app_ended {
            self.end = Some(Ended { how, at: now, unsure_until: None });
        }
        self.childless = none_left;
        let Some(end) = self.end else { return finish };
        if app_ended.is_some() || end.unsure_until.is_some() {
            return self.judge(now, end, ending).or(finish);
        }
        // Until the app ends, whoever else does is only reaped.
        if self.tree.is_gone(none_left) {
            return self.on(now, Event::LastChildGone);
        }
        if others_ended { self.on(now, Event::ChildGone) } else { finish }
    }

    /// The app has ended: whether it lost its port to somebody else.
    fn judge(&mut self, now: Instant, end: Ended, ending: &mut Ending) -> Option<Code> {
        // Its own child on its port is nobody else.
        let served = || self.readiness.serves() || self.sight.still_serves(&self.tree).is_some();
        let verdict = self.race.as_mut().map_or(Verdict::NotLost, |race| race.judge(now, end.how, end.at, served));
        if let Verdict::Unsure(until) = verdict {
            self.end = Some(Ended { unsure_until: Some(until), ..end });
            return None;
        }
        self.gone(now, end.how, verdict == Verdict::Lost, ending)
    }

    fn gone(&mut self, now: Instant, how: End, again: bool, ending: &mut Ending) -> Option<Code> {
        let at = self.end.map_or(now, |end| end.at);
        self.end = Some(Ended { how, at: now, unsure_until: None });
        ending.again = again;
        let stop_asked = self.supervisor.stop_asked();
        let served = self.readiness.serves();
        let unseen =
            self.readiness.unseen().map(|(port, launched)| Unseen { port, lived: at.duration_since(launched) });
        self.give_up_waiting();
        let leftovers = !self.tree.is_gone(self.childless);
        if leftovers && !again && !stop_asked {
            self.say_left_behind(how, served);
        }
        self.on(now, Event::AppEnded { end: how, leftovers, again, unseen })
    }

    /// A container lives as long as the program it was started with; one that hands its work to another and ends, ends it all.
    fn say_left_behind(&self, how: End, served: bool) {
        let Some(primary) = self.readiness.primary() else { return };
        let (app, port) = (self.tree.app, primary.port);
        match (self.sight.still_serves(&self.tree), how) {
            (Some((pid, command)), End::Code(0)) => warn!(
                "the app (pid {app}) put itself into the background and exited: its process {pid} ({command}) was serving port {port} and is ended now, as all is when the app ends; {FOREGROUND}, and upgrade it by a new container"
            ),
            (Some((pid, command)), _) => {
                info!(
                    "process {pid} ({command}), left behind by the app, was still serving port {port}: it is ended now"
                );
            }
            (None, End::Code(0)) if !served => warn!(
                "the app (pid {app}) exited before it listened on port {port}, and left processes behind that are ended now; if it puts itself into the background, {FOREGROUND}"
            ),
            (None, _) => {}
        }
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

    fn keep_deadlines(&mut self, now: Instant, ending: &mut Ending) -> Option<Code> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Some(end) = self.end.filter(|end| due(end.unsure_until)) {
            return self.judge(now, end, ending);
        }
        if due(self.readiness.next()) {
            let finish = self.learn(now, Fact::Due);
            if self.readiness.is_patient(now) {
                memory::release_code();
            }
            return finish;
        }
        if due(self.supervisor.deadline()) {
            return self.on(now, Event::Due);
        }
        if due(self.settle_at) && self.readiness.next().is_none() {
            self.settle_at = None;
            memory::release_code();
        }
        None
    }

    /// Lets the machine of readiness decide, and does what it says.
    fn learn(&mut self, now: Instant, fact: Fact) -> Option<Code> {
        let mut finish = None;
        let mut todo: VecDeque<Do> = self.readiness.on(now, fact).into();
        while let Some(next) = todo.pop_front() {
            match next {
                Do::Look => {
                    if let Some(race) = &mut self.race {
                        race.narrow();
                    }
                    let view = self.sight.look(now, &self.tree);
                    todo.extend(self.readiness.on(now, Fact::Seen(view)));
                }
                Do::Ask => {
                    if let Some(prober) = &mut self.prober {
                        prober.probe(&self.state);
                    }
                }
                Do::Listens(places) => {
                    let Some(primary) = self.readiness.primary() else { continue };
                    self.state.listens_at(primary, &places);
                    // One write tells both, where both come at once.
                    if !todo.contains(&Do::Ready) {
                        self.publish(self.state.phase);
                    }
                }
                Do::Info(line) => info!("{line}"),
                Do::Warn(line) => warn!("{line}"),
                Do::Ready if self.supervisor.is_running() => self.publish(Phase::Ready),
                Do::Ready => {}
                Do::NotInTime => finish = self.not_in_time(now).or(finish),
            }
        }
        finish
    }

    /// `--start-timeout` is over.
    fn not_in_time(&mut self, now: Instant) -> Option<Code> {
        let app = self.tree.app;
        warn!(
            "the app (pid {app}) is not ready {:?} after its launch (--start-timeout): stopping it",
            self.readiness.limit()
        );
        if !self.readiness.serves()
            && let Some(line) = self.sight.why_not(&self.tree)
        {
            warn!("{line}");
        }
        if let Some(prober) = &self.prober
            && let Some(answer) = prober.last_failure()
        {
            warn!("its health target {} answered last: {answer}", prober.target());
        }
        let finish = self.on(now, Event::GiveUp(Code::TIMEOUT));
        self.give_up_waiting();
        finish
    }

    /// Asks who is ready for its liveness, when it is time to.
    fn watch(&mut self, now: Instant) {
        if let Some(liveness) = &mut self.liveness {
            liveness.set_active(
                now,
                self.state.phase == Phase::Ready && self.supervisor.is_running() && self.end.is_none(),
            );
            liveness.probe_if_due(now, self.tree.app, &self.state);
        }
    }

    /// What the app has answered to the liveness question (`--exit-on-unhealthy`).
    fn judge_liveness(&mut self, now: Instant, alive: Alive) -> Option<Code> {
        let Some(liveness) = &self.liveness else { return None };
        let (reason, failures) = (liveness.last_failure(), liveness.limit());
        match alive {
            Alive::Yes => return None,
            Alive::Failing(failed) => {
                warn!(
                    "the app fails its liveness check ({failed} of {failures} in a row, --exit-on-unhealthy): {reason}"
                );
                return None;
            }
            Alive::No => {}
        }
        warn!(
            "the app (pid {}) is unhealthy, {failures} failures in a row (--exit-on-unhealthy): stopping it: {reason}",
            self.tree.app
        );
        let finish = self.on(now, Event::Unhealthy);
        self.give_up_waiting();
        finish
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

    /// Who is ready is announced, and nobody else.
    fn register(&mut self, now: Instant) {
        let started = self.beside.as_mut().map(|beside| beside.step(now, &self.state)).unwrap_or_default();
        started.into_iter().for_each(|pid| self.tree.leave_out(Some(pid)));
    }

    fn publish(&mut self, phase: Phase) {
        self.state.phase = phase;
        if let Some(line) = self.publisher.publish(&self.state) {
            warn!("{line}");
        }
        self.register(Instant::now());
    }
}
