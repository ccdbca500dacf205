//! Owns what claiming is: the policy, what comes of it, and the straight line that sleeps until the ports are ours. Must not know the
//! app or HTTP.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

pub use super::advice::{Given, Voice};
pub use super::attempt::Hold;
pub use super::claiming::{Claiming, Step};
use super::spec::{Protocol, Spec};
use crate::config::{Backoff, Fallback, Wait};
use crate::error::Error;
use crate::exit::Code;
use crate::sys::descriptor::wait_readable;

/// How ports are claimed. Nothing here picks a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// One budget for all ports.
    pub wait: Wait,
    pub fallback: Fallback,
    pub backoff: Backoff,
    pub hold: Hold,
    /// For the words of a failure.
    pub told: Given,
}

/// A port that is ours for as long as `socket` is open.
#[derive(Debug)]
pub struct Claim {
    /// As asked: its port may be 0, or busy.
    pub spec: Spec,
    /// The port really claimed.
    pub port: u16,
    /// What the socket is bound to: `[::]` that answers IPv4 too for a wildcard, or `0.0.0.0` where the host has no IPv6.
    pub addr: IpAddr,
    /// Close-on-exec, blocking; what it does is the policy's [`Hold`].
    pub socket: OwnedFd,
    /// The socket's name in destroy events: the end of this very socket is no news.
    pub cookie: u64,
    /// How long the claim took.
    pub waited: Duration,
    /// How often the kernel was asked.
    pub tries: u32,
    /// The meeting point of those who share it, if it was given by one of them.
    pub meeting: Option<OwnedFd>,
}

/// Why claiming ended without the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It failed: bad, forbidden or busy ports.
    Error(Error),
    /// The caller heard something that ends the wait, such as TERM; the code to end with.
    Ended(Code),
}

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

/// Ascending by port, protocol and address; port 0 last, so that the kernel cannot choose a port that another spec names.
pub(crate) fn ascending(specs: &[Spec]) -> Vec<usize> {
    let mut order: Vec<(bool, u16, Protocol, Option<IpAddr>, usize)> = specs
        .iter()
        .enumerate()
        .map(|(position, spec)| (spec.port == 0, spec.port, spec.protocol, spec.addr, position))
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(.., position)| position).collect()
}

/// An explicit `[::]` answers IPv4 too, as everywhere, unless an IPv4 address is named for the same port.
pub fn v6_only(spec: &Spec, specs: &[Spec]) -> bool {
    let same = |other: &&Spec| other.port == spec.port && other.protocol == spec.protocol;
    matches!(spec.addr, Some(IpAddr::V6(addr)) if addr.is_unspecified())
        && specs.iter().filter(same).any(|other| matches!(other.addr, Some(IpAddr::V4(_))))
}

#[cfg(test)]
mod tests {
    use super::{Protocol, Spec, ascending, v6_only};

    fn spec(addr: &str, port: u16) -> Spec {
        let addr = (!addr.is_empty()).then(|| addr.parse().unwrap());
        Spec { name: None, addr, port, protocol: Protocol::Tcp }
    }

    #[test]
    fn claims_go_up() {
        let udp = Spec { protocol: Protocol::Udp, ..spec("", 80) };
        let specs = [spec("", 0), spec("", 9000), spec("127.0.0.1", 80), udp, spec("", 443)];
        assert_eq!(ascending(&specs), [2, 3, 4, 1, 0]);
    }

    #[test]
    fn the_ipv6_wildcard_alone_answers_ipv4_too() {
        let all = [spec("::", 80), spec("0.0.0.0", 80), spec("::", 81), spec("", 82)];
        let only: Vec<bool> = all.iter().map(|spec| v6_only(spec, &all)).collect();
        assert_eq!(only, [true, false, false, false]);
    }
}
