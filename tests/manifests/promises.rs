//! Owns the check of the map in tests/README.md: every file and test that it names exists, and every file with tests is named. Must not
//! know what they promise.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::documents::{below, read, root};

/// A row of the map: the files in its last cell, below tests/, and the tests named there.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    files: Vec<String>,
    tests: Vec<String>,
}

/// The rows of all tables. A test has a `_` and no dot; everything else in the last cell is a file.
fn rows(page: &str) -> Vec<Row> {
    let cells = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let last = cells.filter_map(|line| line.trim_end_matches(" |").rsplit(" | ").next());
    last.map(|cell| {
        let spans = cell.split('`').skip(1).step_by(2).map(str::to_owned);
        let (files, tests) = spans.partition(|span| span.contains('.') || !span.contains('_'));
        Row { files, tests }
    })
    .collect()
}

/// What a row names that does not exist.
fn lost(row: &Row, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let texts: Vec<_> = row.files.iter().map(|file| (file, read(file))).collect();
    let no_file = texts.iter().filter(|(_, text)| text.is_none()).map(|(file, _)| (*file).clone());
    let has =
        |test: &String| texts.iter().any(|(_, text)| text.iter().any(|text| text.contains(&format!("fn {test}("))));
    let no_test = row.tests.iter().filter(|test| !has(test)).map(|test| format!("{test}, in {:?}", row.files));
    no_file.chain(no_test).collect()
}

fn tests() -> PathBuf {
    root().join("tests")
}

fn within(file: &str) -> Option<String> {
    let path = tests().join(file);
    path.is_file().then(|| std::fs::read_to_string(path).unwrap())
}

#[test]
fn every_file_and_test_on_the_map_exists() {
    let rows = rows(&read("tests/README.md"));
    assert!(rows.len() > 40, "the rows are found: {}", rows.len());
    let lost: Vec<_> = rows.iter().flat_map(|row| lost(row, within)).collect();
    assert!(lost.is_empty(), "tests/README.md names what is not below tests/: {lost:#?}");
}

#[test]
fn every_file_below_tests_is_on_the_map() {
    let rows = rows(&read("tests/README.md"));
    let named: BTreeSet<_> = rows.iter().flat_map(|row| &row.files).map(|file| tests().join(file)).collect();
    let is_message =
        |path: &Path| path.starts_with(tests().join("golden")) || path.extension().is_some_and(|e| e == "md");
    let unnamed: Vec<_> =
        below(&tests()).into_iter().filter(|path| !is_message(path) && !named.contains(path)).collect();
    assert!(unnamed.is_empty(), "name these in a row of tests/README.md, beside what they promise: {unnamed:#?}");
}

#[test]
fn a_missing_test_would_be_found() {
    let page =
        "| promise | where |\n| --- | --- |\n| one `--port` | `a/b.rs`: `is_there`, `is_gone` |\n| two | `c/d.rs` |\n";
    let rows = rows(page);
    assert_eq!(rows.len(), 3, "{rows:?}");
    let read = |file: &str| (file == "a/b.rs").then(|| "fn is_there() {}".to_owned());
    let lost: Vec<_> = rows.iter().flat_map(|row| lost(row, read)).collect();
    assert_eq!(lost, ["is_gone, in [\"a/b.rs\"]", "c/d.rs"]);
}
