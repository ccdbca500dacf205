//! Owns the requirements on a static binary: no dynamic loader, no path of the building machine. Must not know how it was built.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use fs_err as fs;

use crate::build_ways::{cargo_home, rustup_home};
use crate::command::read;
use crate::tree::Tree;

pub fn check(tree: &Tree, file: &Path) -> Result<()> {
    let headers = read(Command::new("readelf").args(["--wide", "--program-headers"]).arg(file))?;
    if headers.contains("INTERP") {
        bail!("{} asks for a dynamic loader: it is not static", file.display());
    }
    let bytes = fs::read(file)?;
    // With a slash, because `/src` is also a prefix of `/srcs`.
    for path in [tree.root.join(""), cargo_home()?, rustup_home()?] {
        if contains(&bytes, path.as_os_str().as_bytes()) {
            bail!("{} has a path of this machine in it, below {}", file.display(), path.display());
        }
    }
    Ok(())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Tree {
        Tree { root: env!("CARGO_MANIFEST_DIR").into(), target: "target".into(), commit: String::new() }
    }

    #[test]
    fn a_program_with_a_dynamic_loader_is_refused() {
        let error = check(&here(), Path::new("/bin/sh")).unwrap_err();
        assert_eq!(format!("{error:#}"), "/bin/sh asks for a dynamic loader: it is not static");
    }

    #[test]
    fn a_path_is_found_wherever_it_stands() {
        for (text, found) in [("/src/", true), ("a /src/b", true), ("\0/src/", true), ("/srcs/", false), ("/sr", false)]
        {
            assert_eq!(contains(text.as_bytes(), b"/src/"), found, "{text:?}");
        }
    }
}
