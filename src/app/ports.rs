//! Owns how the configured ports are claimed, before the launch or beside the running app, and the signals and states during the wait. Must
//! not know the policy of ports, or how the claims are used.

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
    Claimed(Vec<Claim>),
    /// Some are busy; the claim continues beside the app.
    Awaited(Box<Claiming>),
}

/// What a claim of the ports depends on.
pub struct Claimant<'a> {
    pub config: &'a Run,
    /// How the app will get them.
    pub handover: Handover,
    /// The group whose instances share them.
    pub group: Option<&'a Group>,
}

impl Claimant<'_> {
    /// Claims the ports, and waits for the busy ones. `Break`: a signal ended the wait. `precheck` returns why the app cannot be started at
    /// all; it is called before the first wait.
    ///
    /// # Errors
    /// The ports cannot be claimed, or not in time; the error of `precheck`.
    pub fn wait(
        &self,
        signals: &Signals,
        publisher: &mut Publisher,
        precheck: &dyn Fn() -> Option<Error>,
    ) -> Result<ControlFlow<Code, Vec<Claim>>, Error> {
        let signals = EarlySignals { signals, config: self.config, wait: "the port" };
        let mut wait = PortWait { signals, publisher, precheck };
        unless_ended(self.begin().and_then(|claiming| drive(claiming, &mut wait)))
    }

    /// Tries to claim the ports, without waiting.
    ///
    /// # Errors
    /// A port can never be claimed.
    pub fn try_once(&self) -> Result<ControlFlow<Code, Ports>, Error> {
        unless_ended(self.begin().and_then(|mut claiming| {
            Ok(match claiming.step(Instant::now(), &mut || false)? {
                Step::Ours(claims) => Ports::Claimed(claims),
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

    /// The context for error messages. Under PID 1, or if any setting came from the environment, the advice names variables: a user there
    /// cannot add a flag without changing the image.
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

/// Handles signals and publishes the state while the port is waited for.
struct PortWait<'a> {
    signals: EarlySignals<'a>,
    publisher: &'a mut Publisher,
    precheck: &'a dyn Fn() -> Option<Error>,
}

impl Hear for PortWait<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.signals.fd()
    }

    /// Published only when a wait begins: if the port is free, the first state to be seen is that of the launched app.
    fn wait_started(&mut self, _: &Spec) -> ControlFlow<Stop> {
        if let Some(error) = (self.precheck)() {
            return ControlFlow::Break(Stop::Error(error));
        }
        publish(self.publisher, &state(self.signals.config, Phase::Waiting, &[]));
        ControlFlow::Continue(())
    }

    fn heard(&mut self) -> ControlFlow<Stop> {
        self.signals.take(&mut |_, _| {})
    }
}
