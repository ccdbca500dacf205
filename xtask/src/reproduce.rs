//! Owns the proof that the same sources in another directory, with nothing built yet, give the same bytes. Must not know how they are
//! built.

use std::path::PathBuf;

use anyhow::{Result, bail};
use fs_err as fs;

use crate::binary::{Arch, Binary};
use crate::make;
use crate::sbom;
use crate::tree::Tree;

pub fn reproduce(tree: &Tree, arch: Arch) -> Result<()> {
    let binary = Binary { arch, tls: true };
    let names = ["", sbom::CYCLONEDX, sbom::LICENCES].map(|ending| binary.name() + ending);
    if let Some(name) = names.iter().find(|name| !tree.dist().join(name).exists()) {
        bail!("there is no dist/{name} to compare with: run `cargo xtask static {}` first", arch.name());
    }
    let copy = Copy::of(tree)?;
    // A copy has no history: the commit is passed to it.
    let elsewhere = Tree { root: copy.0.clone(), target: copy.0.join("target"), commit: tree.commit.clone() };
    make::make(&elsewhere, &[binary])?;
    for name in names {
        if fs::read(tree.dist().join(&name))? != fs::read(elsewhere.dist().join(&name))? {
            bail!("dist/{name} is not the same when built in another directory: build dist/ anew from these sources");
        }
        eprintln!("xtask: dist/{name} is the same when built in another directory");
    }
    Ok(())
}

/// The files that git tracks, in another directory; removed on drop.
///
/// Not below the sources: cargo reads every .cargo/config.toml in the parent directories, and would apply each flag twice.
struct Copy(PathBuf);

impl Copy {
    fn of(tree: &Tree) -> Result<Self> {
        let copy = Self(std::env::temp_dir().join(format!("reberth-reproduce-{}", std::process::id())));
        fs::create_dir(&copy.0)?;
        for name in tree.tracked()? {
            let to = copy.0.join(&name);
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::copy(tree.root.join(&name), to)?;
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Whether it can be removed does not change the result.
        let _ = fs::remove_dir_all(&self.0);
    }
}
