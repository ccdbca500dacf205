//! Owns `reberth run` as the list of its steps: wait, claim, publish, launch, look after, and again if the port was lost. Must not know how
//! any of them is done.

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
use crate::register::beside::Beside;
use crate::share::Group;
use crate::state::{Phase, Publisher};
use crate::sys::descriptor;
use crate::sys::process;
use crate::sys::signal::{self, Signals};
use crate::sys::terminal::Terminal;

/// Claims the ports, launches the app and looks after it. Returns the code to exit with.
///
/// # Errors
/// Everything that keeps the app from being started; after the launch there are none.
#[inline(never)]
pub fn run(config: &Run, environment: &Environment, signals: &Signals) -> Result<Code, Error> {
    let mut session = Session::begin(config, environment, signals)?;
    let result = session.live();
    if let Some(beside) = session.beside.take() {
        beside.farewell(signals);
    }
    // Without its writer the state file would be a dead one to every probe, so a clean end leaves none. With --exec the app inherits it.
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
    /// Where reberth was started: the app starts there, the second time as well.
    directory: PathBuf,
    launches: u32,
    /// The app's binds cannot be heard here, as was found out at a launch.
    cannot_hear: bool,
    /// Whose instances share the ports.
    group: Option<Group>,
    /// The processes that tell registries where the app is.
    beside: Option<Beside>,
    /// What was told of the ports last.
    announced: Option<Vec<Taken>>,
}

/// What came of a launch.
enum Outcome {
    Ended(Ending),
    /// Nothing was launched: the app's binds cannot be heard here.
    CannotHear,
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
            cannot_hear: false,
            group: config.share.as_ref().map(|share| sharing::group(share, datagrams)).transpose()?,
            beside: config.register.as_deref().map(Beside::new),
            announced: None,
        })
    }

    /// Launches the app, and launches it again as long as it loses its port to another process.
    fn live(&mut self) -> Result<Code, Error> {
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
                // Its ports are free again, and are claimed as for any app.
                Outcome::CannotHear => continue,
            };
            if !ending.again {
                return Ok(ending.code);
            }
            warn!(
                "the app lost its port to somebody else before it listened: waiting for it and launching again ({} of {}, --relaunch)",
                self.launches, self.config.relaunch
            );
        }
    }

    /// Waits for what has to be there before the app (`--after`). Nothing of its ports is held meanwhile.
    fn after(&mut self) -> Result<(), Stop> {
        let config = self.config;
        let Some(terms) = config.terms.as_ref().filter(|_| !config.after.is_empty()) else { return Ok(()) };
        if let Some(error) = launch::hopeless(&config.command, self.environment) {
            return Err(Stop::Error(error));
        }
        let state = state(config, Phase::Waiting, &[]);
        publish(&mut self.publisher, &state);
        let signals = EarlySignals { signals: self.signals, config, wait: "what --after names" };
        after::wait(config, terms, &state, &signals)
    }

    /// How the app comes to its port: as told, unless that has turned out to be impossible here.
    fn handover(&self) -> Handover {
        if self.cannot_hear { Handover::Off } else { self.config.handover }
    }

    fn claim(&mut self) -> Result<ControlFlow<Code, Ports>, Error> {
        let (config, handover) = (self.config, self.handover());
        if config.ports.is_empty() {
            return Ok(ControlFlow::Continue(Ports::Ours(Vec::new())));
        }
        let first = self.launches == 0;
        if !first {
            publish(&mut self.publisher, &state(config, Phase::Waiting, &[]));
        }
        let group = self.group.as_ref().filter(|_| handover.gives_sockets());
        let claimant = Claimant { config, handover, group };
        if config.prewarm && handover.hears_binds() {
            return claimant.try_once();
        }
        let hopeless = || launch::hopeless(&config.command, self.environment).filter(|_| first);
        let claims = claimant.wait(self.signals, &mut self.publisher, &hopeless)?;
        Ok(claims.map_continue(Ports::Ours))
    }

    /// Tells which ports were taken, once.
    fn announce(&mut self, taken: &[Taken]) -> Result<(), Error> {
        if self.announced.as_deref() != Some(taken) || self.launches > 0 {
            announce(self.port_file.as_deref(), taken)?;
            self.announced = Some(taken.to_vec());
        }
        Ok(())
    }

    fn invocation(&self, ports: &Ports) -> Invocation {
        let ports: Vec<LaunchPort> = match ports {
            Ports::Ours(claims) => claims.iter().map(LaunchPort::claimed).collect(),
            Ports::Awaited(_) => self.config.ports.iter().map(LaunchPort::awaited).collect(),
        };
        Invocation::new(&self.config.command, self.environment, &self.activation, self.handover(), &ports)
    }

    /// `--exec`: returns only if it failed.
    fn replace(&mut self, ports: Ports) -> Error {
        let invocation = self.invocation(&ports);
        let Ports::Ours(claims) = ports else { return Error::cannot("--exec cannot wait beside the app") };
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
            hear_binds: false,
        });
        drop(kept);
        error
    }

    /// Launches the app and looks after it.
    fn launch(&mut self, ports: Ports) -> Result<Outcome, Error> {
        let handover = self.handover();
        let invocation = self.invocation(&ports);
        let (mut claims, claiming) = match ports {
            Ports::Ours(claims) => (claims, None),
            Ports::Awaited(claiming) => (Vec::new(), Some(claiming)),
        };
        // Before the launch: another instance need not wait for the app's start to have the socket.
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
        // An app that binds by itself must find the port free; one that is given the socket must never find it closed.
        let kept = handover.gives_sockets().then_some(claims);
        let lost_port = (!taken.is_empty()).then(|| self.watch_ports(&expected.ports, cookies)).flatten();
        // As PID 1 they end with us anyway, and until then are waited for like all others.
        let strangers = if process::pid() == 1 { Vec::new() } else { process::inherited_children() };
        let terminal = Terminal::controlling();
        let given = terminal.filter(Terminal::is_for_the_app);
        let launch = Launch {
            invocation: &invocation,
            inherited: self.signals.inherited(),
            directory: (self.launches > 0).then_some(self.directory.as_path()),
            hear_binds: handover.hears_binds(),
        };
        let mut app = match launch::start(&launch, given) {
            Ok(app) => app,
            Err(NotLaunched::Failed(error)) => return Err(error),
            Err(NotLaunched::CannotHear(why)) => {
                self.cannot_hear = true;
                warn!("{}", advice::cannot_hear(&why));
                return Ok(Outcome::CannotHear);
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
        // With these it has more descriptors of its own than can be told.
        let many = binds.is_some() || sharing.is_some();
        leave_no_trace((!many).then(|| self.descriptors(lost_port.as_ref())).as_deref());
        let port_file = self.port_file.as_deref();
        let launched = Launched {
            app: &app,
            terminal,
            in_front: given.is_some(),
            strangers,
            passed,
            expected,
            state,
            lost_port,
            binds,
            prewarm: claiming.map(|claiming| Prewarm::new(*claiming, group, port_file)),
            sharing,
        };
        let ending = look_after(self.config, launched, self.signals, &mut self.publisher, self.beside.as_mut());
        app.late_failure().map_or(Ok(Outcome::Ended(ending)), Err)
    }

    /// The watch over ports that the app may lose, where it would be launched again.
    fn watch_ports(&self, ports: &[Spec], cookies: Vec<u64>) -> Option<LostPort> {
        // Activation sockets are the app's once it is launched; a second launch would come without them.
        let again = self.launches < self.config.relaunch && self.activation.names.is_empty();
        let watch = again && !self.handover().gives_sockets();
        watch.then(|| LostPort::watch(ports.to_vec(), cookies, Instant::now()))
    }

    /// All that are open, where nothing is held for the app.
    fn descriptors<'b>(&'b self, lost_port: Option<&'b LostPort>) -> Vec<BorrowedFd<'b>> {
        let mut ours = vec![self.signals.as_fd()];
        ours.extend(lost_port.and_then(LostPort::events));
        ours.extend(self.publisher.descriptor());
        ours.extend(log::descriptors());
        ours.extend(self.beside.iter().flat_map(Beside::descriptors));
        ours
    }
}

/// Lets go of what was inherited, working directory and descriptors, so that reberth pins no mount, file or pipe.
///
/// `ours` are all descriptors of ours; `None`: they are too many to tell.
fn leave_no_trace(ours: Option<&[BorrowedFd<'_>]>) {
    let _ = std::env::set_current_dir("/");
    descriptor::close_inherited(ours);
}
