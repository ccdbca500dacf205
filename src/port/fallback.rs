//! Owns finding another port if the configured one stays busy. Must not know when that is.

use std::ops::RangeInclusive;

use super::attempt::{Attempt, Hold, Tried};
use super::policy::Fallback;
use super::range;
use super::spec::Spec;

/// How many unsuitable ports the kernel may choose.
const OFFERS: usize = 16;

/// A port to use instead of `spec`'s, acquired. `avoid`: ports not to take. `None`: no fallback is configured, or no
/// port is free.
pub fn find(spec: &Spec, v6_only: bool, hold: Hold, fallback: Fallback, avoid: &[u16]) -> Option<Attempt> {
    match fallback {
        Fallback::None => None,
        // `spec` already means any port.
        _ if spec.port == 0 => None,
        Fallback::Next(count) => next_ports(spec.port, count, avoid, &range::reserved())
            .map(|port| Attempt::to(hold, &spec.with_port(port), v6_only))
            .find_map(|mut attempt| matches!(attempt.acquire(), Tried::Ours).then_some(attempt)),
        Fallback::Any => any_port(spec, v6_only, hold, avoid),
    }
}

/// A port of the kernel's choice that no spec names. Unsuitable ones are held until it has chosen another.
fn any_port(spec: &Spec, v6_only: bool, hold: Hold, avoid: &[u16]) -> Option<Attempt> {
    let mut vain: Vec<Attempt> = Vec::new();
    while vain.len() <= avoid.len().saturating_add(OFFERS) {
        let mut attempt = Attempt::to(hold, &spec.with_port(0), v6_only);
        match attempt.acquire() {
            Tried::Ours if attempt.port().is_some_and(|port| !avoid.contains(&port)) => return Some(attempt),
            Tried::Ours | Tried::Busy => vain.push(attempt),
            Tried::Never(_) => return None,
        }
    }
    None
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
    use super::next_ports;

    #[test]
    fn the_next_ports() {
        let next = |asked, count, avoid: &[u16]| next_ports(asked, count, avoid, &[8083..=8084]).collect::<Vec<u16>>();
        assert_eq!(next(8080, 3, &[]), [8081, 8082]);
        assert_eq!(next(8080, 6, &[8081]), [8082, 8085, 8086]);
        assert_eq!(next(65533, 100, &[]), [65534, 65535]);
        assert!(next(65535, 100, &[]).is_empty());
    }
}
