//! Owns the check of the supervisor's state machine: runs it against a small simulated world and checks when it kills and how it ends.
//! Must not know how an action is carried out.

use std::time::{Duration, Instant};

use crate::app::exit_map::ExitMap;
use crate::app::signal::SignalMap;
use crate::app::supervisor::{Action, Event, StopPolicy, Supervisor, Surroundings, requests_stop};
use crate::exit::Code;
use crate::sys::process::End;

/// What the machine acts on: an app, its other children, the time.
struct World {
    machine: Supervisor,
    policy: StopPolicy,
    surroundings: Surroundings,
    now: Instant,
    app_runs: bool,
    /// Children other than the app.
    children: u8,
    /// When the first request to stop was forwarded, or the app exited.
    grace_began: Option<Instant>,
    app_killed: bool,
    late: bool,
    own: Option<Code>,
    finished: Option<Code>,
}

/// Two bytes of policy, then two bytes per event.
pub fn supervisor(data: &[u8]) {
    let Some(([first, second], script)) = data.split_first_chunk() else { return };
    let mut world = World::new(*first, *second);
    for event in script.as_chunks::<2>().0 {
        if world.finished.is_some() {
            break;
        }
        world.play(*event);
    }
    world.end();
}

impl World {
    fn new(first: u8, second: u8) -> Self {
        let seconds = |bits: u8| Duration::from_secs(u64::from(bits & 3));
        let signal_map = match second & 3 {
            0 | 1 => SignalMap::default(),
            2 => SignalMap(vec![(libc::SIGTERM, Some(libc::SIGQUIT)), (libc::SIGHUP, None)]),
            _ => SignalMap(vec![(libc::SIGTERM, None), (libc::SIGHUP, Some(libc::SIGTERM))]),
        };
        let policy = StopPolicy {
            signal_map,
            exit_map: ExitMap(if second & 4 == 0 { Vec::new() } else { vec![(143, 0), (0, 3)] }),
            drain: seconds(first >> 2),
            grace: seconds(first >> 4),
        };
        let surroundings = Surroundings { pid1: first & 1 != 0, has_terminal: first & 2 != 0 };
        Self {
            machine: Supervisor::new(policy.clone(), surroundings),
            policy,
            surroundings,
            now: Instant::now(),
            app_runs: true,
            children: second >> 6,
            grace_began: None,
            app_killed: false,
            late: false,
            own: None,
            finished: None,
        }
    }

    fn play(&mut self, [kind, value]: [u8; 2]) {
        match kind % 8 {
            0 | 1 => self.pass(Duration::from_millis(u64::from(value) * 20)),
            2 => self.handle(Event::Signal(i32::from(value % 31) + 1)),
            3 => self.handle(Event::Signal(libc::SIGTERM)),
            4 if self.app_runs => {
                self.handle(Event::AppSuspended { by: i32::from(value % 31) + 1, in_foreground: value & 1 != 0 })
            }
            5 if self.app_runs => {
                let end = if value & 1 == 0 { End::Code(value) } else { End::Signal(i32::from(value % 31) + 1) };
                self.app_ends(end, value & 2 != 0);
            }
            6 => self.child_ends(),
            7 if self.app_runs && !self.late && self.machine.is_undisturbed() => {
                self.late = true;
                self.handle(Event::GiveUp(Code::TIMEOUT));
            }
            _ => self.children = self.children.saturating_add(1),
        }
    }

    /// Advances the time, with an event at each deadline on the way.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.machine.deadline().filter(|due| *due <= until && self.finished.is_none()) {
            self.now = self.now.max(due);
            let before = self.machine.clone();
            self.handle(Event::Due);
            assert!(
                self.finished.is_some() || self.machine.deadline() != before.deadline(),
                "due for ever: {before:?}"
            );
        }
        self.now = until;
    }

    fn app_ends(&mut self, end: End, again: bool) {
        self.app_runs = false;
        self.own = Some(match end {
            End::Code(code) => Code(code),
            End::Signal(signal) => Code::signalled(signal),
        });
        self.handle(Event::AppEnded { end, leftovers: self.children > 0, again, never_listened: None });
    }

    fn child_ends(&mut self) {
        let Some(left) = self.children.checked_sub(1) else { return };
        self.children = left;
        // The app is a child too, so while it runs no other child is the last one.
        self.handle(if left == 0 && !self.app_runs { Event::LastChildGone } else { Event::ChildGone });
    }

    fn handle(&mut self, event: Event) {
        if self.finished.is_some() {
            return;
        }
        let ended = matches!(event, Event::AppEnded { .. });
        if ended {
            self.grace_began = self.grace_began.or(Some(self.now));
        }
        for action in self.machine.on(self.now, event) {
            assert!(self.finished.is_none(), "{action:?} after the end");
            match action {
                Action::Forward(signal) => {
                    assert!(self.app_runs, "{signal} forwarded to nobody");
                    if self.machine.stop_requested() && requests_stop(signal) {
                        self.grace_began = self.grace_began.or(Some(self.now));
                    }
                }
                Action::Continue => assert!(self.app_runs, "continued when gone"),
                Action::KillApp => {
                    assert!(self.app_runs && !self.app_killed, "killed twice, or killed when gone");
                    self.grace_is_over();
                    self.app_killed = true;
                }
                Action::SignalTree(libc::SIGKILL) => {
                    assert!(!self.app_runs);
                    self.grace_is_over();
                }
                Action::SignalTree(_) => assert!(!self.app_runs),
                Action::Suspend => assert!(!self.surroundings.pid1, "PID 1 suspends itself"),
                Action::Publish(_) => {}
                Action::Finish(code) => self.finished = Some(code),
            }
        }
        if self.app_runs && self.grace_began.is_some() && !self.policy.grace.is_zero() && !self.app_killed {
            assert!(self.machine.deadline().is_some(), "an app that was asked to stop is never killed");
        }
    }

    fn grace_is_over(&self) {
        let began = self.grace_began.expect("KILL before anybody was asked to stop");
        assert!(!self.policy.grace.is_zero(), "KILL with a grace of 0s");
        assert!(self.now >= began + self.policy.grace, "KILL before the grace is over");
    }

    /// Whatever happened before, a request to stop leads to the end, with the right exit code.
    fn end(mut self) {
        self.handle(Event::Signal(libc::SIGINT));
        self.handle(Event::Signal(libc::SIGINT));
        for _ in 0..16 {
            self.pass(Duration::from_secs(4));
            if self.finished.is_some() {
                break;
            }
            match (self.app_runs, self.app_killed, self.policy.grace.is_zero()) {
                (true, true, _) => self.app_ends(End::Signal(libc::SIGKILL), false),
                (true, false, true) => self.app_ends(End::Code(7), false),
                (true, false, false) => {}
                // Without a grace period, children may take any time.
                (false, _, true) => self.child_ends(),
                (false, ..) => {}
            }
            // There may be more children than rounds: reduce them without events.
            self.children = self.children.min(2);
        }
        let code = self.finished.expect("it never ends");
        let own = self.own.expect("it ends before the app");
        let expected = if self.late { Code::TIMEOUT } else { Code(self.policy.exit_map.apply(own.0)) };
        assert_eq!(code, expected);
    }
}
