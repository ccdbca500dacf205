//! Owns whole lives: each peer is started and exits, in turns, and the kernel reports what that took. Must not know which peers these are.

use serde::{Deserialize, Serialize};

use crate::bench::Peer;
use crate::clock::now;
use crate::fail::{Context, Outcome};
use crate::isolate::in_network;
use crate::rounds::{Random, in_turns};
use crate::samples::{Found, Samples, ratio};
use crate::spawn::{Null, Program, ended_badly};
use crate::sys::End;

/// One life. The fields are small, because a child starts with the memory in which they are collected.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Life {
    wall: u32,
    cpu: u32,
    max_rss: u32,
    page_faults: u32,
}

/// All lives of one peer.
pub struct Lives {
    /// Nanoseconds from the start until the exit is reported.
    pub wall: Samples,
    /// Microseconds, user and system, children included.
    pub cpu: Samples,
    /// KiB; never below that of the process that started it.
    pub max_rss: Samples,
    pub page_faults: Samples,
}

impl Lives {
    fn of(lives: &[Life]) -> Self {
        let all = |number: fn(&Life) -> u32| lives.iter().map(|life| i64::from(number(life))).collect();
        Self {
            wall: all(|life| life.wall),
            cpu: all(|life| life.cpu),
            max_rss: all(|life| life.max_rss),
            page_faults: all(|life| life.page_faults),
        }
    }

    pub fn against(&self, peer: &Self) -> Against {
        let wall = ratio(self.wall.median(), peer.wall.median());
        let cpu = ratio(self.cpu.median(), peer.cpu.median());
        let least = [ratio(self.wall.minimum(), peer.wall.minimum()), ratio(self.cpu.minimum(), peer.cpu.minimum())];
        let words = format!("{wall:.2} wall, {cpu:.2} CPU (minima: {:.2}, {:.2})", least[0], least[1]);
        Against { wall, cpu, words }
    }
}

/// One peer's medians as multiples of another's. The text has the ratios of the minima too, which a busy machine disturbs least.
pub struct Against {
    pub wall: f64,
    pub cpu: f64,
    pub words: String,
}

impl Against {
    /// Whether both are at most the limit.
    pub fn within(&self, limit: f64) -> bool {
        self.wall.max(self.cpu) <= limit
    }
}

/// Measures lives of all peers, in a separate network namespace. What `around` returns exists during the whole measurement.
///
/// # Errors
/// A peer does not start, or exits with another code.
pub fn measure<G>(peers: &[Peer], rounds: usize, around: impl FnOnce() -> Outcome<G>) -> Outcome<Found<Lives>> {
    let lives = in_network(|| {
        let _around = around()?;
        live(peers, rounds)
    })?;
    Ok(peers.iter().map(|peer| peer.label.clone()).zip(lives.iter().map(|lives| Lives::of(lives))).collect())
}

fn live(peers: &[Peer], rounds: usize) -> Outcome<Vec<Vec<Life>>> {
    let null = Null::open()?;
    let mut lives: Vec<_> = peers.iter().map(|_| Vec::with_capacity(rounds)).collect();
    in_turns(peers.len(), 3, rounds, &mut Random::new(), |number, counts, _| {
        let peer = &peers[number];
        let began = now();
        let program = Program::start(&peer.command, &null.streams())?;
        let (end, usage) = program.wait()?;
        let wall = now() - began;
        if !matches!(end, End::Code(code) if (0..=peer.worst_code).contains(&code)) {
            return Err(ended_badly(&peer.command, end));
        }
        if counts {
            let small = |number: i64| u32::try_from(number).context(format_args!("{}: it took too long", peer.command));
            lives[number].push(Life {
                wall: small(wall)?,
                cpu: small(usage.cpu)?,
                max_rss: small(usage.max_rss_kib)?,
                page_faults: small(usage.page_faults)?,
            });
        }
        Ok(())
    })?;
    Ok(lives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_of_medians_and_of_minima() {
        let lives = |numbers: &[u32]| {
            let life = |&number| Life { wall: number, cpu: number * 2, max_rss: 0, page_faults: 0 };
            Lives::of(&numbers.iter().map(life).collect::<Vec<_>>())
        };
        let against = lives(&[90, 75, 100]).against(&lives(&[100, 120, 160]));
        assert_eq!(against.words, "0.75 wall, 0.75 CPU (minima: 0.75, 0.75)");
        assert!(against.within(0.75) && !against.within(0.74));
    }
}
