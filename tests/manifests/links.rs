//! Owns the pages as a whole: every link leads somewhere, every page is found from the README, the README is short, and the changelog begins
//! with this version. Must not know what a page says.

use std::collections::BTreeSet;
use std::path::Path;

use crate::documents::{links, pages, read, root};

/// The anchors of a page's headings, by GitHub's rule.
fn anchors(page: &str) -> Vec<String> {
    let mut fenced = false;
    let mut anchors = Vec::new();
    for line in page.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let letters = title.trim().to_lowercase();
        let kept = letters.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        anchors.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    anchors
}

/// What is wrong with the links of a page.
fn dead(path: &Path, page: &str) -> Vec<String> {
    let outside = ["https://", "http://", "mailto:"];
    let is_dead = |link: &String| {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { path.to_owned() } else { path.parent().unwrap().join(file) };
        !target.exists() || !anchor.is_empty() && !anchors(&read(&target)).iter().any(|a| a == anchor)
    };
    links(page).into_iter().filter(|link| !outside.iter().any(|o| link.starts_with(o))).filter(is_dead).collect()
}

#[test]
fn no_link_is_dead() {
    for (path, text) in pages() {
        assert_eq!(dead(&path, &text), [""; 0], "{}: links that lead nowhere", path.display());
        let mut seen = BTreeSet::new();
        for anchor in anchors(&text) {
            // A second heading with the same words would get another anchor than the one checked here. A changelog repeats its own.
            assert!(
                seen.insert(anchor.clone()) || path.ends_with("CHANGELOG.md"),
                "{}: two headings #{anchor}",
                path.display()
            );
        }
    }
}

/// What is wrong with the paths of this repository that a page names in its text. A path has a folder of ours, or ends as a source file does;
/// ARCHITECTURE.md names files below `src`, tests/README.md those beside itself.
fn stale(path: &Path, page: &str) -> Vec<String> {
    const FOLDERS: [&str; 11] =
        ["src/", "tests/", "bench/", "pages/", "xtask/", "fuzz/", "link/", "docker/", "k8s/", "examples/", ".ci/"];
    let spans = page.split('`').skip(1).step_by(2);
    let named = spans.filter(|span| FOLDERS.iter().any(|folder| span.starts_with(folder)) || span.ends_with(".rs"));
    // A word in capitals stands for a name.
    let plain =
        named.filter(|span| span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "/._-".contains(c)));
    // What a fuzzer leaves is there once it has found something.
    let plain = plain.filter(|span| *span != "fuzz/artifacts");
    let places = [root().to_owned(), root().join("src"), path.parent().unwrap().to_owned()];
    let is_there = |span: &str| places.iter().any(|place| place.join(span).exists());
    plain.filter(|span| !is_there(span)).map(str::to_owned).collect()
}

#[test]
fn no_path_on_a_page_is_stale() {
    for (path, text) in pages().into_iter().filter(|(path, _)| !path.ends_with("CHANGELOG.md")) {
        assert_eq!(stale(&path, &text), [""; 0], "{}: paths that lead nowhere", path.display());
    }
    let gone = "`src/main.rs`, `port/wait.rs`, `src/config/meaning.rs`, `tests/NAME`, `a b.rs`";
    assert_eq!(stale(&root().join("X.md"), gone), ["src/config/meaning.rs"]);
}

#[test]
fn every_page_is_found_from_the_readme() {
    let mut found = BTreeSet::new();
    let mut open = vec![root().join("README.md")];
    while let Some(path) = open.pop() {
        if found.insert(path.clone()) && path.extension().is_some_and(|e| e == "md") {
            let targets = links(&read(&path)).into_iter().filter(|link| !link.contains("://"));
            let targets = targets.map(|link| path.parent().unwrap().join(link.split('#').next().unwrap()));
            // A link to a folder shows its README.
            let targets = targets.flat_map(|target| [target.join("README.md"), target]);
            open.extend(targets.filter(|target| target.exists()).map(|target| target.canonicalize().unwrap()));
        }
    }
    let lost: Vec<_> = pages().into_iter().map(|(path, _)| path).filter(|path| !found.contains(path)).collect();
    assert!(lost.is_empty(), "pages that no link leads to: {lost:?}");
}

#[test]
fn a_dead_link_would_be_found() {
    let page = "# One, two\n[a](README.md) [b](#one-two) [c](READYOU.md) [d](#one)\n```\n[e](no)\n```\n`[f](no)` [g](README.md#no)\n";
    let path = root().join("README.md");
    // An anchor of the page itself is checked too, so `#one-two` is a dead link.
    assert_eq!(dead(&path, page), ["#one-two", "READYOU.md", "#one", "README.md#no"]);
    assert_eq!(anchors(page), ["one-two"]);
}

#[test]
fn the_readme_is_short() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines < 200, "README.md has {lines} lines: what not everybody needs belongs into docs/");
    let wide: Vec<_> = readme.lines().filter(|line| line.chars().count() > 120).collect();
    assert!(wide.is_empty(), "README.md: lines of more than 120 characters: {wide:#?}");
}

#[test]
fn the_changelog_begins_with_this_version() {
    let changelog = read("CHANGELOG.md");
    let first = changelog.lines().find_map(|line| line.strip_prefix("## ")).unwrap();
    assert_eq!(first.split(' ').next(), Some(env!("CARGO_PKG_VERSION")));
}
