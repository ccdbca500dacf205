//! Owns the policy of claiming: which port first, when to wait, when to fall back, when to give up. Must not know the app or HTTP.

use std::net::IpAddr;
use std::ops::{ControlFlow, RangeInclusive};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Tried};
use super::holder::{self, Depth};
use super::spec::{Protocol, Spec};
use super::wait::{self, Waiting};
use super::{advice, range};
use crate::config::{Backoff, Fallback, Wait};
use crate::error::Error;
use crate::exit::Code;

/// How ports are claimed. Nothing here picks a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// One budget for all ports.
    pub wait: Wait,
    pub fallback: Fallback,
    pub backoff: Backoff,
    /// True: the claimed socket listens and is handed over. False: the app binds by itself, and nothing of ours listens meanwhile.
    pub listen: bool,
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
    /// Close-on-exec, blocking; listening if the policy said so.
    pub socket: OwnedFd,
    /// The socket's name in destroy events: the end of this very socket is no news.
    pub cookie: u64,
    /// How long the claim took.
    pub waited: Duration,
    /// How often the kernel was asked.
    pub tries: u32,
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
    /// A busy port is now waited for. Called once for each.
    fn wait_started(&mut self, _spec: &Spec) {}
}

/// How often the kernel may choose a port in vain.
const OFFERS: usize = 16;

/// Claims every port of `specs`, or none: waits for busy ones within the budget, falls back if told to.
///
/// The claims come in the order asked, but are made in ascending order of port, so that two instances never hold one each and wait
/// for the other.
///
/// # Errors
/// [`Stop::Error`]: `Cannot` for a port that can never be bound (at once, even if another is merely busy), `PortBusy` when the
/// time is over. [`Stop::Ended`]: the caller said so.
pub fn claim(specs: &[Spec], policy: &Policy, hear: &mut dyn Hear) -> Result<Vec<Claim>, Stop> {
    let mut claiming = Claiming::new(specs, *policy);
    claiming.try_all()?;
    loop {
        for position in claiming.order.clone() {
            claiming.settle(position, hear)?;
        }
        if !claiming.lost_one() {
            return claiming.into_claims();
        }
    }
}

/// The ports on their way to being claims.
struct Claiming<'a> {
    specs: &'a [Spec],
    policy: Policy,
    /// Positions in `specs`, in the order they are claimed.
    order: Vec<usize>,
    attempts: Vec<Attempt>,
    waited: Vec<Duration>,
    /// Since all were bound together, one has been waited for.
    apart: bool,
    started: Instant,
}

impl<'a> Claiming<'a> {
    fn new(specs: &'a [Spec], policy: Policy) -> Self {
        let attempts = specs.iter().map(|spec| Attempt::new(spec, v6_only(spec, specs))).collect();
        let waited = vec![Duration::ZERO; specs.len()];
        Self { specs, policy, order: ascending(specs), attempts, waited, apart: false, started: Instant::now() }
    }

    /// One bind of everything, so that a port that can never be had fails before another is waited for. What lies above the first
    /// busy one is let go again: it would be held while we wait for a lower one.
    fn try_all(&mut self) -> Result<(), Stop> {
        let mut never = Vec::new();
        let mut busy = false;
        for position in &self.order {
            let (Some(attempt), Some(spec)) = (self.attempts.get_mut(*position), self.specs.get(*position)) else {
                continue;
            };
            match attempt.bind() {
                Tried::Ours if busy => attempt.release(),
                Tried::Ours => {}
                Tried::Busy => busy = true,
                Tried::Never(error) => never.push(advice::never(spec, &error)),
            }
        }
        if never.is_empty() { Ok(()) } else { Err(Stop::Error(Error::Cannot(never))) }
    }

    /// Makes the port at `position` ours, by waiting or falling back if it must be.
    fn settle(&mut self, position: usize, hear: &mut dyn Hear) -> Result<(), Stop> {
        let policy = self.policy;
        let end = match policy.wait {
            Wait::Forever => None,
            Wait::For(budget) => self.started.checked_add(budget),
        };
        let (Some(attempt), Some(spec)) = (self.attempts.get_mut(position), self.specs.get(position)) else {
            return Ok(());
        };
        let mut waiting = Waiting { spec, attempt, policy, end, started: Instant::now() };
        let mut ours = waiting.acquire()?;
        if !ours && waiting.has_time() {
            self.apart = true;
            ours = waiting.wait(hear)?;
        }
        if let Some(waited) = self.waited.get_mut(position) {
            *waited = waiting.started.elapsed();
        }
        if ours || self.fall_back(position)? { Ok(()) } else { Err(self.give_up(position)) }
    }

    /// Whether somebody listens by now on a port that was ours to bind: a silent socket keeps nobody from that, and another port may have
    /// been waited for since. Then all of them are let go, to be claimed again within the same time.
    fn lost_one(&mut self) -> bool {
        if self.policy.listen || !std::mem::take(&mut self.apart) || self.specs.len() < 2 {
            return false;
        }
        let lost = self.attempts.iter().any(Attempt::is_lost);
        if lost {
            self.attempts.iter_mut().for_each(Attempt::release);
        }
        lost
    }

    fn fall_back(&mut self, position: usize) -> Result<bool, Stop> {
        let Some(spec) = self.specs.get(position) else { return Ok(false) };
        let avoid = self.avoid(spec.protocol);
        let v6_only = v6_only(spec, self.specs);
        let listen = self.policy.listen;
        let found = match self.policy.fallback {
            Fallback::None => None,
            // Above "any port" there is none.
            _ if spec.port == 0 => None,
            Fallback::Next(count) => next_ports(spec.port, count, &avoid, &range::reserved())
                .map(|port| Attempt::new(&spec.with_port(port), v6_only))
                .find_map(|mut attempt| matches!(wait::acquire(&mut attempt, listen), Tried::Ours).then_some(attempt)),
            Fallback::Any => any_port(spec, v6_only, listen, &avoid),
        };
        let Some(found) = found else { return Ok(false) };
        let told = if self.policy.fallback == Fallback::Any { "any" } else { "next" };
        let (what, port) = (advice::label(spec), found.port().unwrap_or_default());
        let local = range::local();
        // From there the kernel takes the ports of outgoing connections, so the next start may find it gone.
        let risky = if self.policy.fallback != Fallback::Any && local.contains(&port) && !local.contains(&spec.port) {
            ", which lies in net.ipv4.ip_local_port_range: any outgoing connection may take it".to_owned()
        } else {
            String::new()
        };
        tracing::warn!(port, "{what} is still busy: falling back to port {port} (--fallback {told}){risky}");
        if let Some(attempt) = self.attempts.get_mut(position) {
            *attempt = found;
        }
        Ok(true)
    }

    /// The ports that a fallback of this protocol must not take: those that specs name, of either protocol, and those already claimed.
    fn avoid(&self, protocol: Protocol) -> Vec<u16> {
        let same = self.specs.iter().zip(&self.attempts).filter(|(spec, _)| spec.protocol == protocol);
        let claimed = same.filter_map(|(_, attempt)| attempt.port());
        self.specs.iter().map(|spec| spec.port).chain(claimed).collect()
    }

    /// The diagnosis: the port that could not be had, and every later one that is busy too.
    fn give_up(&mut self, position: usize) -> Stop {
        let mut lines = Vec::new();
        for other in self.order.iter().skip_while(|other| **other != position) {
            let (Some(attempt), Some(spec)) = (self.attempts.get_mut(*other), self.specs.get(*other)) else { continue };
            if *other == position || matches!(attempt.bind(), Tried::Busy) {
                attempt.release();
                let look = holder::look(spec, Depth::Programs);
                lines.extend(advice::busy(spec, &look, self.policy.wait, self.policy.fallback));
            }
        }
        Stop::Error(Error::PortBusy(lines))
    }

    fn into_claims(self) -> Result<Vec<Claim>, Stop> {
        let parts = self.specs.iter().zip(self.attempts).zip(self.waited);
        let claims = parts.map(|((spec, attempt), waited)| {
            let tries = attempt.tries;
            let (address, socket, cookie) = attempt.into_socket()?;
            Some(Claim { spec: spec.clone(), port: address.port(), addr: address.ip(), socket, cookie, waited, tries })
        });
        claims
            .collect::<Option<Vec<Claim>>>()
            .ok_or_else(|| Stop::Error(Error::cannot("a claimed socket has no address: start again")))
    }
}

/// A port of the kernel's choice that no spec names. Those it offers in vain are held until it has offered another one.
fn any_port(spec: &Spec, v6_only: bool, listen: bool, avoid: &[u16]) -> Option<Attempt> {
    let mut vain: Vec<Attempt> = Vec::new();
    while vain.len() <= avoid.len().saturating_add(OFFERS) {
        let mut attempt = Attempt::new(&spec.with_port(0), v6_only);
        match wait::acquire(&mut attempt, listen) {
            Tried::Ours if attempt.port().is_some_and(|port| !avoid.contains(&port)) => return Some(attempt),
            Tried::Ours | Tried::Busy => vain.push(attempt),
            Tried::Never(_) => return None,
        }
    }
    None
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

/// The candidates of `next:count`, nearest first.
fn next_ports<'a>(
    asked: u16,
    count: u16,
    avoid: &'a [u16],
    reserved: &'a [RangeInclusive<u16>],
) -> impl Iterator<Item = u16> + 'a {
    let above = asked.checked_add(1).map(|first| first..=asked.saturating_add(count));
    let above = above.into_iter().flatten();
    above.filter(|port| !avoid.contains(port) && !reserved.iter().any(|range| range.contains(port)))
}

#[cfg(test)]
mod tests {
    use super::{Protocol, Spec, ascending, next_ports, v6_only};

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
    fn the_next_ports() {
        let next = |asked, count, avoid: &[u16]| next_ports(asked, count, avoid, &[8083..=8084]).collect::<Vec<u16>>();
        assert_eq!(next(8080, 3, &[]), [8081, 8082]);
        assert_eq!(next(8080, 6, &[8081]), [8082, 8085, 8086]);
        assert_eq!(next(65533, 100, &[]), [65534, 65535]);
        assert!(next(65535, 100, &[]).is_empty());
    }

    #[test]
    fn the_ipv6_wildcard_alone_answers_ipv4_too() {
        let all = [spec("::", 80), spec("0.0.0.0", 80), spec("::", 81), spec("", 82)];
        let only: Vec<bool> = all.iter().map(|spec| v6_only(spec, &all)).collect();
        assert_eq!(only, [true, false, false, false]);
    }
}
