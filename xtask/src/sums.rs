//! Owns SHA256SUMS: what `sha256sum --check` reads. Must not know what the files are.

use std::path::Path;

use anyhow::Result;
use fs_err as fs;
use sha2::{Digest, Sha256};

use crate::tree::files_below;

pub const FILE: &str = "SHA256SUMS";

/// Writes and prints the sums of the files below `folder` whose name, relative to it, `wanted` accepts.
pub fn write(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut lines = String::new();
    for file in files_below(folder)? {
        let name = file.strip_prefix(folder)?.to_string_lossy();
        if name != FILE && wanted(&name) {
            lines += &line(&name, &fs::read(&file)?);
        }
    }
    print!("{lines}");
    Ok(fs::write(folder.join(FILE), lines)?)
}

fn line(name: &str, content: &[u8]) -> String {
    let sum: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{sum}  {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_sha256sum_writes_it() {
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(line("man/a.1", b"abc"), format!("{sum}  man/a.1\n"));
    }
}
