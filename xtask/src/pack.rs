//! Owns the archives: what is in one beside its binary, and that its bytes depend on nothing but its contents and the time of the commit.
//! Must not know how the binaries got into dist/.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use fs_err as fs;
use tar::{EntryType, Header};

use crate::binary::Binary;
use crate::command::{read, run};
use crate::tree::{Tree, files_below};
use crate::{sbom, sums};

/// Folders and files of the sources in every archive: everything that its pages link to.
const SOURCES: [&str; 7] = ["LICENSE-MIT", "LICENSE-APACHE", "docs", "examples", "docker", "k8s", "tests/README.md"];

/// The files of an archive, by their name in it; a path sorts after the folder that contains it.
type Files = BTreeMap<PathBuf, File>;

#[derive(Clone)]
struct File {
    content: Vec<u8>,
    executable: bool,
}

pub fn pack(tree: &Tree) -> Result<()> {
    let dist = tree.dist();
    let binaries = binaries(&dist)?;
    if binaries.is_empty() {
        bail!("dist/ has no binary: `cargo xtask static` makes one");
    }
    for old in files_below(&dist)?.iter().filter(|file| file.extension().is_some_and(|ending| ending == "gz")) {
        fs::remove_file(old)?;
    }
    let (version, time) = (tree.version()?, time(tree)?);
    let mut shared = pages(tree)?;
    shared.append(&mut sources(tree)?);
    for name in binaries {
        let with = |ending: &str| File::read(&dist.join(format!("{name}{ending}")));
        let mut files = shared.clone();
        files.insert("reberth".into(), with("")?);
        files.insert("reberth.cdx.json".into(), with(sbom::CYCLONEDX)?);
        files.insert("LICENCES-OF-DEPENDENCIES.txt".into(), with(sbom::LICENCES)?);
        let folder = format!("reberth-{version}-linux-{}", name.trim_start_matches(Binary::PREFIX));
        fs::write(dist.join(format!("{folder}.tar.gz")), archive(Path::new(&folder), &files, time)?)?;
    }
    sums::write(&dist, |_| true)
}

/// The names of the binaries in dist/.
fn binaries(dist: &Path) -> Result<Vec<String>> {
    let files = if dist.is_dir() { files_below(dist)? } else { Vec::new() };
    let names = files.iter().filter_map(|file| file.strip_prefix(dist).ok()?.to_str());
    let is_binary = |name: &&str| {
        name.starts_with(Binary::PREFIX)
            && ![sbom::CYCLONEDX, sbom::LICENCES].iter().any(|ending| name.ends_with(ending))
    };
    Ok(names.filter(is_binary).map(str::to_owned).collect())
}

/// Man pages and completions, generated from the parser's own texts.
fn pages(tree: &Tree) -> Result<Files> {
    let mut files = Files::new();
    let folders = ["man", "completions"].map(|name| tree.dist().join(name));
    for folder in folders.iter().filter(|folder| folder.exists()) {
        fs::remove_dir_all(folder)?;
    }
    run(tree.cargo("run").args(["--quiet", "--package", "reberth-pages", "--"]).arg(tree.dist()))?;
    for folder in folders {
        add(&mut files, &tree.dist(), &folder)?;
    }
    Ok(files)
}

fn sources(tree: &Tree) -> Result<Files> {
    let mut files = Files::new();
    for name in SOURCES {
        add(&mut files, &tree.root, &tree.root.join(name))?;
    }
    for entry in fs::read_dir(&tree.root)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "md") {
            add(&mut files, &tree.root, &path)?;
        }
    }
    Ok(files)
}

/// Adds a file, or all files below a folder, by its name relative to `root`.
fn add(files: &mut Files, root: &Path, path: &Path) -> Result<()> {
    let found = if path.is_dir() { files_below(path)? } else { vec![path.to_owned()] };
    // What Python leaves beside an example that was run does not belong here.
    for file in found.iter().filter(|file| !file.components().any(|part| part.as_os_str() == "__pycache__")) {
        files.insert(file.strip_prefix(root)?.to_owned(), File::read(file)?);
    }
    Ok(())
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        Ok(Self { content: fs::read(path)?, executable: fs::metadata(path)?.permissions().mode() & 0o111 != 0 })
    }
}

/// The time of everything in an archive, in seconds since 1970.
fn time(tree: &Tree) -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => read(tree.command("git").args(["log", "-1", "--format=%ct"]))?,
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH='{}' is no time: seconds since 1970", text.trim()))
}

/// A compressed archive with everything below one folder; each folder comes before its contents.
fn archive(folder: &Path, files: &Files, time: u64) -> Result<Vec<u8>> {
    // No name and no time in the header of the compressed file either.
    let mut archive = tar::Builder::new(GzBuilder::new().write(Vec::new(), Compression::best()));
    let mut folders: Vec<PathBuf> = Vec::new();
    for (name, file) in files {
        let path = folder.join(name);
        let mut parents: Vec<_> = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
        parents.reverse();
        for parent in parents {
            if !folders.iter().any(|folder| folder == parent) {
                append(&mut archive, EntryType::Directory, &parent.join(""), 0o755, time, &[])?;
                folders.push(parent.to_owned());
            }
        }
        let mode = if file.executable { 0o755 } else { 0o644 };
        append(&mut archive, EntryType::Regular, &path, mode, time, &file.content)?;
    }
    Ok(archive.into_inner()?.finish()?)
}

/// One entry, owned by root.
fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    kind: EntryType,
    path: &Path,
    mode: u32,
    time: u64,
    content: &[u8],
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(time);
    header.set_size(content.len().try_into()?);
    Ok(archive.append_data(&mut header, path, content)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let file = |executable| File { content: b"text".to_vec(), executable };
        let names = [("reberth", true), ("docs/b.md", false), ("docs-of-others", false), ("docs/a/z.md", false)];
        names.map(|(name, executable)| (name.into(), file(executable))).into()
    }

    #[test]
    fn an_archive_is_sorted_and_every_folder_stands_in_front_of_what_it_holds() {
        let packed = archive(Path::new("top"), &files(), 1234).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&packed[..]));
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 1234));
            format!("{:o} {}", header.mode().unwrap(), String::from_utf8_lossy(&entry.path_bytes()))
        });
        let entries: Vec<_> = entries.collect();
        let want = [
            "755 top/",
            "755 top/docs/",
            "755 top/docs/a/",
            "644 top/docs/a/z.md",
            "644 top/docs/b.md",
            "644 top/docs-of-others",
            "755 top/reberth",
        ];
        assert_eq!(entries, want);
    }

    #[test]
    fn the_same_files_give_the_same_archive() {
        let archive = || archive(Path::new("top"), &files(), 1234).unwrap();
        assert_eq!(archive(), archive());
    }
}
