//! Owns the steps of `reberth run`: wait, claim, publish, launch, look after, and again if the port was lost. Must not know how a step is
//! done.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
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
use super::launch::{self, Launch, NotLaunched};
use super::look_after::{Launched, expected, look_after};
use super::ports::{Claimant, Ports};
use super::prewarm::Prewarm;
use super::readiness::binds::Binds;
use super::readiness::fact::Evidence;
use super::readiness::lost_port::LostPort;
use super::settings::Run;
use super::sharing::{self, Sharing};
use crate::error::{Error, words};
use crate::exit::Code;
use crate::log;
use crate::port::claim::Stop;
use crate::port::file;
use crate::port::spec::Spec;
use crate::register::workers::Workers;
use crate::share::Group;
use crate::state::{Phase, Publisher};
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
enum Outcome {
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
        match self.after() {
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
                Outcome::Ended(ending) => ending,
                // The ports are released again, and claimed as for any other handover.
                Outcome::CannotIntercept => continue,
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
    fn after(&mut self) -> Result<(), Stop> {
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

    /// Announces the claimed ports, unless they were announced before.
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
    fn launch(&mut self, ports: Ports) -> Result<Outcome, Error> {
        let handover = self.handover();
        let invocation = self.invocation(&ports);
        let (mut claims, claiming) = match ports {
            Ports::Claimed(claims) => (claims, None),
            Ports::Awaited(claiming) => (Vec::new(), Some(claiming)),
        };
        // Share before the launch: another instance can then have the socket without waiting for the app to start.
        let group = self.group.clone().filter(|_| handover.gives_sockets());
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
        let state = state(self.config, phase, &taken);
        let mut expected = expected(self.config, &taken, handover.evidence(&claims));
        let passed = self.activation.descriptors().chain(invocation.descriptors.iter().copied());
        let passed = passed.filter_map(descriptor::inode_at).collect();
        let cookies = claims.iter().map(|claim| claim.cookie).collect();
        // An app that binds for itself must find the port free; an app that is given the socket must never find it closed.
        let kept = handover.gives_sockets().then_some(claims);
        let lost_port = (!taken.is_empty()).then(|| self.watch_ports(&expected.ports, cookies)).flatten();
        // Under PID 1 these processes are killed when reberth exits anyway. Until then they are waited for like all others.
        let unrelated = if process::pid() == 1 { Vec::new() } else { process::inherited_children() };
        let terminal = Terminal::controlling();
        let given = terminal.filter(Terminal::is_for_the_app);
        let launch = Launch {
            invocation: &invocation,
            inherited: self.signals.inherited(),
            directory: (self.launches > 0).then_some(self.directory.as_path()),
            intercept_binds: handover.intercepts_binds(),
        };
        let mut app = match launch::start(&launch, given) {
            Ok(app) => app,
            Err(NotLaunched::Failed(error)) => return Err(error),
            Err(NotLaunched::CannotIntercept(why)) => {
                self.cannot_intercept = true;
                warn!("{}", advice::cannot_intercept(&why));
                return Ok(Outcome::CannotIntercept);
            }
        };
        let word = invocation.words.first().map_or("".into(), |word| word.to_string_lossy());
        debug!("launched {word} as pid {}", app.pid());
        self.launches += 1;
        let held = kept.filter(|_| claiming.is_none());
        let specs = self.config.ports.clone();
        let binds = app.take_calls().map(|calls| Binds::begin(calls, specs, held, group.is_some()));
        if binds.as_ref().is_some_and(Binds::is_released) {
            expected.evidence = Evidence::Listener;
        }
        // These own descriptors that cannot all be listed here.
        let many = binds.is_some() || sharing.is_some();
        release_inherited((!many).then(|| self.descriptors(lost_port.as_ref())).as_deref());
        let port_file = self.port_file.as_deref();
        let launched = Launched {
            app: &app,
            terminal,
            in_foreground: given.is_some(),
            unrelated,
            passed,
            expected,
            state,
            lost_port,
            binds,
            prewarm: claiming.map(|claiming| Prewarm::new(*claiming, group, port_file)),
            sharing,
        };
        let ending = look_after(self.config, launched, self.signals, &mut self.publisher, self.workers.as_mut());
        app.late_failure().map_or(Ok(Outcome::Ended(ending)), Err)
    }

    /// Watches for the loss of the ports, if a lost port would lead to another launch.
    fn watch_ports(&self, ports: &[Spec], cookies: Vec<u64>) -> Option<LostPort> {
        // Activation sockets go to the app at the first launch; a second launch could not pass them.
        let again = self.launches < self.config.relaunch && self.activation.names.is_empty();
        let watch = again && !self.handover().gives_sockets();
        watch.then(|| LostPort::watch(ports.to_vec(), cookies, Instant::now()))
    }

    /// All descriptors that reberth has open, provided that it holds no socket for the app.
    fn descriptors<'b>(&'b self, lost_port: Option<&'b LostPort>) -> Vec<BorrowedFd<'b>> {
        let mut ours = vec![self.signals.as_fd()];
        ours.extend(lost_port.and_then(LostPort::events));
        ours.extend(self.publisher.descriptor());
        ours.extend(log::descriptors());
        ours.extend(self.workers.iter().flat_map(Workers::descriptors));
        ours
    }
}

/// Releases the inherited working directory and descriptors, so that reberth keeps no mount, file or pipe in use.
///
/// `ours` lists the descriptors to keep; `None`: they cannot be listed.
fn release_inherited(ours: Option<&[BorrowedFd<'_>]>) {
    let _ = std::env::set_current_dir("/");
    descriptor::close_inherited(ours);
}
