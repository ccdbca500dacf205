//! Owns what is documented about a binary: the packages it consists of, in three forms. `FILE.cdx.json` beside it (CycloneDX 1.5);
//! `FILE.licences.txt` with the licence texts of everything that is linked in; and inside it, as section `.dep-v0`, the list that scanners
//! look for in Rust programs (cargo auditable's format), so that an image FROM scratch can still be scanned.
//!
//! None of them contains a time or a path: the same sources give the same bytes. Must not know how the binary was built.

mod auditable;
mod cyclonedx;
mod graph;
mod licences;

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use fs_err as fs;

use crate::binary::Binary;
use crate::command::run;
use crate::sbom::graph::Graph;
use crate::tree::Tree;

/// The suffixes of the files beside a binary.
pub const CYCLONEDX: &str = ".cdx.json";
pub const LICENCES: &str = ".licences.txt";

/// Writes all three. `file` must not have the section yet.
pub fn write(tree: &Tree, binary: Binary, file: &Path) -> Result<()> {
    let graph = Graph::of(tree, binary)?;
    let beside = |ending: &str| file.with_file_name(binary.name() + ending);
    fs::write(beside(CYCLONEDX), cyclonedx::document(&graph)?)?;
    fs::write(beside(LICENCES), licences::document(&graph)?)?;
    let section = beside(".dep-v0");
    fs::write(&section, auditable::section(&graph)?)?;
    let mut objcopy = Command::new(binary.arch.objcopy());
    objcopy.arg("--add-section").arg(format!(".dep-v0={}", section.display()));
    // Never loaded: it does not slow down a start.
    let added = run(objcopy.args(["--set-section-flags", ".dep-v0=noload,readonly"]).arg(file));
    fs::remove_file(section)?;
    added?;
    let linked = graph.packages.iter().filter(|package| package.linked).count();
    let built = graph.packages.len() - linked;
    eprintln!("xtask: dist/{}: {linked} packages linked, {built} only to build", binary.name());
    Ok(())
}
