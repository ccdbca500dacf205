//! Owns the results of rounds: sorted numbers, and their statistics. Must not know their unit.

use std::ops::Index;

/// Numbers of one kind, one per round.
#[derive(Debug)]
pub struct Samples(Vec<i64>);

impl FromIterator<i64> for Samples {
    fn from_iter<I: IntoIterator<Item = i64>>(numbers: I) -> Self {
        let mut sorted: Vec<_> = numbers.into_iter().collect();
        sorted.sort_unstable();
        Self(sorted)
    }
}

impl Samples {
    /// The number below which this percentage of them lies.
    fn percentile(&self, hundredths: usize) -> i64 {
        self.0.get((self.0.len() * hundredths / 100).min(self.0.len().saturating_sub(1))).copied().unwrap_or(0)
    }

    pub fn minimum(&self) -> i64 {
        self.percentile(0)
    }

    pub fn median(&self) -> i64 {
        self.percentile(50)
    }

    pub fn p99(&self) -> i64 {
        self.percentile(99)
    }

    pub fn maximum(&self) -> i64 {
        self.percentile(100)
    }

    pub fn sum(&self) -> i64 {
        self.0.iter().sum()
    }
}

/// The first as a multiple of the second; 0 if there is nothing to compare with.
pub fn ratio(ours: i64, theirs: i64) -> f64 {
    if theirs == 0 { 0.0 } else { ours as f64 / theirs as f64 }
}

/// The result of each peer, by its label, in the order of a table.
pub struct Found<T>(Vec<(String, T)>);

impl<T> Found<T> {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(label, found)| (label.as_str(), found))
    }

    pub fn get(&self, label: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| known == label).map(|(_, found)| found)
    }
}

impl<T> FromIterator<(String, T)> for Found<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(found: I) -> Self {
        Self(found.into_iter().collect())
    }
}

impl<T> Index<&str> for Found<T> {
    type Output = T;

    fn index(&self, label: &str) -> &T {
        self.get(label).unwrap_or_else(|| panic!("no peer has the label '{label}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_samples() {
        for (numbers, minimum, median, p99, maximum) in [
            (vec![7], 7, 7, 7, 7),
            (vec![3, 1, 2], 1, 2, 3, 3),
            (vec![4, 3, 2, 1], 1, 3, 4, 4),
            ((0..1000).rev().collect(), 0, 500, 990, 999),
            ((0..100).collect(), 0, 50, 99, 99),
            (vec![], 0, 0, 0, 0),
        ] {
            let samples: Samples = numbers.iter().copied().collect();
            let found = (samples.minimum(), samples.median(), samples.p99(), samples.maximum());
            assert_eq!(found, (minimum, median, p99, maximum), "{numbers:?}");
            assert_eq!(samples.sum(), numbers.iter().sum::<i64>());
        }
    }

    #[test]
    fn peers_keep_their_order_and_are_found_by_label() {
        let found: Found<_> = [("b".to_owned(), 1), ("a".to_owned(), 2)].into_iter().collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), [("b", &1), ("a", &2)]);
        assert_eq!((found["a"], found.get("c")), (2, None));
    }

    #[test]
    fn a_ratio_to_nothing_is_no_number_of_its_own() {
        assert_eq!((ratio(3, 2), ratio(3, 0)), (1.5, 0.0));
    }
}
