//! Owns FILE.licences.txt: the licence texts of everything that is linked in, each text once, under the names of the packages it covers.
//! Must not know which licences are allowed (deny.toml).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use fs_err as fs;

use crate::sbom::graph::{Graph, Package};

/// Linked in with the toolchain, but not a package.
const MUSL: &str = include_str!("musl.txt").trim_ascii_end();

const HEAD: &str = "\
reberth is MIT OR Apache-2.0, and so is the Rust standard library in it: LICENSE-MIT, LICENSE-APACHE.
What else is linked in, and on which terms:
";

pub fn document(graph: &Graph) -> Result<String> {
    let mut covered = BTreeMap::from([(MUSL.to_owned(), vec!["musl".to_owned()])]);
    for package in graph.others().filter(|package| package.linked) {
        for text in texts(package)? {
            covered.entry(text).or_default().push(format!("{} {}", package.name, package.version));
        }
    }
    Ok(written(covered))
}

/// Sorted by the names of the covered packages.
fn written(covered: BTreeMap<String, Vec<String>>) -> String {
    let rule = "=".repeat(80);
    let blocks: BTreeSet<_> = covered.into_iter().map(|(text, names)| (names, text)).collect();
    let blocks = blocks.iter().map(|(names, text)| format!("\n{rule}\n{}\n{rule}\n\n{text}\n", names.join(", ")));
    HEAD.to_owned() + &blocks.collect::<String>()
}

/// A package's own licence texts, which must be passed on.
fn texts(package: &Package) -> Result<Vec<String>> {
    let entries = fs::read_dir(&package.folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let files = entries.into_iter().filter(|entry| entry.path().is_file());
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let chosen = chosen(names, &package.license);
    if chosen.is_empty() {
        bail!(
            "{} {} has no licence text: look for it, and name it in xtask/src/sbom/licences.rs",
            package.name,
            package.version
        );
    }
    let text = |name: &String| {
        let text = fs::read_to_string(package.folder.join(name))?;
        Ok(text.replace("\r\n", "\n").trim().to_owned())
    };
    chosen.iter().map(text).collect()
}

/// The names of these files, sorted. If there are several licences to choose from, the MIT one, which only requires that it is passed on.
fn chosen(mut names: Vec<String>, license: &str) -> Vec<String> {
    let begins = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];
    names.retain(|name| begins.iter().any(|begin| name.to_uppercase().starts_with(begin)));
    names.sort();
    let is_mit = |name: &String| name.to_uppercase().contains("MIT");
    if license.contains(" OR ") && names.iter().any(is_mit) {
        names.retain(is_mit);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_licences_to_choose_from_the_mit_one_is_passed_on() {
        let cases: [(&[&str], &str, &[&str]); 6] = [
            (&["LICENSE-MIT", "LICENSE-APACHE", "README.md"], "MIT OR Apache-2.0", &["LICENSE-MIT"]),
            // Both apply.
            (&["LICENSE-MIT", "LICENSE-UNICODE"], "MIT AND Unicode-3.0", &["LICENSE-MIT", "LICENSE-UNICODE"]),
            (&["license-mit.txt", "NOTICE"], "Apache-2.0 OR MIT", &["license-mit.txt"]),
            (&["NOTICE", "COPYING"], "Unlicense OR MIT", &["COPYING", "NOTICE"]),
            (&["LICENCE", "src"], "ISC", &["LICENCE"]),
            (&["Cargo.toml"], "MIT", &[]),
        ];
        for (names, license, want) in cases {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(chosen(names, license), want, "{license}");
        }
    }

    #[test]
    fn a_text_stands_once_under_all_that_it_covers() {
        let covered = [("two", vec!["b 1", "c 1"]), ("one", vec!["a 1"])];
        let covered = covered.map(|(text, names)| (text.to_owned(), names.into_iter().map(str::to_owned).collect()));
        let rule = "=".repeat(80);
        let want = format!("{HEAD}\n{rule}\na 1\n{rule}\n\none\n\n{rule}\nb 1, c 1\n{rule}\n\ntwo\n");
        assert_eq!(written(covered.into()), want);
    }
}
