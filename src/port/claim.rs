//! Owns the claim as data: its policy, its result, and the order of several claims. Must not know how a claim is made.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub use super::advice::{Given, Voice};
pub use super::attempt::Hold;
use super::policy::{Backoff, Fallback, Wait};
use super::spec::{Protocol, Spec};
use crate::error::Error;
use crate::exit::Code;

/// How ports are claimed. Defaults are chosen elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// One time limit for all ports together.
    pub wait: Wait,
    pub fallback: Fallback,
    pub backoff: Backoff,
    pub hold: Hold,
    /// For the wording of advice.
    pub told: Given,
}

/// A port that we hold while `socket` is open.
#[derive(Debug)]
pub struct Claim {
    /// As configured: its port may be 0, or busy.
    pub spec: Spec,
    /// The port actually claimed.
    pub port: u16,
    /// The address that the socket is bound to. For a wildcard, `[::]`, which also serves IPv4, or `0.0.0.0` on a host
    /// without IPv6.
    pub addr: IpAddr,
    /// Close-on-exec, blocking; whether it listens depends on the policy's [`Hold`].
    pub socket: OwnedFd,
    /// The socket's `SO_COOKIE` in destroy events, for ignoring its own.
    pub cookie: u64,
    /// How long the claim took.
    pub waited: Duration,
    /// How many tries it took.
    pub tries: u32,
    /// The group's meeting point, if another instance provided the socket.
    pub meeting: Option<OwnedFd>,
}

/// Why claiming stopped without the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It failed: bad, forbidden or busy ports.
    Error(Error),
    /// The caller received something that ends the wait, such as TERM; the exit code.
    Ended(Code),
}

/// Ascending by port, protocol and address; port 0 last, so that the kernel cannot choose a port that another spec
/// names.
pub(crate) fn ascending(specs: &[Spec]) -> Vec<usize> {
    let mut order: Vec<(bool, u16, Protocol, Option<IpAddr>, usize)> = specs
        .iter()
        .enumerate()
        .map(|(position, spec)| (spec.port == 0, spec.port, spec.protocol, spec.addr, position))
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(.., position)| position).collect()
}

/// An explicit `[::]` also serves IPv4, unless an IPv4 address is configured for the same port.
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
    fn claims_are_made_in_ascending_order() {
        let udp = Spec { protocol: Protocol::Udp, ..spec("", 80) };
        let specs = [spec("", 0), spec("", 9000), spec("127.0.0.1", 80), udp, spec("", 443)];
        assert_eq!(ascending(&specs), [2, 3, 4, 1, 0]);
    }

    #[test]
    fn the_ipv6_wildcard_alone_serves_ipv4_too() {
        let all = [spec("::", 80), spec("0.0.0.0", 80), spec("::", 81), spec("", 82)];
        let only: Vec<bool> = all.iter().map(|spec| v6_only(spec, &all)).collect();
        assert_eq!(only, [true, false, false, false]);
    }
}
