//! Owns the steps of a static binary on its way into dist/: build, SBOM, checks, sums. Must not know the ways of building.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use fs_err as fs;

use crate::binary::Binary;
use crate::command::run;
use crate::tree::Tree;
use crate::{build_ways, check, sbom, sums};

pub fn make(tree: &Tree, binaries: &[Binary]) -> Result<()> {
    // The flags of a build contain the path of the folder that this fills.
    run(&mut tree.cargo("fetch"))?;
    fs::create_dir_all(tree.dist())?;
    for &binary in binaries {
        let built = build_ways::build(tree, binary)?;
        let file = tree.dist().join(binary.name());
        place(&built, &file)?;
        sbom::write(tree, binary, &file)?;
        check::check(tree, &file)?;
        eprintln!("xtask: dist/{}: {} bytes", binary.name(), fs::metadata(&file)?.len());
    }
    sums::write(&tree.dist(), |name| name.starts_with(Binary::PREFIX))
}

/// Always a new file: one that is being executed cannot be written to.
fn place(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_file(to)?;
    }
    fs::copy(from, to)?;
    Ok(fs::set_permissions(to, PermissionsExt::from_mode(0o755))?)
}
