//! Owns how the ports of the settings are claimed, before the app is launched or beside it, and what is heard and published meanwhile. Must
//! not know the policy of ports, or what becomes of the claims.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::announce::{publish, state};
use super::early_signals::EarlySignals;
use super::handover::Handover;
use super::settings::Run;
use super::sharing;
use crate::error::Error;
use crate::exit::Code;
use crate::port::blocking::{Hear, drive};
use crate::port::claim::{Claim, Given, Policy, Stop, Voice};
use crate::port::claiming::{Claiming, Step};
use crate::port::spec::Spec;
use crate::setting::Source;
use crate::share::Group;
use crate::state::{Phase, Publisher};
use crate::sys::process;
use crate::sys::signal::Signals;

/// The ports at the launch.
pub enum Ports {
    Ours(Vec<Claim>),
    /// Some are busy, and waited for beside the app.
    Awaited(Box<Claiming>),
}

/// A claim of the ports, before it is made.
pub struct Claimant<'a> {
    pub config: &'a Run,
    /// How the app will come to them.
    pub handover: Handover,
    /// Whose instances share them.
    pub group: Option<&'a Group>,
}

impl Claimant<'_> {
    /// Claims the ports, and waits for those that are busy. `Break`: a signal has ended the wait. `hopeless`: why the app cannot be started
    /// anyway, which is asked before any wait.
    ///
    /// # Errors
    /// The ports cannot be had, or not in time; what `hopeless` says.
    pub fn wait(
        &self,
        signals: &Signals,
        publisher: &mut Publisher,
        hopeless: &dyn Fn() -> Option<Error>,
    ) -> Result<ControlFlow<Code, Vec<Claim>>, Error> {
        let signals = EarlySignals { signals, config: self.config, wait: "the port" };
        let mut wait = PortWait { signals, publisher, hopeless };
        unless_ended(self.begin().and_then(|claiming| drive(claiming, &mut wait)))
    }

    /// Tries to claim the ports, and waits for none.
    ///
    /// # Errors
    /// The ports can never be had.
    pub fn try_once(&self) -> Result<ControlFlow<Code, Ports>, Error> {
        unless_ended(self.begin().and_then(|mut claiming| {
            Ok(match claiming.step(Instant::now(), &mut || false)? {
                Step::Ours(claims) => Ports::Ours(claims),
                Step::Waits => Ports::Awaited(Box::new(claiming)),
            })
        }))
    }

    fn begin(&self) -> Result<Claiming, Stop> {
        let Some(group) = self.group else { return Claiming::begin(&self.config.ports, self.policy()) };
        let specs = sharing::specs(&self.config.ports);
        Ok(Claiming::begin(&specs, self.policy())?.with_peers(Some(Box::new(sharing::newcomer(group)))))
    }

    fn policy(&self) -> Policy {
        Policy {
            wait: self.config.wait,
            fallback: self.config.fallback,
            backoff: self.config.backoff,
            hold: self.handover.hold(self.config.share.is_some()),
            told: self.given(),
        }
    }

    /// For the words of a failure. In a container of its own, and where any setting came from the environment, nobody can type a flag
    /// without another image.
    fn given(&self) -> Given {
        let of = |flag| self.config.sources.of(flag);
        let by_variable = |flag| matches!(of(flag), Source::Variable | Source::Port | Source::ProfileVariable);
        let variables =
            process::pid() == 1 || ["port", "wait", "fallback", "handover", "profile"].into_iter().any(by_variable);
        Given {
            voice: if variables { Voice::Variables } else { Voice::Flags },
            port: of("port"),
            wait: of("wait"),
            fallback: of("fallback"),
            handover: of("handover"),
            hands_over: self.handover.gives_sockets(),
            alone: !self.config.prewarm,
        }
    }
}

fn unless_ended<T>(outcome: Result<T, Stop>) -> Result<ControlFlow<Code, T>, Error> {
    match outcome {
        Ok(ports) => Ok(ControlFlow::Continue(ports)),
        Err(Stop::Ended(code)) => Ok(ControlFlow::Break(code)),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// What is heard and done while the port is waited for.
struct PortWait<'a> {
    signals: EarlySignals<'a>,
    publisher: &'a mut Publisher,
    hopeless: &'a dyn Fn() -> Option<Error>,
}

impl Hear for PortWait<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.signals.fd()
    }

    /// Published only once a wait begins: where the port is free, the first state to be seen is that of the launched app.
    fn wait_started(&mut self, _: &Spec) -> ControlFlow<Stop> {
        if let Some(error) = (self.hopeless)() {
            return ControlFlow::Break(Stop::Error(error));
        }
        publish(self.publisher, &state(self.signals.config, Phase::Waiting, &[]));
        ControlFlow::Continue(())
    }

    fn heard(&mut self) -> ControlFlow<Stop> {
        self.signals.take(&mut |_, _| {})
    }
}
