//! Owns the comparison of whole messages with the files in tests/golden. Must not know which program writes them.

use std::path::Path;

/// The messages, without times and values that differ from run to run, must equal the file `name`. `places`: placeholders for the values of
/// this run.
#[track_caller]
pub fn golden(name: &str, said: &str, places: &[(&str, &str)]) {
    let mut text = String::new();
    for line in said.lines() {
        // `TIME LEVEL reberth: `
        let line = match line.split_once(" reberth: ") {
            Some((head, message)) if head.contains('T') => {
                format!("{} {message}", head.rsplit(' ').next().unwrap_or_default())
            }
            _ => line.to_owned(),
        };
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for (place, value) in places {
        text = text.replace(value, &format!("{{{place}}}"));
    }
    let text = masked(&text);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == wanted, "{}:\n{wanted}\nbut it says:\n{text}\nthat is:\n{said}", path.display());
}

/// Masks times of day, seconds left, elapsed times and the uid.
fn masked(text: &str) -> String {
    text.lines().map(|line| masked_line(line) + "\n").collect()
}

fn masked_line(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let bare = word.trim_end_matches([',', ':', ';']);
        let rest = &word[bare.len()..];
        let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let seconds = bare.strip_suffix('s').filter(|text| number(text));
        let last = |back: usize| words.iter().rev().nth(back).map_or("", String::as_str);
        let shown = if bare.len() == 20 && bare.starts_with("20") && bare.ends_with('Z') {
            "TIME"
        } else if last(0) == "uid" && number(bare) {
            "UID"
        } else if last(1) == "uid" && bare.starts_with('(') {
            "(USER)"
        } else if last(0) == "after" && number(bare) {
            "N"
        } else if last(0) == "in" && seconds.is_some()
            || rest == ":" && bare.strip_suffix("ms").is_some_and(number)
            || last(0) == "TIME_WAIT," && seconds.is_some_and(|text| text.parse().is_ok_and(|n| (50..=61).contains(&n)))
        {
            "Ns"
        } else {
            bare
        };
        words.push(format!("{shown}{rest}"));
    }
    words.join(" ")
}

/// The text between two others: an advice, exactly as a user types it.
#[track_caller]
pub fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in\n{text}"));
    rest.split_once(after).unwrap_or_else(|| panic!("no {after:?} after {before:?} in\n{text}")).0
}
