//! Owns what the other modules read: the pages, everything else that shows how to run reberth, and its help. Must not know what is checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a folder of the repository; none if there is no such folder.
pub fn below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().path())
        // Python leaves this beside an app that was run; it is not a document.
        .filter(|path| !path.ends_with("__pycache__"))
        .flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] })
        .collect()
}

/// The pages: everything written for readers.
pub fn pages() -> Vec<(PathBuf, String)> {
    let top = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let folders = ["docs", "examples", "tests"].into_iter().flat_map(|folder| below(&root().join(folder)));
    let paths: Vec<_> = top.chain(folders).filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    assert!(paths.len() > 15, "the pages are there: {paths:?}");
    paths.into_iter().map(|path| (path.clone(), read(path))).collect()
}

/// Everything that shows a user how to run reberth: the pages, images and manifests.
pub fn documents() -> Vec<(PathBuf, String)> {
    let mut all = pages();
    let others: Vec<_> =
        ["docker", "k8s", "examples"].into_iter().flat_map(|folder| below(&root().join(folder))).collect();
    assert!(others.len() > 8, "the manifests are there: {others:?}");
    all.extend(
        others
            .into_iter()
            .filter(|path| path.extension().is_none_or(|e| e != "md"))
            .map(|path| (path.clone(), read(path))),
    );
    all
}

/// The words of a text that start with `prefix` and continue with letters that `more` allows.
pub fn words<'a>(text: &'a str, prefix: &str, more: fn(char) -> bool) -> BTreeSet<&'a str> {
    let before = |at: usize| text[..at].chars().next_back();
    text.match_indices(prefix)
        .filter(|(at, _)| !before(*at).is_some_and(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '!'))
        .map(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c| !more(c)).unwrap_or(rest.len());
            &text[at..at + prefix.len() + end]
        })
        .filter(|word| word.len() > prefix.len())
        .collect()
}

/// A page without its code: fenced blocks and `spans`.
pub fn prose(page: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.extend(line.split('`').enumerate().map(|(n, part)| if n % 2 == 0 { part } else { "code" }));
        }
        prose.push('\n');
    }
    prose
}

/// The targets of a page's links.
pub fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    prose.match_indices("](").map(|(at, _)| prose[at + 2..].split(')').next().unwrap().to_owned()).collect()
}

/// The code on a page: spans, and lines of blocks without their prompt.
pub fn code(page: &str) -> Vec<String> {
    let mut fenced = false;
    let mut code = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            let line = line.trim();
            code.push(line.strip_prefix("$ ").unwrap_or(line).to_owned());
        } else {
            code.extend(line.replace("\\|", "|").split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    code
}

pub fn help(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_reberth")).args([command, "--help"]).output().unwrap();
    assert!(output.status.success(), "reberth {command} --help: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The flags that a command's help lists, without the dashes.
pub fn flags(command: &str) -> BTreeSet<String> {
    let is_flag = |c: char| c.is_ascii_lowercase() || c == '-';
    help(command)
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| words(line, "--", is_flag).into_iter().next().map(|word| word[2..].to_owned()))
        .collect()
}
