//! Owns the assembly of `Init` for one launch, from the settings and the launched app. Must not know how `Init` works.

use std::time::Duration;

use super::announce::{Taken, publish};
use super::forwarding::Forwarding;
use super::init::{AppEnd, Ending, Init};
use super::launch::App;
use super::liveness::Liveness;
use super::prewarm::Prewarm;
use super::prober::Prober;
use super::readiness::binds::Binds;
use super::readiness::fact::{Evidence, Expected, ProbeTarget};
use super::readiness::lost_port::LostPort;
use super::readiness::{Readiness, Sources};
use super::settings::Run;
use super::sharing::Sharing;
use super::supervisor::{Supervisor, Surroundings};
use super::tree::Tree;
use crate::health::phase::Probe;
use crate::health::settings::Subject;
use crate::health::target::Target;
use crate::register::workers::Workers;
use crate::state::{Phase, Publisher, State};
use crate::sys::process;
use crate::sys::signal::Signals;
use crate::sys::terminal::Terminal;

/// An app that has run this long has settled: the memory used only to start it may be released.
const SETTLED: Duration = Duration::from_secs(1);

/// A launched app, and what was set up for it.
pub struct Launched<'a> {
    pub app: &'a App,
    pub terminal: Option<Terminal>,
    /// The app was given the terminal.
    pub in_foreground: bool,
    /// Children of reberth that existed before the app.
    pub unrelated: Vec<i32>,
    /// The inodes of all sockets passed to the app, inherited ones included.
    pub passed: Vec<u64>,
    pub expected: Expected,
    pub state: State,
    pub lost_port: Option<LostPort>,
    pub binds: Option<Binds>,
    /// The claim that continues beside the app.
    pub prewarm: Option<Prewarm<'a>>,
    pub sharing: Option<Sharing>,
}

/// Looks after the app until it and everything it left behind has exited.
pub fn look_after(
    config: &Run,
    launched: Launched<'_>,
    signals: &Signals,
    publisher: &mut Publisher,
    mut workers: Option<&mut Workers>,
) -> Ending {
    let Launched { app, terminal, in_foreground, mut unrelated, mut state, .. } = launched;
    // Workers of an earlier launch are not the app's either.
    unrelated.extend(workers.iter().flat_map(|workers| workers.pids()));
    let surroundings = Surroundings { pid1: process::pid() == 1, has_terminal: terminal.is_some() };
    let sources = Sources { passed: launched.passed, prober: prober(config), lost_port: launched.lost_port };
    let readiness = Readiness::begin(launched.expected, launched.prewarm.is_some(), sources, app.launched());
    state.app_pid = Some(app.pid());
    if readiness.is_ready() {
        state.phase = Phase::Ready;
    }
    publish(publisher, &state);
    let ending = Init {
        tree: Tree::new(app.pid(), unrelated),
        forwarding: Forwarding::new(app.pid(), config.signal_scope, terminal, in_foreground),
        signals,
        publisher,
        state,
        supervisor: Supervisor::new(config.stop.clone(), surroundings),
        readiness,
        liveness: liveness(config),
        binds: launched.binds,
        prewarm: launched.prewarm,
        sharing: launched.sharing,
        workers: workers.as_deref_mut(),
        settle_at: Some(app.launched() + SETTLED),
        end: AppEnd::default(),
    }
    .run();
    workers.iter_mut().for_each(|workers| workers.withdraw());
    ending
}

/// What is expected of an app that was given these ports.
pub fn expected(config: &Run, taken: &[Taken], evidence: Evidence) -> Expected {
    let ports = if taken.is_empty() { config.ports.clone() } else { taken.iter().map(Taken::actual).collect() };
    let target = |asked: &Target| ProbeTarget { on_port: asked.needs_port(), connects: *asked == Target::Tcp };
    Expected {
        ports,
        evidence,
        target: config.health.as_ref().map(target),
        // `Readiness::begin` knows: it has the watch over the port.
        at_risk: false,
        limit: config.start_timeout,
    }
}

fn prober(config: &Run) -> Option<Prober> {
    let (target, terms) = config.health.clone().zip(config.terms.clone())?;
    Some(Prober::new(target, Subject::default(), terms))
}

fn liveness(config: &Run) -> Option<Liveness> {
    let (limits, terms) = config.exit_on_unhealthy.zip(config.terms.clone())?;
    let asked = config.liveness.clone().or(config.health.clone());
    let target = asked.unwrap_or_else(|| Target::Path("/".to_owned()));
    let subject = Subject { probe: Probe::Liveness, ..Subject::default() };
    Some(Liveness::new(limits, Prober::new(target, subject, terms)))
}
