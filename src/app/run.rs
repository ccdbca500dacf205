//! Owns `reberth run` as the list of its steps: claim, publish, launch, look after, and again if the port was lost. Must not know how
//! any of them is done.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::command::{self, Listen, Place};
use super::init::{Ending, Init};
use super::inquiry::{Ask, Inquiry};
use super::launch::{self, Activation, Environment, Launch};
use super::race::Race;
use super::readiness::{Expected, Readiness, Target, Way};
use super::sight::Sight;
use super::supervisor::{self, Alone, Policy, Supervisor};
use super::tree::Tree;
use crate::config::{Healthcheck, Run};
use crate::error::{Error, words};
use crate::exit::Code;
use crate::health;
use crate::health::target;
use crate::log;
use crate::port::claim::{self, Claim, Hear, Hold, Stop};
use crate::port::file;
use crate::port::range;
use crate::port::spec::{Protocol, Spec};
use crate::state::{Phase, PortState, Publisher, State};
use crate::sys::descriptor;
use crate::sys::exec::FIRST_PASSED;
use crate::sys::process::{self, Reaped};
use crate::sys::signal::{self, Signals};
use crate::sys::terminal::Terminal;

/// An app that has run this long is there to stay: what its start took may go.
const SETTLED: Duration = Duration::from_secs(1);

/// Claims the ports, launches the app and looks after it. Returns the code to exit with.
///
/// # Errors
/// Everything that keeps the app from being started; after the launch there are none.
pub fn run(config: &Run, environment: &Environment, signals: &Signals) -> Result<Code, Error> {
    let mut session = Session::begin(config, environment, signals)?;
    let result = session.live();
    // A state file without its writer would be a dead one to every probe; a clean end leaves none. With --exec the app inherits it.
    session.publisher.remove();
    result
}

/// What lasts longer than one launch.
struct Session<'a> {
    config: &'a Run,
    environment: &'a Environment,
    signals: &'a Signals,
    activation: Activation,
    publisher: Publisher,
    port_file: Option<PathBuf>,
    /// Where reberth was started: where the app starts, the second time as well.
    directory: PathBuf,
    launches: u32,
}

impl<'a> Session<'a> {
    fn begin(config: &'a Run, environment: &'a Environment, signals: &'a Signals) -> Result<Self, Error> {
        if process::pid() != 1 && !config.exec && process::become_subreaper().is_err() {
            warn!("this kernel has no subreaper: orphans of the app are left to PID 1");
        }
        if let Some(signal) = config.parent_death_signal {
            process::set_parent_death_signal(signal).map_err(|error| {
                Error::cannot(format!("--parent-death-signal {}: {}", signal::name(signal), words(&error)))
            })?;
        }
        let port_file = config.port_file.as_deref().map(file::check).transpose()?;
        let phase = if config.ports.is_empty() { Phase::Starting } else { Phase::Waiting };
        let publisher = Publisher::open(config.state_dir.as_deref(), &state(config, phase, &[]))?;
        Ok(Self {
            config,
            environment,
            signals,
            activation: activation(environment),
            publisher,
            port_file,
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            launches: 0,
        })
    }

    /// Launches, and launches again as long as the app loses its port to somebody else.
    fn live(&mut self) -> Result<Code, Error> {
        loop {
            let claims = match self.claim()? {
                ControlFlow::Continue(claims) => claims,
                ControlFlow::Break(code) => return Ok(code),
            };
            if self.config.exec {
                return Err(self.replace(claims));
            }
            let ending = self.launch(claims)?;
            if !ending.again {
                return Ok(ending.code);
            }
            warn!(
                "the app lost its port to somebody else before it listened: waiting for it and launching again ({} of {}, --relaunch)",
                self.launches, self.config.relaunch
            );
        }
    }

    fn claim(&mut self) -> Result<ControlFlow<Code, Vec<Claim>>, Error> {
        let config = self.config;
        if config.ports.is_empty() {
            return Ok(ControlFlow::Continue(Vec::new()));
        }
        if self.launches > 0 {
            self.publish(Phase::Waiting, &[]);
        }
        let policy = claim::Policy {
            wait: config.wait,
            fallback: config.fallback,
            backoff: config.backoff,
            hold: if config.handover { Hold::Listen } else { Hold::Probe },
        };
        let mut waiting = Waiting { signals: self.signals, config, publisher: &mut self.publisher };
        match claim::claim(&config.ports, &policy, &mut waiting) {
            Ok(claims) => Ok(ControlFlow::Continue(claims)),
            Err(Stop::Ended(code)) => Ok(ControlFlow::Break(code)),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    /// Tells which ports were taken: in the file and the log. The environment, the arguments and the state follow.
    fn announce(&mut self, claims: &[Claim]) -> Result<(), Error> {
        if let Some(path) = &self.port_file {
            let lines = claims.iter().map(|claim| (claim.spec.name.as_deref(), claim.port));
            file::write(path, lines)?;
        }
        for claim in claims {
            let name = claim.spec.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
            info!(
                "port {}{}{name} claimed",
                claim.port,
                match claim.spec.protocol {
                    Protocol::Tcp => "",
                    Protocol::Udp => "/udp",
                }
            );
            if claim.spec.port == claim.port && range::may_be_taken(claim.port) {
                warn!(
                    "port {0} lies in net.ipv4.ip_local_port_range, so any outgoing connection may take it while the app does not run: \
                     take a port outside, or set sysctl net.ipv4.ip_local_reserved_ports={0}",
                    claim.port
                );
            }
        }
        Ok(())
    }

    fn publish(&mut self, phase: Phase, claims: &[Claim]) {
        if let Some(line) = self.publisher.publish(&state(self.config, phase, claims)) {
            warn!("{line}");
        }
    }

    /// The app's arguments and environment for these claims.
    fn dress(&self, claims: &[Claim]) -> (Vec<std::ffi::OsString>, Environment, bool) {
        let first = FIRST_PASSED + i32::try_from(self.activation.names.len()).unwrap_or(0);
        let places: Vec<Place> = claims
            .iter()
            .zip(first..)
            .map(|(claim, fd)| Place {
                name: claim.spec.name.clone(),
                addr: claim.spec.addr,
                port: claim.port,
                fd: self.config.handover.then_some(fd),
            })
            .collect();
        let passes = self.config.handover && !claims.is_empty();
        let listen = passes.then(|| {
            let asked =
                claims.iter().map(|claim| claim.spec.name.clone().unwrap_or_else(|| claim.spec.port.to_string()));
            Listen { names: self.activation.names.iter().cloned().chain(asked).collect() }
        });
        let mut environment = command::environment(self.environment, &places, listen.as_ref()).entries;
        let patch_pid = passes || !self.activation.names.is_empty();
        // It says the same as LISTEN_PID in another way (sd_listen_fds(3)), and would be reberth's own.
        environment.retain(|(name, _)| !(patch_pid && name == "LISTEN_PIDFDID"));
        (command::expand(&self.config.command, &places), environment, patch_pid)
    }

    /// The descriptors the app gets at 3, 4, …: what a service manager passed to us, then our own.
    fn descriptors(&self, claims: &[Claim]) -> Vec<i32> {
        if !self.config.handover || claims.is_empty() {
            return Vec::new();
        }
        self.activation.descriptors().chain(claims.iter().map(|claim| claim.socket.as_raw_fd())).collect()
    }

    /// `--exec`: returns only if it failed.
    fn replace(&mut self, claims: Vec<Claim>) -> Error {
        if let Err(error) = self.announce(&claims) {
            return error;
        }
        self.publish(Phase::Exec, &claims);
        let (words, environment, patch_pid) = self.dress(&claims);
        let descriptors = self.descriptors(&claims);
        let kept = self.config.handover.then_some(claims);
        let error = launch::replace(&Launch {
            command: &words,
            environment: &environment,
            inherited: self.signals.inherited(),
            descriptors: &descriptors,
            patch_pid,
            directory: None,
        });
        drop(kept);
        error
    }

    fn launch(&mut self, claims: Vec<Claim>) -> Result<Ending, Error> {
        self.announce(&claims)?;
        let (words, environment, patch_pid) = self.dress(&claims);
        let descriptors = self.descriptors(&claims);
        let taken: Vec<Spec> = claims.iter().map(|claim| claim.spec.with_port(claim.port)).collect();
        let state = state(self.config, Phase::Starting, &claims);
        let cookies = claims.iter().map(|claim| claim.cookie).collect();
        let inode = claims
            .iter()
            .find(|claim| claim.spec.protocol == Protocol::Tcp)
            .and_then(|claim| descriptor::inode(&claim.socket));
        let sockets =
            self.activation.descriptors().chain(descriptors.iter().copied()).filter_map(descriptor::inode_at).collect();
        // An app that binds by itself must find the port free; one that is handed the socket must never find it closed.
        let kept = self.config.handover.then_some(claims);
        let now = Instant::now();
        // Activation sockets are the app's once it is launched; a second launch would come without them.
        let again = self.launches < self.config.relaunch && self.activation.names.is_empty();
        let may_relaunch = again && !self.config.handover && !taken.is_empty();
        let race = may_relaunch.then(|| Race::begin(taken.clone(), cookies, now));
        // Those of PID 1 end with it anyway, and until then are waited for like all others.
        let strangers = if process::pid() == 1 { Vec::new() } else { process::inherited_children() };
        let terminal = Terminal::controlling();
        let given = terminal.filter(Terminal::is_for_the_app);
        let directory = (self.launches > 0).then_some(self.directory.as_path());
        let app = launch::start(
            &Launch {
                command: &words,
                environment: &environment,
                inherited: self.signals.inherited(),
                descriptors: &descriptors,
                patch_pid,
                directory,
            },
            given,
        )?;
        drop(kept);
        debug!("launched {} as pid {}", words.first().map_or("".into(), |word| word.to_string_lossy()), app.pid());
        self.launches += 1;
        let mut ours = vec![self.signals.as_fd()];
        ours.extend(race.as_ref().and_then(Race::events));
        ours.extend(self.publisher.descriptor());
        ours.extend(log::descriptors());
        leave_no_trace(&ours);
        let ending = self.supervise(
            &app,
            (terminal, given.is_some()),
            (strangers, sockets),
            (taken, inode.filter(|_| self.config.handover)),
            state,
            race,
        );
        app.late_failure().map_or(Ok(ending), Err)
    }

    fn supervise(
        &mut self,
        app: &launch::App,
        (terminal, wants_terminal): (Option<Terminal>, bool),
        (strangers, sockets): (Vec<i32>, Vec<u64>),
        (taken, inode): (Vec<Spec>, Option<u64>),
        mut state: State,
        race: Option<Race>,
    ) -> Ending {
        let config = self.config;
        let launched = app.launched();
        state.app_pid = Some(app.pid());
        let inquiry = config.health.clone().zip(config.question.clone());
        let inquiry = inquiry.map(|(target, terms)| Inquiry::new(target, ask(terms)));
        let expected = Expected {
            ports: taken,
            way: if config.handover { Way::Given { inode } } else { Way::Binds },
            target: config
                .health
                .as_ref()
                .map(|asked| Target { on_port: asked.needs_port(), connects: *asked == target::Target::Tcp }),
            contested: race.is_some(),
            limit: config.start_timeout,
        };
        let readiness = Readiness::begin(expected, launched);
        if readiness.is_up() {
            state.phase = Phase::Ready;
        }
        if let Some(line) = self.publisher.publish(&state) {
            warn!("{line}");
        }
        let policy = Policy {
            pid1: process::pid() == 1,
            has_terminal: terminal.is_some(),
            signal_map: config.signal_map.clone(),
            exit_map: config.exit_map.clone(),
            drain: config.drain,
            grace: config.grace,
        };
        Init {
            tree: Tree::new(app.pid(), strangers),
            scope: config.signal_scope,
            signals: self.signals,
            publisher: &mut self.publisher,
            state,
            terminal,
            wants_terminal,
            supervisor: Supervisor::new(policy),
            sight: Sight::new(readiness.primary().cloned(), inode, sockets, launched),
            readiness,
            inquiry,
            race,
            settle_at: Some(launched + SETTLED),
            end: None,
            childless: false,
        }
        .run()
    }
}

/// The sockets that a service manager has passed to us. A number that was not open at our start may be a file of our own by now.
fn activation(environment: &Environment) -> Activation {
    let told = Activation::inherited(environment, process::pid());
    if told.descriptors().all(descriptor::is_inherited) {
        return told;
    }
    warn!("LISTEN_FDS={}: not all of these descriptors are open, so none of them is passed on", told.names.len());
    Activation::default()
}

/// Lets go of what was inherited, working directory and descriptors, so that reberth pins no mount, file or pipe.
fn leave_no_trace(ours: &[BorrowedFd<'_>]) {
    let _ = std::env::set_current_dir("/");
    descriptor::close_inherited(ours);
}

fn state(config: &Run, phase: Phase, claims: &[Claim]) -> State {
    let ports = if claims.is_empty() {
        // A port is known before it is claimed, unless any free one will do.
        config.ports.iter().map(|spec| PortState::new(spec, spec.port)).collect()
    } else {
        claims.iter().map(|claim| PortState::new(&claim.spec, claim.port)).collect()
    };
    State {
        phase,
        ports,
        health: config.health.as_ref().map(ToString::to_string),
        liveness: config.liveness.as_ref().map(ToString::to_string),
        app_pid: None,
    }
}

/// How readiness is asked from here: of an app that is there to be asked.
fn ask(terms: Box<Healthcheck>) -> Ask {
    Box::new(move |state| health::ask_once(&terms, State { phase: Phase::Ready, ..state.clone() }))
}

/// The wait for the port as the signals hear it: no app is there yet to forward them to.
struct Waiting<'a> {
    signals: &'a Signals,
    config: &'a Run,
    publisher: &'a mut Publisher,
}

impl Hear for Waiting<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// Only who really waits says so: on a free port the first state to be seen is that of the launched app.
    fn wait_started(&mut self, _: &Spec) {
        if let Some(line) = self.publisher.publish(&state(self.config, Phase::Waiting, &[])) {
            warn!("{line}");
        }
    }

    fn heard(&mut self) -> ControlFlow<Stop> {
        while let Some(received) = self.signals.next() {
            // A write of ours to a closed pipe sends us SIGPIPE, and one past a size limit SIGXFSZ.
            let own = i32::try_from(received.sender) == Ok(process::pid());
            // PID 1 inherits orphans from the first moment on.
            if received.signal == libc::SIGCHLD {
                while matches!(process::reap(), Reaped::Ended(..) | Reaped::Stopped(..)) {}
            }
            let meaning = if self.config.parent_death_signal == Some(received.signal) {
                Alone::Ends(received.signal)
            } else {
                supervisor::alone(&self.config.signal_map, received.signal, |signal| self.signals.was_ignored(signal))
            };
            let name = signal::name(received.signal);
            match meaning {
                Alone::Ends(by) if !own => {
                    let mapped =
                        if by == received.signal { String::new() } else { format!(" as {}", signal::name(by)) };
                    info!("{name}{mapped} received while waiting for the port: the app is not started");
                    return ControlFlow::Break(Stop::Ended(Code::signalled(by)));
                }
                Alone::Suspends if process::pid() != 1 => signal::suspend(),
                _ => debug!("{name} ignored: there is no app yet"),
            }
        }
        ControlFlow::Continue(())
    }
}
