//! Owns `reberth run` as the list of its steps: claim, publish, launch, look after, and again if the port was lost. Must not know how
//! any of them is done.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::activation::Activation;
use super::after;
use super::berth::Berth;
use super::early_signals::EarlySignals;
use super::environment::Environment;
use super::handover::Handover;
use super::init::{Ending, Init};
use super::invocation::{Invocation, LaunchPort};
use super::launch::{self, Launch, NotLaunched};
use super::liveness::Liveness;
use super::prewarm::{Prewarm, Taken, announce};
use super::prober::Prober;
use super::race::Race;
use super::readiness::{Expected, Readiness, Target, Way};
use super::settings::Run;
use super::sharing::{self, Sharing};
use super::sight::Sight;
use super::supervisor::{Policy, Supervisor};
use super::tree::Tree;
use crate::error::{Error, words};
use crate::exit::Code;
use crate::health::phase::Probe;
use crate::health::settings::Subject;
use crate::health::target;
use crate::log;
use crate::port::claim::{self, Claim, Given, Hold, Stop, Voice};
use crate::port::claiming::{Claiming, Step};
use crate::port::drive::{Hear, drive};
use crate::port::file;
use crate::port::held::Held;
use crate::port::spec::{Protocol, Spec};
use crate::register::beside::Beside;
use crate::setting::Source;
use crate::share::Group;
use crate::state::{Phase, PortState, Publisher, State};
use crate::sys::descriptor;
use crate::sys::process;
use crate::sys::signal::{self, Signals};
use crate::sys::terminal::Terminal;

/// An app that has run this long is there to stay: what its start took may go.
const SETTLED: Duration = Duration::from_secs(1);

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
    /// The app's binds cannot be heard here, which was found out at the launch.
    deaf: bool,
    /// Whose instances share the ports.
    group: Option<Group>,
    /// Who tells a registry where the app is.
    beside: Option<Beside>,
    /// What was told of the ports last.
    announced: Option<Vec<Taken>>,
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
        Ok(Self {
            config,
            environment,
            signals,
            activation: Activation::open(environment),
            publisher,
            port_file,
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            launches: 0,
            deaf: false,
            group: config
                .share
                .as_ref()
                .map(|share| sharing::group(share, config.handover == Handover::Listen))
                .transpose()?,
            beside: config.register.as_deref().map(Beside::new),
            announced: None,
        })
    }

    /// Launches, and launches again as long as the app loses its port to somebody else.
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
                Launched::Ended(ending) => ending,
                // Its ports are free again, and are claimed as for any app.
                Launched::Deaf => continue,
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
        self.publish(&state);
        let signals = EarlySignals { signals: self.signals, config, wait: "what --after names" };
        after::wait(config, terms, &state, &signals)
    }

    /// How the app comes to its port: as told, unless that has turned out to be impossible here.
    fn handover(&self) -> Handover {
        if self.deaf { Handover::Off } else { self.config.handover }
    }

    fn claim(&mut self) -> Result<ControlFlow<Code, Ports>, Error> {
        let handover = self.handover();
        let policy = policy(self.config, handover);
        let config = self.config;
        if config.ports.is_empty() {
            return Ok(ControlFlow::Continue(Ports::Ours(Vec::new())));
        }
        if self.launches > 0 {
            self.publish(&state(config, Phase::Waiting, &[]));
        }
        let group = self.group.as_ref().filter(|_| handover != Handover::Off);
        let outcome = if config.prewarm && handover == Handover::Bind {
            begin(config, policy, group)
        } else {
            let (first, environment) = (self.launches == 0, self.environment);
            let hopeless = || launch::hopeless(&config.command, environment).filter(|_| first);
            let signals = EarlySignals { signals: self.signals, config, wait: "the port" };
            let mut waiting = PortWait { signals, publisher: &mut self.publisher, hopeless: &hopeless };
            claiming(config, policy, group).and_then(|claiming| drive(claiming, &mut waiting)).map(Ports::Ours)
        };
        match outcome {
            Ok(ports) => Ok(ControlFlow::Continue(ports)),
            Err(Stop::Ended(code)) => Ok(ControlFlow::Break(code)),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    /// Tells which ports were taken, once.
    fn announce(&mut self, taken: &[Taken]) -> Result<(), Error> {
        if self.announced.as_deref() != Some(taken) || self.launches > 0 {
            announce(self.port_file.as_deref(), taken)?;
            self.announced = Some(taken.to_vec());
        }
        Ok(())
    }

    fn publish(&mut self, state: &State) {
        if let Some(line) = self.publisher.publish(state) {
            warn!("{line}");
        }
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
        self.publish(&state(self.config, Phase::Exec, &taken));
        let kept = (self.handover() == Handover::Listen).then_some(claims);
        let error = launch::replace(&Launch {
            invocation: &invocation,
            inherited: self.signals.inherited(),
            directory: None,
            hear_binds: false,
        });
        drop(kept);
        error
    }

    fn launch(&mut self, ports: Ports) -> Result<Launched, Error> {
        let handover = self.handover();
        let invocation = self.invocation(&ports);
        let (mut claims, prewarm) = match ports {
            Ports::Ours(claims) => (claims, None),
            Ports::Awaited(claiming) => (Vec::new(), Some(claiming)),
        };
        // Before the launch: a newcomer need not wait for an app's start to have the socket.
        let sharing = match self.group.clone().filter(|_| handover != Handover::Off && !claims.is_empty()) {
            Some(group) => Some(Sharing::begin(group, &mut claims).map_err(|error| {
                Error::cannot(format!(
                    "the ports cannot be shared: {}; raise the limit of open files (ulimit -n)",
                    words(&error)
                ))
            })?),
            None => None,
        };
        let taken = Taken::of(&claims);
        let phase = match &prewarm {
            Some(_) => Phase::Waiting,
            None => {
                self.announce(&taken)?;
                Phase::Starting
            }
        };
        let state = state(self.config, phase, &taken);
        let expected = self.expected(&taken, &claims);
        let sockets = self
            .activation
            .descriptors()
            .chain(invocation.descriptors.iter().copied())
            .filter_map(descriptor::inode_at);
        let sockets: Vec<u64> = sockets.collect();
        let cookies = claims.iter().map(|claim| claim.cookie).collect();
        // An app that binds by itself must find the port free; one that gets the socket must never find it closed.
        let kept = (handover != Handover::Off).then_some(claims);
        // Activation sockets are the app's once it is launched; a second launch would come without them.
        let again = self.launches < self.config.relaunch && self.activation.names.is_empty();
        let may_relaunch = again && handover == Handover::Off && !taken.is_empty();
        let race = may_relaunch.then(|| Race::begin(expected.ports.clone(), cookies, Instant::now()));
        // Those of PID 1 end with it anyway, and until then are waited for like all others.
        let strangers = if process::pid() == 1 { Vec::new() } else { process::inherited_children() };
        let terminal = Terminal::controlling();
        let given = terminal.filter(Terminal::is_for_the_app);
        let launch = Launch {
            invocation: &invocation,
            inherited: self.signals.inherited(),
            directory: (self.launches > 0).then_some(self.directory.as_path()),
            hear_binds: handover == Handover::Bind,
        };
        let mut app = match launch::start(&launch, given) {
            Ok(app) => app,
            Err(NotLaunched::Failed(error)) => return Err(error),
            Err(NotLaunched::Deaf(why)) => {
                self.deaf = true;
                warn!("{}", deaf(&why));
                return Ok(Launched::Deaf);
            }
        };
        debug!(
            "launched {} as pid {}",
            invocation.words.first().map_or("".into(), |word| word.to_string_lossy()),
            app.pid()
        );
        self.launches += 1;
        let berth = app.take_heard().map(|heard| self.berth(&app, heard, kept, prewarm.is_some()));
        let mut ours = vec![self.signals.as_fd()];
        ours.extend(race.as_ref().and_then(Race::events));
        ours.extend(self.publisher.descriptor());
        ours.extend(log::descriptors());
        ours.extend(self.beside.iter().flat_map(Beside::descriptors));
        leave_no_trace((berth.is_none() && sharing.is_none()).then_some(ours.as_slice()));
        let expected = Expected { contested: race.is_some(), ..expected };
        let ending = self.supervise(
            &app,
            (terminal, given.is_some()),
            (strangers, sockets),
            expected,
            state,
            (race, berth, prewarm, sharing),
        );
        app.late_failure().map_or(Ok(Launched::Ended(ending)), Err)
    }

    /// What the app's coming up is judged by.
    fn expected(&self, taken: &[Taken], claims: &[Claim]) -> Expected {
        let ports = if taken.is_empty() {
            self.config.ports.clone()
        } else {
            taken.iter().map(|taken| taken.spec.with_port(taken.port)).collect()
        };
        let tcp = claims.iter().find(|claim| claim.spec.protocol == Protocol::Tcp);
        Expected {
            ports,
            way: match self.handover() {
                Handover::Off => Way::Binds,
                Handover::Listen => Way::Given { inode: tcp.and_then(|claim| descriptor::inode(&claim.socket)) },
                Handover::Bind => Way::Heard,
            },
            target: self
                .config
                .health
                .as_ref()
                .map(|asked| Target { on_port: asked.needs_port(), connects: *asked == target::Target::Tcp }),
            contested: false,
            limit: self.config.start_timeout,
        }
    }

    /// The app's calls, and the sockets they are answered with.
    fn berth(&self, app: &launch::App, heard: launch::Heard, claims: Option<Vec<Claim>>, awaited: bool) -> Berth {
        if heard.no_new_privs && app.gains_privileges() {
            warn!(
                "the app's file is setuid or has capabilities, and does not get them: to hear its bind (--handover bind) the kernel wants no_new_privs; give reberth CAP_SYS_ADMIN, or leave --handover bind out"
            );
        }
        let held = claims.filter(|_| !awaited).map(Held::new).transpose().unwrap_or_default();
        let held = held.map(|held| if self.group.is_some() { held.shared() } else { held });
        Berth::new(heard.listener, self.config.ports.clone(), held)
    }

    fn supervise(
        &mut self,
        app: &launch::App,
        (terminal, wants_terminal): (Option<Terminal>, bool),
        (strangers, sockets): (Vec<i32>, Vec<u64>),
        expected: Expected,
        mut state: State,
        (race, berth, claiming, sharing): (Option<Race>, Option<Berth>, Option<Box<Claiming>>, Option<Sharing>),
    ) -> Ending {
        let config = self.config;
        let launched = app.launched();
        state.app_pid = Some(app.pid());
        let liveness = config.exit_on_unhealthy.zip(config.terms.clone()).map(|(when, terms)| {
            let asked = config.liveness.clone().or(config.health.clone());
            let target = asked.unwrap_or_else(|| target::Target::Path("/".to_owned()));
            let subject = Subject { probe: Probe::Liveness, ..Subject::default() };
            Liveness::new(when, Prober::new(target, subject, terms))
        });
        let prober = config.health.clone().zip(config.terms.clone());
        let prober = prober.map(|(target, terms)| Prober::new(target, Subject::default(), terms));
        let inode = match expected.way {
            Way::Given { inode } => inode,
            Way::Binds | Way::Heard => None,
        };
        let mut readiness = match claiming {
            Some(_) => Readiness::asleep(expected, launched),
            None => Readiness::begin(expected, launched),
        };
        if berth.as_ref().is_some_and(Berth::is_released) {
            readiness.look(launched);
        }
        if readiness.is_up() {
            state.phase = Phase::Ready;
        }
        self.publish(&state);
        let policy = Policy {
            pid1: process::pid() == 1,
            has_terminal: terminal.is_some(),
            signal_map: config.signal_map.clone(),
            exit_map: config.exit_map.clone(),
            drain: config.drain,
            grace: config.grace,
        };
        let beside = self.beside.iter().flat_map(Beside::pids);
        let ending = Init {
            tree: Tree::new(app.pid(), strangers.into_iter().chain(beside).collect()),
            scope: config.signal_scope,
            signals: self.signals,
            publisher: &mut self.publisher,
            state,
            terminal,
            wants_terminal,
            supervisor: Supervisor::new(policy),
            sight: Sight::new(readiness.primary().cloned(), inode, sockets, launched),
            readiness,
            prober,
            liveness,
            race,
            berth,
            sharing,
            group: self.group.clone(),
            beside: self.beside.as_mut(),
            prewarm: claiming.map(|claiming| Prewarm::new(*claiming, self.port_file.as_deref())),
            settle_at: Some(launched + SETTLED),
            end: None,
            childless: false,
        }
        .run();
        self.beside.iter_mut().for_each(Beside::withdraw);
        ending
    }
}

/// The ports at the launch.
enum Ports {
    Ours(Vec<Claim>),
    /// Some are busy, and waited for beside the app.
    Awaited(Box<Claiming>),
}

/// What came of a launch.
enum Launched {
    Ended(Ending),
    /// Nothing was launched: the app's binds cannot be heard here.
    Deaf,
}

/// What came of a claim without an app.
pub enum Claimed {
    Ports(Vec<Claim>),
    /// A signal has ended the wait.
    Ended(Code),
}

/// Claims the ports of `keep`.
///
/// # Errors
/// Everything that keeps it from having them.
pub fn claim(
    config: &Run,
    signals: &Signals,
    publisher: &mut Publisher,
    group: Option<&Group>,
) -> Result<Claimed, Error> {
    let signals = EarlySignals { signals, config, wait: "the port" };
    let mut waiting = PortWait { signals, publisher, hopeless: &|| None };
    let claims =
        claiming(config, policy(config, Handover::Listen), group).and_then(|claiming| drive(claiming, &mut waiting));
    match claims {
        Ok(claims) => Ok(Claimed::Ports(claims)),
        Err(Stop::Ended(code)) => Ok(Claimed::Ended(code)),
        Err(Stop::Error(error)) => Err(error),
    }
}

fn policy(config: &Run, handover: Handover) -> claim::Policy {
    claim::Policy {
        wait: config.wait,
        fallback: config.fallback,
        backoff: config.backoff,
        hold: match handover {
            Handover::Off => Hold::Probe,
            Handover::Bind if config.share.is_none() => Hold::Bind,
            // What is shared listens: which family the app wants, others may have decided already.
            Handover::Listen | Handover::Bind => Hold::Listen,
        },
        told: given(config, handover),
    }
}

/// In a container of its own, and where any setting came from the environment, nobody can type a flag without another image.
fn given(config: &Run, handover: Handover) -> Given {
    let of = |flag| config.sources.of(flag);
    let by_variable = |flag| matches!(of(flag), Source::Variable | Source::Port | Source::ProfileVariable);
    let variables =
        process::pid() == 1 || ["port", "wait", "fallback", "handover", "profile"].into_iter().any(by_variable);
    Given {
        voice: if variables { Voice::Variables } else { Voice::Flags },
        port: of("port"),
        wait: of("wait"),
        fallback: of("fallback"),
        handover: of("handover"),
        hands_over: handover != Handover::Off,
        alone: !config.prewarm,
    }
}

fn claiming(config: &Run, policy: claim::Policy, group: Option<&Group>) -> Result<Claiming, Stop> {
    let Some(group) = group else { return Claiming::begin(&config.ports, policy) };
    Ok(Claiming::begin(&sharing::specs(&config.ports), policy)?.with(Some(Box::new(sharing::newcomer(group)))))
}

/// The first try of a claim that may go on beside the app.
fn begin(config: &Run, policy: claim::Policy, group: Option<&Group>) -> Result<Ports, Stop> {
    let mut claiming = claiming(config, policy, group)?;
    Ok(match claiming.step(Instant::now(), &mut || false)? {
        Step::Ours(claims) => Ports::Ours(claims),
        Step::Waits => Ports::Awaited(Box::new(claiming)),
    })
}

/// Why the app's binds cannot be heard, and what helps.
fn deaf(why: &std::io::Error) -> String {
    let (reason, cure) = match why.raw_os_error() {
        Some(libc::EBUSY) => (
            "another program hears this container's system calls already (a seccomp notify profile)",
            "take another profile, or leave it out",
        ),
        Some(libc::EPERM | libc::EACCES) => (
            "the seccomp profile or sandbox refuses seccomp(2)",
            "allow it, as Docker's and containerd's default profiles do",
        ),
        Some(libc::ENOSYS | libc::EINVAL) => {
            ("this kernel cannot do it (Linux before 5.9, gVisor, an emulator)", "a newer kernel")
        }
        _ => ("the kernel refuses it", "see seccomp(2)"),
    };
    format!(
        "--handover bind (REBERTH_HANDOVER) is not to be had here: {reason}: {}; going on as with --handover off; what helps: {cure}",
        words(why)
    )
}

/// Lets go of what was inherited, working directory and descriptors, so that reberth pins no mount, file or pipe.
///
/// `ours` are all descriptors of ours; `None`: they are too many to tell.
fn leave_no_trace(ours: Option<&[BorrowedFd<'_>]>) {
    let _ = std::env::set_current_dir("/");
    descriptor::close_inherited(ours);
}

/// What is published in this phase.
pub fn state(config: &Run, phase: Phase, taken: &[Taken]) -> State {
    let ports = if taken.is_empty() {
        // A port is known before it is claimed, unless any free one will do.
        config.ports.iter().map(|spec| PortState::new(spec, spec.port)).collect()
    } else {
        taken.iter().map(|taken| PortState::new(&taken.spec, taken.port)).collect()
    };
    State {
        phase,
        ports,
        health: config.health.as_ref().map(ToString::to_string),
        liveness: config.liveness.as_ref().map(ToString::to_string),
        app_pid: None,
        shared: config.share.is_some(),
    }
}

/// The wait for the port as the signals hear it: no app is there yet to forward them to.
struct PortWait<'a> {
    signals: EarlySignals<'a>,
    publisher: &'a mut Publisher,
    /// The app cannot be started anyway, for this reason: said before any wait.
    hopeless: &'a dyn Fn() -> Option<Error>,
}

impl Hear for PortWait<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.signals.fd()
    }

    /// Only who really waits says so: on a free port the first state to be seen is that of the launched app.
    fn wait_started(&mut self, _: &Spec) -> ControlFlow<Stop> {
        if let Some(error) = (self.hopeless)() {
            return ControlFlow::Break(Stop::Error(error));
        }
        if let Some(line) = self.publisher.publish(&state(self.signals.config, Phase::Waiting, &[])) {
            warn!("{line}");
        }
        ControlFlow::Continue(())
    }

    fn heard(&mut self) -> ControlFlow<Stop> {
        self.signals.take(&mut |_, _| {})
    }
}
