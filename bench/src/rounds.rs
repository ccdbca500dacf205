//! Owns rounds and the order of turns. Must not know which peers take them.

use crate::fail::Outcome;

/// Every run draws the same numbers: any difference between two runs comes from the machine.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(1)
    }

    /// A number below `end` (SplitMix64).
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The high half, scaled: without a modulo, and so without a bias worth mentioning.
        u32::try_from(((mixed >> 32) * u64::from(end)) >> 32).unwrap_or(0)
    }

    fn shuffle(&mut self, order: &mut [usize]) {
        for last in (1..order.len()).rev() {
            order.swap(last, self.below(u32::try_from(last + 1).unwrap_or(u32::MAX)) as usize);
        }
    }
}

/// Lets `peers` take turns, by number, in `warm_up` rounds that do not count and `rounds` that do, each in another order. In turns, so that
/// a disturbance affects all. In another order, because a program finds the caches as the previous one left them, and would always follow
/// the same one.
///
/// # Errors
/// The first error of a turn.
pub fn in_turns(
    peers: usize,
    warm_up: usize,
    rounds: usize,
    random: &mut Random,
    mut turn: impl FnMut(usize, bool, &mut Random) -> Outcome<()>,
) -> Outcome<()> {
    let mut order: Vec<_> = (0..peers).collect();
    for round in 0..warm_up + rounds {
        random.shuffle(&mut order);
        for &peer in &order {
            turn(peer, round >= warm_up, random)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_one_turn_a_round_and_warming_up_does_not_count() {
        let (mut turns, mut orders) = (vec![(0, 0); 5], Vec::new());
        in_turns(5, 2, 40, &mut Random::new(), |peer, counts, _| {
            turns[peer].0 += 1;
            turns[peer].1 += usize::from(counts);
            orders.push(peer);
            Ok(())
        })
        .unwrap();
        assert_eq!(turns, [(42, 40); 5]);
        let mut rounds: Vec<_> = orders.chunks(5).collect();
        rounds.sort();
        rounds.dedup();
        assert!(rounds.len() > 20, "{} different orders of 42", rounds.len());
    }

    #[test]
    fn each_place_in_a_round_is_everybodys_as_often() {
        let mut first = [0; 4];
        let mut turn = 0;
        in_turns(4, 0, 4000, &mut Random::new(), |peer, _, _| {
            first[peer] += usize::from(turn % 4 == 0);
            turn += 1;
            Ok(())
        })
        .unwrap();
        assert!(first.iter().all(|&times| (900..1100).contains(&times)), "{first:?}");
    }

    #[test]
    fn a_failed_turn_ends_it() {
        let mut turns = 0;
        let outcome = in_turns(3, 0, 3, &mut Random::new(), |_, _, _| {
            turns += 1;
            crate::fail::fail("gone")
        });
        assert_eq!((turns, outcome.unwrap_err().to_string().as_str()), (1, "gone"));
    }
}
