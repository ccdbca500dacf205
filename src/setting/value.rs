//! Owns the text forms that several settings share: durations, booleans, words, numbers, lists. Must not know which setting a value
//! belongs to: an error is the reason and the accepted form, without a name.

use std::time::Duration;

/// The longest accepted duration: 136 years. Adding it to an `Instant` cannot overflow.
pub const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

const DURATION: &str = "a duration is written 250ms, 10s, 1m30s or 2h";

/// Units of a duration in the order in which they must appear, each at most once.
const UNITS: [(&str, u128); 4] =
    [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];

/// A duration: `0`, or numbers with units in descending order (`1h30m`, `1.5s`). A bare number is an error with a hint, because tools
/// disagree whether it means seconds or milliseconds. Fractions of a nanosecond are cut off.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A thousand seconds and more are unlikely, and so are a few milliseconds. In between, either is plausible.
        let meant = match text.len() {
            1 | 2 => format!("{text}s?"),
            3 => format!("{text}ms or {text}s?"),
            _ => format!("{text}ms?"),
        };
        return Err(format!("a duration needs a unit: 250ms, 10s, 1m30s, 2h (did you mean {meant})"));
    }
    let (mut rest, mut units, mut nanos) = (text, UNITS.iter(), 0u128);
    loop {
        let (number, tail) = split(rest, |byte| byte.is_ascii_digit() || byte == b'.');
        let (unit, tail) = split(tail, |byte| !byte.is_ascii_digit() && byte != b'.');
        let scale = units.find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
        let (Some(scale), Some(amount)) = (scale, decimal(number)) else {
            return Err(DURATION.into());
        };
        nanos = amount
            .map(|(whole, fraction)| u128::from(whole) * scale + u128::from(fraction) * scale / 1_000_000_000)
            .and_then(|part| nanos.checked_add(part))
            .filter(|sum| *sum <= LONGEST.as_nanos())
            .ok_or_else(|| format!("too long: {DURATION}, at most 1000000h"))?;
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    let below = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
    Ok(Duration::new(seconds, below))
}

/// Splits after the longest prefix of matching bytes.
fn split(text: &str, matches: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !matches(byte)).unwrap_or(text.len());
    // A multi-byte character matches as a whole or not at all, so `end` is a boundary. `unwrap_or` avoids a panic if that were wrong.
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// `12` or `1.5` as whole and billionths. `None`: not a number; `Some(None)`: too large.
fn decimal(text: &str) -> Option<Option<(u64, u64)>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let billionths: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(whole.parse().ok().zip(billionths.parse().ok()))
}

/// A duration of more than zero.
pub fn positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than zero: 250ms, 10s, 1m30s, 2h".into()),
        some => Ok(some),
    }
}

/// `1`, `true`, `yes`, `on`, `0`, `false`, `no`, `off`, in any case.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("must be 1, true, yes or on, or 0, false, no or off".into()),
    }
}

/// Whether a value is this word, in any case. Every keyword of a setting is compared here, so that no command takes `None` as `none` while
/// another takes it as a name.
pub fn is(text: &str, word: &str) -> bool {
    text.eq_ignore_ascii_case(word)
}

/// One word of a fixed set, in any case. The error lists all words, and suggests the nearest one if it is near.
pub fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = words.iter().find(|(word, _)| is(text, word)) {
        return Ok(*value);
    }
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let mut reason = format!("must be one of {}", names.join(", "));
    let lower = text.to_ascii_lowercase();
    if let Some(near) = nearest(&lower, names.iter().copied()).filter(|near| distance(&lower, near) <= 2) {
        reason.push_str(&format!(" (did you mean {near}?)"));
    }
    Err(reason)
}

/// A decimal number without sign, between `min` and `max`.
pub fn number(text: &str, min: u32, max: u32) -> Result<u32, String> {
    Some(text)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("must be a number from {min} to {max}"))
}

/// `FROM=TO,...`. White space around the parts is ignored, and `none` is the empty list. A duplicate FROM is an error, because only one
/// of the two could apply.
pub fn pairs<F: PartialEq, T>(
    text: &str,
    form: &str,
    from: impl Fn(&str) -> Result<F, String>,
    to: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<(F, T)>, String> {
    let mut pairs: Vec<(F, T)> = Vec::new();
    if is(text, "none") {
        return Ok(pairs);
    }
    for item in text.split(',') {
        let reason = |reason: String| format!("{}: {reason}; {form}", shown(item));
        let (left, right) = item.split_once('=').ok_or_else(|| reason("no '='".into()))?;
        let pair = (from(left.trim()).map_err(reason)?, to(right.trim()).map_err(reason)?);
        if pairs.iter().any(|(known, _)| *known == pair.0) {
            return Err(reason(format!("{} comes twice", left.trim())));
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

/// A value for a one-line message: verbatim, or quoted and escaped if it would break the line or hide its end. At most 200 characters
/// of it.
pub fn shown(text: &str) -> String {
    let masked = without_login(text);
    let text = masked.as_deref().unwrap_or(text);
    let plain = !text.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace());
    let mut cut: String = text.chars().take(200).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    if plain { cut } else { format!("{cut:?}") }
}

/// A URL without its `USER:PASSWORD@`, which must not be logged. `None`: it has none.
fn without_login(text: &str) -> Option<String> {
    // A password may contain the characters that end an authority. In what follows most schemes there is no other `@`, so the exceptions
    // are listed: a scheme that is new here is masked.
    let starts = |text: &str, word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if let Some((scheme, rest)) = text.split_once(':')
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && !["http", "https", "unix", "file"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
        && !starts(rest, "unix:")
        && !rest.starts_with(' ')
    {
        let (login, place) = rest.rsplit_once('@')?;
        let slashes = if login.starts_with("//") { "//" } else { "" };
        return Some(format!("{scheme}:{slashes}***@{place}"));
    }
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (login, _) = authority.rsplit_once('@')?;
    Some(format!("{scheme}://***{}", rest.get(login.len()..)?))
}

/// Escapes control characters: the user's text must neither break the line nor control the terminal.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// The candidate with the smallest edit distance, the first one of several.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates.min_by_key(|candidate| distance(word, candidate))
}

/// The edit distance: insert, remove, replace, or swap two neighbours. Compares bytes, because all known words are ASCII, and does not
/// compare words far longer than any known one.
pub fn distance(left: &str, right: &str) -> usize {
    if left.len() > 64 {
        return left.len();
    }
    let right = right.as_bytes();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    let mut previous = None;
    for (row, byte) in left.bytes().enumerate() {
        let mut line = vec![row + 1];
        for (column, other) in right.iter().enumerate() {
            let at = |line: &[usize], column: usize| line.get(column).copied().unwrap_or(usize::MAX - 1);
            let replaced = at(&above, column) + usize::from(byte != *other);
            let mut cost = replaced.min(at(&above, column + 1) + 1).min(at(&line, column) + 1);
            let swapped =
                column.checked_sub(1).filter(|left| right.get(*left) == Some(&byte) && previous == Some(*other));
            if let Some(column) = swapped {
                cost = cost.min(at(&before, column) + 1);
            }
            line.push(cost);
        }
        before = std::mem::replace(&mut above, line);
        previous = Some(byte);
    }
    above.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("0", ms(0)),
            ("0s", ms(0)),
            ("250ms", ms(250)),
            ("10s", ms(10_000)),
            ("1m30s", ms(90_000)),
            ("2h", ms(7_200_000)),
            ("1h1m1s1ms", ms(3_661_001)),
            ("1.5s", ms(1500)),
            ("0.25s", ms(250)),
            ("1.5h", ms(5_400_000)),
            ("2h5ms", ms(7_200_005)),
            ("0.0000015s", Duration::from_nanos(1500)),
            ("999999h", Duration::from_secs(999_999 * 3600)),
        ] {
            assert_eq!(duration(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "10",
            "s",
            "10o",
            "1s1m",
            "1s1s",
            "-1s",
            "+1s",
            "1 s",
            " 1s",
            "1s ",
            "1us",
            "1µs",
            "1d",
            "1S",
            ".5s",
            "1.s",
            "1..5s",
            "1.5",
            "1e3s",
            "1s5",
            "99999999999999999999999999h",
            "18446744073709551615h",
            "2000000h",
            "0.0",
            "ms",
            "1msx",
            "१s",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("10").is_err_and(|reason| reason.contains("did you mean 10s?")));
        assert!(duration("2000000h").is_err_and(|reason| reason.contains("too long")));
        assert!(positive("0").is_err() && positive("0ms").is_err() && positive("1ms").is_ok());
    }

    #[test]
    fn words_and_numbers() {
        for yes in ["1", "true", "yes", "on", "TRUE", "On"] {
            assert_eq!(boolean(yes), Ok(true), "{yes}");
        }
        for no in ["0", "false", "no", "off"] {
            assert_eq!(boolean(no), Ok(false), "{no}");
        }
        assert!(boolean("2").is_err() && boolean("").is_err());
        let words = [("prod", 1), ("dev", 2), ("test", 3)];
        assert_eq!(word("Dev", &words), Ok(2));
        assert_eq!(word("prdo", &words), Err("must be one of prod, dev, test (did you mean prod?)".into()));
        assert_eq!(word("staging", &words), Err("must be one of prod, dev, test".into()));
        assert_eq!(number("65535", 1, 65535), Ok(65535));
        for bad in ["", "0", "65536", "-1", "+1", "1.0", "99999999999"] {
            assert!(number(bad, 1, 65535).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_in_any_case() {
        let number = |text: &str| number(text, 0, 9);
        for none in ["none", "None", "NONE"] {
            assert!(is(none, "none"));
            assert_eq!(pairs(none, "", number, number), Ok(vec![]));
            assert_eq!(crate::port::spec::list(none), Ok(vec![]));
        }
        assert!(!is("non", "none") && !is("none ", "none") && !is("", "none"));
    }

    #[test]
    fn distances() {
        for (left, right, want) in [
            ("", "", 0),
            ("", "ab", 2),
            ("ab", "", 2),
            ("wait", "wiat", 1),
            ("wait", "wat", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(left, right), want, "{left} {right}");
        }
        assert_eq!(nearest("REBERTH_WIAT", super::super::table::variables()), Some("REBERTH_WAIT"));
    }

    #[test]
    fn values_stay_on_one_line() {
        assert_eq!(shown("10o"), "10o");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a\nb\x1b"), "\"a\\nb\\u{1b}\"");
        assert_eq!(shown("http://user:pass@h/x?a@b"), "http://***@h/x?a@b");
        assert_eq!(shown(&"é".repeat(300)).chars().count(), 201);
    }
}
