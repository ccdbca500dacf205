//! Owns the steps of `reberth run`: wait, claim, publish, launch, look after, and again if the port was lost. Must not know how a step is
//! done.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::{debug, warn};

use super::activation::Activation;
use super::advice;
use super::after;
use super::announce::{Taken, announce, publish, state};
use super::early_signals::EarlySignals;
use super::environment::Environment;
use super::handover::Handover;
use super::init::Ending;
use super::invocation::{Invocation, LaunchPort};
use super::launch::{self, App, Launch, NotLaunched};
use super::look_after::{Launched, expected, look_after};
use super::ports::{Claimant, Ports};
use super::prewarm::Prewarm;
use super::readiness::binds::Binds;
use super::readiness::fact::{Evidence, Expected};
use super::readiness::lost_port::LostPort;
use super::settings::Run;
use super::sharing::{self, Sharing};
use crate::error::{Error, words};
use crate::exit::Code;
use crate::log;
use crate::port::claim::{Claim, Stop};
use crate::port::claiming::Claiming;
use crate::port::file;
use crate::port::spec::Spec;
use crate::register::workers::Workers;
use crate::share::Group;
use crate::state::{Phase, Publisher, State};
use crate::sys::descriptor;
use crate::sys::process;
use crate::sys::signal::{self, Signals};
use crate::sys::terminal::Terminal;

/// Claims the ports, launches the app and looks after it. Returns the code to exit with.
///
/// # Errors
/// Whatever prevents the launch of the app. After the launch there are no errors.
#[inline(never)]
pub fn run(config: &Run, environment: &Environment, signals: &Signals) -> Result<Code, Error> {
    let mut session = Session::begin(config, environment, signals)?;
    let result = session.run();
    if let Some(workers) = session.workers.take() {
        workers.farewell(signals);
    }
    // A state file without a writer makes every probe report a dead reberth, so a normal exit leaves none. With --exec the app inherits it.
    session.publisher.remove();
    result
}

/// What outlives a single launch.
struct Session<'a> {
    config: &'a Run,
    environment: &'a Environment,
    signals: &'a Signals,
    activation: Activation,
    publisher: Publisher,
    port_file: Option<PathBuf>,
    /// Where reberth was started. The app starts there too, at every launch.
    directory: PathBuf,
    launches: u32,
    /// A launch has shown that the app's binds cannot be intercepted here.
    cannot_intercept: bool,
    /// The group whose instances share the ports.
    group: Option<Group>,
    /// The processes that register the app.
    workers: Option<Workers>,
    /// The ports announced last.
    announced: Option<Vec<Taken>>,
}

/// How a launch ended.
enum LaunchOutcome {
    Ended(Ending),
    /// Nothing was launched: the app's binds cannot be intercepted here.
    CannotIntercept,
}

impl<'a> Session<'a> {
    fn begin(config: &'a Run, environment: &'a Environment, signals: &'a Signals) -> Result<Self, Error> {
        if process::pid() != 1 && !config.exec && process::become_subreaper().is_err() {
            warn!("this kernel has no subreaper: orphans of the app are left to PID 1");
        }
        if let Some(signal) = config.parent_death_signal {
            signal::set_parent_death_signal(signal).map_err(|error| {
                Error::cannot(format!("--parent-death-signal {}: {}", signal::name(signal), words(&error)))
            })?;
        }
        let port_file = config.port_file.as_deref().map(file::check).transpose()?;
        let waits = !config.ports.is_empty() || !config.after.is_empty();
        let phase = if waits { Phase::Waiting } else { Phase::Starting };
        let publisher = Publisher::open(config.state_dir.as_deref(), &state(config, phase, &[]))?;
        let datagrams = config.handover.passes_descriptors();
        Ok(Self {
            config,
            environment,
            signals,
            activation: Activation::open(environment),
            publisher,
            port_file,
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            launches: 0,
            cannot_intercept: false,
            group: config.share.as_ref().map(|share| sharing::group(share, datagrams)).transpose()?,
            workers: config.register.as_deref().map(Workers::new),
            announced: None,
        })
    }

    /// Launches the app, and again each time it loses its port to another process.
    fn run(&mut self) -> Result<Code, Error> {
        // A signal that ended the wait is a `Stop` like an error, but the code is the result.
        match self.wait_for_after() {
            Ok(()) => {}
            Err(Stop::Ended(code)) => return Ok(code),
            Err(Stop::Error(error)) => return Err(error),
        }
        loop {
            let ports = match self.claim()? {
                ControlFlow::Continue(ports) => ports,
                ControlFlow::Break(code) => return Ok(code),
            };
            if self.config.exec {
                return Err(self.replace(ports));
            }
            let ending = match self.launch(ports)? {
                LaunchOutcome::Ended(ending) => ending,
                // The claim was dropped with this launch: the ports are claimed again, now as with `--handover off`.
                LaunchOutcome::CannotIntercept => continue,
            };
            if !ending.again {
                return Ok(ending.code);
            }
            warn!(
                "the app lost its port to another process before it listened: waiting for the port and launching again ({} of {}, --relaunch)",
                self.launches, self.config.relaunch
            );
        }
    }

    /// Waits for the targets of `--after`. No port is held during the wait.
    fn wait_for_after(&mut self) -> Result<(), Stop> {
        let config = self.config;
        let Some(terms) = config.terms.as_ref().filter(|_| !config.after.is_empty()) else { return Ok(()) };
        if let Some(error) = launch::precheck(&config.command, self.environment) {
            return Err(Stop::Error(error));
        }
        let state = state(config, Phase::Waiting, &[]);
        publish(&mut self.publisher, &state);
        let signals = EarlySignals { signals: self.signals, config, wait: "what --after names" };
        after::wait(config, terms, &state, &signals)
    }

    /// The configured handover, unless a launch has shown that it is impossible here.
    fn handover(&self) -> Handover {
        if self.cannot_intercept { Handover::Off } else { self.config.handover }
    }

    fn claim(&mut self) -> Result<ControlFlow<Code, Ports>, Error> {
        let (config, handover) = (self.config, self.handover());
        if config.ports.is_empty() {
            return Ok(ControlFlow::Continue(Ports::Claimed(Vec::new())));
        }
        let first = self.launches == 0;
        if !first {
            publish(&mut self.publisher, &state(config, Phase::Waiting, &[]));
        }
        let group = self.group.as_ref().filter(|_| handover.gives_sockets());
        let claimant = Claimant { config, handover, group };
        if config.prewarm && handover.intercepts_binds() {
            return claimant.try_once();
        }
        let precheck = || launch::precheck(&config.command, self.environment).filter(|_| first);
        let claims = claimant.wait(self.signals, &mut self.publisher, &precheck)?;
        Ok(claims.map_continue(Ports::Claimed))
    }

    /// Announces the claimed ports, unless the same were announced before the first launch. Each relaunch announces them again.
    fn announce(&mut self, taken: &[Taken]) -> Result<(), Error> {
        if self.announced.as_deref() != Some(taken) || self.launches > 0 {
            announce(self.port_file.as_deref(), taken)?;
            self.announced = Some(taken.to_vec());
        }
        Ok(())
    }

    fn invocation(&self, ports: &Ports) -> Invocation {
        let ports: Vec<LaunchPort> = match ports {
            Ports::Claimed(claims) => claims.iter().map(LaunchPort::claimed).collect(),
            Ports::Awaited(_) => self.config.ports.iter().map(LaunchPort::awaited).collect(),
        };
        Invocation::new(&self.config.command, self.environment, &self.activation, self.handover(), &ports)
    }

    /// `--exec`: replaces reberth with the app. Returns only on failure.
    fn replace(&mut self, ports: Ports) -> Error {
        let invocation = self.invocation(&ports);
        let Ports::Claimed(claims) = ports else { return Error::cannot("--exec cannot wait beside the app") };
        let taken = Taken::of(&claims);
        if let Err(error) = self.announce(&taken) {
            return error;
        }
        publish(&mut self.publisher, &state(self.config, Phase::Exec, &taken));
        // The invocation refers to these by number, so they stay open until the exec.
        let kept = self.handover().passes_descriptors().then_some(claims);
        let error = launch::replace(&Launch {
            invocation: &invocation,
            inherited: self.signals.inherited(),
            directory: None,
            intercept_binds: false,
        });
        drop(kept);
        error
    }

    /// Launches the app and looks after it.
    fn launch(&mut self, ports: Ports) -> Result<LaunchOutcome, Error> {
        let prepared = self.prepare(ports)?;
        let Some(mut app) = self.start(&prepared)? else { return Ok(LaunchOutcome::CannotIntercept) };
        let launched = prepared.pass_to(&mut app, &self.config.ports, self.port_file.as_deref());
        self.release_inherited(&launched);
        let ending = look_after(self.config, launched, self.signals, &mut self.publisher, self.workers.as_mut());
        app.late_failure().map_or(Ok(LaunchOutcome::Ended(ending)), Err)
    }

    /// Everything before the start of the app: its ports are shared, announced, and released if it binds for itself.
    fn prepare(&mut self, ports: Ports) -> Result<Prepared, Error> {
        let handover = self.handover();
        let invocation = self.invocation(&ports);
        let (mut claims, claiming) = match ports {
            Ports::Claimed(claims) => (claims, None),
            Ports::Awaited(claiming) => (Vec::new(), Some(claiming)),
        };
        let group = self.group.clone().filter(|_| handover.gives_sockets());
        // Share before the launch: another instance can then have the socket without waiting for the app to start. A port that cannot be
        // shared must not be announced either.
        let sharing = match group.clone().filter(|_| !claims.is_empty()) {
            Some(group) => Some(Sharing::begin(group, &mut claims).map_err(|error| sharing::cannot("shared", &error))?),
            None => None,
        };
        let taken = Taken::of(&claims);
        let phase = match &claiming {
            Some(_) => Phase::Waiting,
            None => {
                self.announce(&taken)?;
                Phase::Starting
            }
        };
        let expected = expected(self.config, &taken, handover.evidence(&claims));
        let passed = self.activation.descriptors().chain(invocation.descriptors.iter().copied());
        let passed = passed.filter_map(descriptor::inode_at).collect();
        let cookies = claims.iter().map(|claim| claim.cookie).collect();
        // Here the ports of an app that binds for itself are released, as late as possible: it must find them free. An app that is given
        // the sockets must never find them closed.
        let kept = (handover.gives_sockets() && claiming.is_none()).then_some(claims);
        let lost_port = (!taken.is_empty()).then(|| self.watch_ports(&expected.ports, cookies)).flatten();
        let terminal = Terminal::controlling();
        Ok(Prepared {
            handover,
            invocation,
            claiming,
            group,
            sharing,
            state: state(self.config, phase, &taken),
            expected,
            passed,
            kept,
            lost_port,
            // As PID 1, reberth waits for these like for all others, and they are killed when it exits.
            unrelated: if process::pid() == 1 { Vec::new() } else { process::inherited_children() },
            terminal,
            terminal_for_app: terminal.filter(Terminal::is_for_the_app),
        })
    }

    /// Starts the app; `None`: its binds cannot be intercepted here, so nothing was executed.
    fn start(&mut self, prepared: &Prepared) -> Result<Option<App>, Error> {
        let launch = Launch {
            invocation: &prepared.invocation,
            inherited: self.signals.inherited(),
            directory: (self.launches > 0).then_some(self.directory.as_path()),
            intercept_binds: prepared.handover.intercepts_binds(),
        };
        let app = match launch::start(&launch, prepared.terminal_for_app) {
            Ok(app) => app,
            Err(NotLaunched::Failed(error)) => return Err(error),
            Err(NotLaunched::CannotIntercept(why)) => {
                self.cannot_intercept = true;
                warn!("{}", advice::cannot_intercept(&why));
                return Ok(None);
            }
        };
        let word = prepared.invocation.words.first().map_or("".into(), |word| word.to_string_lossy());
        debug!("launched {word} as pid {}", app.pid());
        self.launches += 1;
        Ok(Some(app))
    }

    /// Watches for the loss of the ports, if a lost port would lead to another launch.
    fn watch_ports(&self, ports: &[Spec], cookies: Vec<u64>) -> Option<LostPort> {
        // Activation sockets go to the app at the first launch; a second launch could not pass them.
        let again = self.launches < self.config.relaunch && self.activation.names.is_empty();
        let watch = again && !self.handover().gives_sockets();
        watch.then(|| LostPort::watch(ports.to_vec(), cookies, Instant::now()))
    }

    /// Releases the inherited working directory and descriptors, so that reberth keeps no mount, file or pipe in use.
    fn release_inherited(&self, launched: &Launched<'_>) {
        let _ = std::env::set_current_dir("/");
        // While sockets are held for the app, descriptors of our own come and go, so each inherited one is closed by itself.
        let holds_sockets = launched.binds.is_some() || launched.sharing.is_some();
        let ours = (!holds_sockets).then(|| self.descriptors(launched.lost_port.as_ref()));
        descriptor::close_inherited(ours.as_deref());
    }

    /// All descriptors that reberth has open, provided that it holds no socket for the app. A new one must be added here: one call closes
    /// everything above the highest that is listed, our own included; only debug builds check that.
    fn descriptors<'b>(&'b self, lost_port: Option<&'b LostPort>) -> Vec<BorrowedFd<'b>> {
        let mut ours = vec![self.signals.as_fd()];
        ours.extend(lost_port.and_then(LostPort::events));
        ours.extend(self.publisher.descriptor());
        ours.extend(log::descriptors());
        ours.extend(self.workers.iter().flat_map(Workers::descriptors));
        ours
    }
}

/// What is ready before the app is started.
struct Prepared {
    handover: Handover,
    invocation: Invocation,
    /// The claim that continues beside the app.
    claiming: Option<Box<Claiming>>,
    /// The group whose instances share the ports.
    group: Option<Group>,
    sharing: Option<Sharing>,
    state: State,
    expected: Expected,
    /// The inodes of all sockets passed to the app, inherited ones included.
    passed: Vec<u64>,
    /// The sockets that the app is given; `None`: it binds for itself, or the ports are not claimed yet.
    kept: Option<Vec<Claim>>,
    lost_port: Option<LostPort>,
    /// Children of reberth that existed before the app.
    unrelated: Vec<i32>,
    terminal: Option<Terminal>,
    terminal_for_app: Option<Terminal>,
}

impl Prepared {
    /// Passes on what outlives the start to those that look after the app. Sockets that the app has inherited by now are closed here.
    fn pass_to<'a>(self, app: &'a mut App, ports: &[Spec], port_file: Option<&'a Path>) -> Launched<'a> {
        let (mut expected, group, kept) = (self.expected, self.group, self.kept);
        let binds = app.take_calls().map(|calls| Binds::begin(calls, ports.to_vec(), kept, group.is_some()));
        // The calls are let through after all, so no call shows that the app listens.
        if binds.as_ref().is_some_and(Binds::is_released) {
            expected.evidence = Evidence::Listener;
        }
        Launched {
            app,
            terminal: self.terminal,
            in_foreground: self.terminal_for_app.is_some(),
            unrelated: self.unrelated,
            passed: self.passed,
            expected,
            state: self.state,
            lost_port: self.lost_port,
            binds,
            prewarm: self.claiming.map(|claiming| Prewarm::new(*claiming, group, port_file)),
            sharing: self.sharing,
        }
    }
}
