//! Owns the straight line that sleeps until the ports are ours, and hears the caller meanwhile. Must not know the app or HTTP.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};

use super::claim::{Claim, Policy, Stop};
use super::claiming::{Claiming, Step};
use super::spec::Spec;
use crate::sys::descriptor::wait_readable;

/// The caller's ear: what it needs to hear while a port is waited for.
pub trait Hear {
    /// Readable when there is something to hear, such as a signalfd.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Called when `fd` is readable. Must take what made it readable, or the wait spins. `Break` ends the claim at once.
    fn heard(&mut self) -> ControlFlow<Stop>;
    /// A busy port is to be waited for now. Called once for each, before the wait; `Break` ends the claim at once.
    fn wait_started(&mut self, _spec: &Spec) -> ControlFlow<Stop> {
        ControlFlow::Continue(())
    }
}

/// Claims every port of `specs`, or none: waits for busy ones within the budget, falls back if told to.
///
/// The claims come in the order asked, but are made in ascending order of port, so that two instances never hold one each and wait
/// for the other.
///
/// # Errors
/// [`Stop::Error`]: `Cannot` for a port that can never be bound (at once, even if another is merely busy), `PortBusy` when the
/// time is over. [`Stop::Ended`]: the caller said so.
pub fn claim(specs: &[Spec], policy: &Policy, hear: &mut dyn Hear) -> Result<Vec<Claim>, Stop> {
    drive(Claiming::begin(specs, *policy)?, hear)
}

/// The same for a claim that has begun.
///
/// # Errors
/// As [`claim`].
pub fn drive(mut claiming: Claiming, hear: &mut dyn Hear) -> Result<Vec<Claim>, Stop> {
    loop {
        let mut stop = None;
        let step = claiming.step(Instant::now(), &mut || {
            // A walk through /proc goes on after what does not end the claim.
            if stop.is_none() && is_readable(hear.fd()) {
                stop = hear.heard().break_value();
            }
            stop.is_some()
        });
        match (stop, step) {
            (Some(stop), _) => return Err(stop),
            (None, Ok(Step::Ours(claims))) => return Ok(claims),
            (None, Ok(Step::Waits)) => {}
            (None, Err(stop)) => return Err(stop),
        }
        if let Some(spec) = claiming.begun()
            && let ControlFlow::Break(stop) = hear.wait_started(spec)
        {
            return Err(stop);
        }
        if sleep(&claiming, hear.fd())
            && let ControlFlow::Break(stop) = hear.heard()
        {
            return Err(stop);
        }
    }
}

/// Sleeps until the claim has to go on or `ear` is readable; true: it is.
fn sleep(claiming: &Claiming, ear: BorrowedFd<'_>) -> bool {
    let sources = std::iter::once(ear).chain(claiming.descriptors());
    let mut polled: Vec<PollFd<'_>> = sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    wait_readable(&mut polled, Some(claiming.deadline())).first().is_some_and(|heard| *heard)
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    wait_readable(&mut [PollFd::new(fd, PollFlags::POLLIN)], Some(Instant::now())).contains(&true)
}
