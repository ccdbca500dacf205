//! Owns the locations: the sources, the build directory, dist/, and what git reports about the sources. Must not know how they are used.

use std::env;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use fs_err as fs;

use crate::command::read;

/// A copy of the repository.
pub struct Tree {
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// What `--version` prints about the sources; empty if unknown.
    pub commit: String,
}

impl Tree {
    /// The copy that this xtask belongs to.
    pub fn here() -> Result<Self> {
        // Not `env!`: if several copies share a build directory, that could be another copy's.
        let package =
            env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set: start it as `cargo xtask`")?;
        let root =
            Path::new(&package).parent().context("CARGO_MANIFEST_DIR has no parent: start it as `cargo xtask`")?;
        let target = root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
        let mut tree = Self { root: root.to_owned(), target, commit: String::new() };
        tree.commit = match env::var("REBERTH_COMMIT") {
            Ok(commit) => commit,
            Err(_) => tree.described(),
        };
        Ok(tree)
    }

    /// The commit as git describes it; empty without a history, as in an image or an unpacked archive.
    fn described(&self) -> String {
        let mut git = self.command("git");
        git.args(["describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]).stderr(Stdio::null());
        let output = git.output().ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    }

    pub fn dist(&self) -> PathBuf {
        self.root.join("dist")
    }

    pub fn clear_dist(&self) -> Result<()> {
        match fs::remove_dir_all(self.dist()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A program that runs at the root, as if typed there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("REBERTH_COMMIT", &self.commit).env("CARGO_TARGET_DIR", &self.target);
        // `cargo run` sets variables about xtask's own package. Build scripts that depend on these (ring's does) would run again each time
        // a build by xtask follows another one.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
                command.env_remove(name);
            }
        }
        command
    }

    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = self.command("cargo");
        cargo.args([subcommand, "--locked"]);
        cargo
    }

    /// The program's version.
    pub fn version(&self) -> Result<String> {
        let id = read(self.cargo("pkgid").args(["--package", "reberth"]))?;
        // `…/reberth#0.2.0`, or `…/elsewhere#reberth@0.2.0` if the folder has another name.
        Ok(id.trim_end().rsplit(['#', '@']).next().unwrap_or_default().to_owned())
    }

    /// The files that git tracks, relative to the root.
    pub fn tracked(&self) -> Result<Vec<PathBuf>> {
        let names = read(self.command("git").args(["ls-files", "-z"]))?;
        Ok(names.split_terminator('\0').map(PathBuf::from).collect())
    }
}

/// All files below a folder, sorted.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { files.extend(files_below(&path)?) } else { files.push(path) }
    }
    files.sort();
    Ok(files)
}
