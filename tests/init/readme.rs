//! The excerpt at the head of the README matches the program's output.

use crate::harness::place;
use crate::run;

/// A line without what differs from run to run: numbers, and the unit of a duration.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        if !letter.is_ascii_digit() {
            shape.push(letter);
            continue;
        }
        while letters.next_if(|next| next.is_ascii_digit() || *next == '.').is_some() {}
        shape.push('0');
    }
    shape.replace("0ms", "0s")
}

/// reberth's own lines of a text, by their shape.
fn said(text: &str) -> Vec<String> {
    text.lines().filter(|line| line.contains("reberth: ")).map(shape).collect()
}

#[test]
fn the_excerpt_is_the_output_of_the_second_of_two_instances() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, excerpt) = readme.split_once("```console\n").unwrap();
    let (excerpt, _) = excerpt.split_once("```").unwrap();
    // The README wraps long lines.
    let mut whole = String::new();
    for line in excerpt.lines() {
        let begins = line.starts_with("20") || line.starts_with("$ ") || line.starts_with("Serving");
        whole.push_str(if begins { "\n" } else { "" });
        whole.push_str(line);
    }

    let port = place::free_port().to_string();
    let instance = || run(&["--port", &port], ["python3", "-m", "http.server", "{port}"]);
    let mut first = instance().start();
    first.stderr_until("ready");
    let mut second = instance().start();
    second.stderr_until("waiting");
    first.signal(2);
    second.stderr_until("ready");
    assert_eq!(said(&second.stderr()), said(&whole), "the program, and the README");
    second.signal(15);
    second.finish().expect_code(143);
    first.finish();
}
