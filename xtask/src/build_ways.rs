//! Owns the three ways of building a static binary, and the flags that keep traces of the building machine out of it. Must not know what
//! happens to the binary then. How musl binaries are linked in general is in .cargo/config.toml.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use fs_err as fs;

use crate::binary::Binary;
use crate::command::{agrees, read, run};
use crate::tree::Tree;

/// Debian's compiler, for the way without rustup.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// rustup's target and rust-src: the standard library is built too.
    Std,
    /// rustup's target, unchanged.
    Rustup,
    /// Debian's compiler and library sources, with cargo-zigbuild.
    Zig,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Std => "std",
            Self::Rustup => "rustup",
            Self::Zig => "zig",
        }
    }

    fn named(name: &str) -> Result<Self> {
        let way = [Self::Std, Self::Rustup, Self::Zig].into_iter().find(|way| way.name() == name);
        way.with_context(|| format!("STATIC_WITH='{name}' is no way of building: std, rustup or zig"))
    }
}

/// Builds the binary, and returns its path.
pub fn build(tree: &Tree, binary: Binary) -> Result<PathBuf> {
    let triple = binary.arch.triple();
    let way = match env::var("STATIC_WITH") {
        Ok(name) if !name.is_empty() => Way::named(&name)?,
        _ => possible(triple)?,
    };
    eprintln!("xtask: building {} with {}", binary.name(), way.name());
    let mut cargo = match way {
        Way::Std | Way::Rustup => tree.cargo("build"),
        Way::Zig => zigbuild(tree)?,
    };
    if !binary.tls {
        // A user who wants the small binary wants the smallest.
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z");
    }
    if way != Way::Rustup {
        // This allows the stable toolchain to build its own standard library; no other unstable feature is used.
        cargo.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
    }
    if way == Way::Std {
        // The standard library's option for small algorithms saves 20 KiB.
        cargo.arg(format!("-Zbuild-std-features={}", if binary.tls { "" } else { "optimize_for_size" }));
    }
    let flags = flags(way, &machine(tree, way)?);
    cargo.args(["--release", "--target", triple]).args(binary.features());
    // In addition to those in .cargo/config.toml, not instead of them. A debug-formatted list of plain strings is a TOML array.
    run(cargo.arg("--config").arg(format!("target.'cfg(target_env = \"musl\")'.rustflags={flags:?}")))?;
    Ok(tree.target.join(triple).join("release/reberth"))
}

/// The first way that works on this machine, after rustup has been asked to install what is missing.
fn possible(triple: &str) -> Result<Way> {
    let rustlib = sysroot("rustc")?.join("lib/rustlib");
    let has_target = has_std(&rustlib.join(triple).join("lib"));
    if !has_target && !agrees(Command::new("rustup").args(["target", "add", triple])) {
        return Ok(Way::Zig);
    }
    let has_sources = rustlib.join("src/rust/library").is_dir();
    if !has_sources && !agrees(Command::new("rustup").args(["component", "add", "rust-src"])) {
        return Ok(Way::Rustup);
    }
    Ok(Way::Std)
}

/// Whether a target's folder has a standard library. rustup leaves empty folders behind.
fn has_std(folder: &Path) -> bool {
    let is_std = |name: &str| name.starts_with("libstd-") && name.ends_with(".rlib");
    let Ok(mut entries) = fs::read_dir(folder) else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(is_std)))
}

fn zigbuild(tree: &Tree) -> Result<Command> {
    if Command::new("cargo-zigbuild").arg("--version").output().is_err() {
        bail!("building with zig needs cargo-zigbuild: pip install cargo-zigbuild ziglang");
    }
    if !sysroot(DEBIAN_RUSTC).is_ok_and(|sysroot| sysroot.join("lib/rustlib/src").is_dir()) {
        bail!("building with zig needs Debian's Rust and its sources: apt-get install rustc-web rust-web-src");
    }
    let mut cargo = tree.command("cargo-zigbuild");
    cargo.args(["zigbuild", "--locked"]).env("RUSTC", DEBIAN_RUSTC);
    // zig supplies its own C compiler, start files and musl. The C compiler named in .cargo/config.toml must not be used.
    for variable in ["CC_x86_64_unknown_linux_musl", "CC_aarch64_unknown_linux_musl"] {
        cargo.env_remove(variable);
    }
    Ok(cargo)
}

/// The paths of this machine that a compiler would write into a binary, each with its replacement.
fn machine(tree: &Tree, way: Way) -> Result<Vec<(PathBuf, String)>> {
    let rustc =
        if way == Way::Zig { DEBIAN_RUSTC.into() } else { env::var("RUSTC").unwrap_or_else(|_| "rustc".into()) };
    let mut paths = vec![(tree.root.clone(), ".".to_owned())];
    let registries = cargo_home()?.join("registry/src");
    let mut sources = fs::read_dir(&registries)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    sources.sort();
    // With a slash at both ends: `crates/` then replaces the folder of one registry, whatever its name.
    paths.extend(sources.into_iter().map(|source| (source.join(""), "crates/".to_owned())));
    let about = read(Command::new(&rustc).arg("-vV"))?;
    let commit = about.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or_default();
    paths.push((sysroot(&rustc)?.join("lib/rustlib/src/rust"), format!("/rustc/{commit}")));
    Ok(paths)
}

/// The flags of rustc. Their order affects the bytes of the result.
fn flags(way: Way, machine: &[(PathBuf, String)]) -> Vec<String> {
    let mut flags = Vec::new();
    if way == Way::Zig {
        // The start files and the libc come from zig.
        flags.extend(["-C", "link-self-contained=no"].map(str::to_owned));
    }
    flags.extend(machine.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    if way != Way::Zig {
        // zig's linker does not support `INSERT`.
        flags.push("-Clink-arg=-Wl,-T,link/probe.ld".to_owned());
    }
    flags
}

fn sysroot(rustc: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(read(Command::new(rustc).args(["--print", "sysroot"]))?.trim_end()))
}

/// Where cargo keeps the sources of dependencies.
pub fn cargo_home() -> Result<PathBuf> {
    home("CARGO_HOME", ".cargo")
}

/// Where rustup keeps toolchains.
pub fn rustup_home() -> Result<PathBuf> {
    home("RUSTUP_HOME", ".rustup")
}

fn home(variable: &str, folder: &str) -> Result<PathBuf> {
    if let Some(home) = env::var_os(variable) {
        return Ok(home.into());
    }
    Ok(env::home_dir()
        .with_context(|| format!("neither {variable} nor HOME is set: set one to a directory"))?
        .join(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<(PathBuf, String)> {
        [("/src", "."), ("/home/registry/src/one/", "crates/")].map(|(from, to)| (from.into(), to.to_owned())).to_vec()
    }

    #[test]
    fn every_path_of_the_machine_is_replaced_in_each_way() {
        let remaps = ["--remap-path-prefix=/src=.", "--remap-path-prefix=/home/registry/src/one/=crates/"];
        let linked = [&remaps[..], &["-Clink-arg=-Wl,-T,link/probe.ld"]].concat();
        assert_eq!(flags(Way::Std, &machine()), linked);
        assert_eq!(flags(Way::Rustup, &machine()), linked);
        assert_eq!(flags(Way::Zig, &machine()), [&["-C", "link-self-contained=no"], &remaps[..]].concat());
    }

    #[test]
    fn a_way_that_there_is_not_is_told_with_those_there_are() {
        assert_eq!(Way::named("zig").unwrap(), Way::Zig);
        let error = Way::named("gcc").unwrap_err();
        assert_eq!(format!("{error:#}"), "STATIC_WITH='gcc' is no way of building: std, rustup or zig");
    }
}
