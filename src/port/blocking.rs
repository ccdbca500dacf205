//! Owns the blocking loop that claims ports and lets the caller receive signals meanwhile. Must not know the app or
//! HTTP.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};

use super::claim::{Claim, Policy, Stop};
use super::claiming::{Claiming, Step};
use super::spec::Spec;
use crate::sys::descriptor::wait_readable;

/// The caller's event source during a wait.
pub trait Hear {
    /// Readable if the caller has something to receive, such as a signalfd.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Called when `fd` is readable. Must consume what made it readable, or the loop spins. `Break` ends the claim
    /// immediately.
    fn heard(&mut self) -> ControlFlow<Stop>;
    /// A wait for a busy port begins. Called once per port, before the wait; `Break` ends the claim immediately.
    fn wait_started(&mut self, _spec: &Spec) -> ControlFlow<Stop> {
        ControlFlow::Continue(())
    }
}

/// Claims all ports of `specs` or none: waits for busy ones up to the time limit, then falls back if configured.
///
/// The claims are returned in the order configured, but made in ascending order of port, so that two instances never
/// hold one port each and wait for the other.
///
/// # Errors
/// [`Stop::Error`]: `Cannot` for a port that can never be bound (immediately, even if another one is only busy),
/// `PortBusy` when the time limit has passed. [`Stop::Ended`]: the caller ended it.
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
            // The search of /proc continues after an event that does not end the claim.
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
        if let Some(spec) = claiming.take_begun()
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

/// Sleeps until the next step is due or `source` is readable; true: it is readable.
fn sleep(claiming: &Claiming, source: BorrowedFd<'_>) -> bool {
    let sources = std::iter::once(source).chain(claiming.descriptors());
    let mut polled: Vec<PollFd<'_>> = sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    wait_readable(&mut polled, Some(claiming.deadline())).first().is_some_and(|heard| *heard)
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    wait_readable(&mut [PollFd::new(fd, PollFlags::POLLIN)], Some(Instant::now())).contains(&true)
}
