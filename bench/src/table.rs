//! Owns the formatting of numbers, and tables in Markdown. Must not know what they mean.

use crate::samples::Samples;

/// The cells of a row, from anything that can be formatted.
#[macro_export]
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($cell.to_string()),*] };
}

/// A table: the first column is text, all others are numbers.
pub fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<_> = head.iter().map(ToString::to_string).collect();
    let rule: Vec<_> =
        (0..head.len()).map(|column| if column == 0 { "---".to_owned() } else { "---:".to_owned() }).collect();
    [line(&head), line(&rule)].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}

/// `12,345`.
pub fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut written = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            written.push(',');
        }
        written.push(digit);
    }
    if number < 0 { format!("-{written}") } else { written }
}

/// Nanoseconds as microseconds.
pub fn us(nanoseconds: i64) -> String {
    let value = nanoseconds as f64 / 1e3;
    if value >= 10.0 { thousands(value.round_ties_even() as i64) } else { format!("{value:.1}") }
}

/// Nanoseconds as microseconds: the minimum, the median and the 99th percentile, as most tables have them.
pub fn spread(samples: &Samples) -> [String; 3] {
    [us(samples.minimum()), us(samples.median()), us(samples.p99())]
}

/// Nanoseconds as whole milliseconds.
pub fn ms(nanoseconds: i64) -> String {
    format!("{:.0}", nanoseconds as f64 / 1e6)
}

/// A ratio, with as many digits as are meaningful.
pub fn times(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (number, written) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (-1234, "-1,234"),
            (1_234_567, "1,234,567"),
            (i64::MIN, "-9,223,372,036,854,775,808"),
        ] {
            assert_eq!(thousands(number), written);
        }
        for (nanoseconds, written) in
            [(0, "0.0"), (9_940, "9.9"), (10_000, "10"), (1_234_567, "1,235"), (-5_000, "-5.0")]
        {
            assert_eq!(us(nanoseconds), written);
        }
        for (ratio, written) in [(0.984, "0.98"), (9.994, "9.99"), (10.0, "10"), (2295.4, "2295")] {
            assert_eq!(times(ratio), written);
        }
        assert_eq!((ms(303_600_000).as_str(), mib(2_335_848).as_str()), ("304", "2.23"));
    }

    #[test]
    fn a_table() {
        let rows = [row!["one", 1, us(1_500)], row!["two", 22, "–"]];
        let expected = "| what | n | µs |\n| --- | ---: | ---: |\n| one | 1 | 1.5 |\n| two | 22 | – |\n";
        assert_eq!(markdown(&["what", "n", "µs"], &rows), expected);
    }
}
