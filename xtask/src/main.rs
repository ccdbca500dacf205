//! Owns the command line of `cargo xtask`, and the steps of each task. Must not know how reberth works: it builds the program as any user
//! would, and looks at the result; running it is for the tests. docs/release.md explains how to use it.

mod binary;
mod build_ways;
mod check;
mod command;
mod make;
mod pack;
mod reproduce;
mod sbom;
mod sums;
mod tree;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::binary::{Arch, Binary};
use crate::command::run;
use crate::tree::Tree;

/// Build, check and pack the static binaries
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
enum Task {
    /// Build static binaries into dist/, each with its SBOM and licence texts, and SHA256SUMS
    ///
    /// There are three ways, tried in this order; the variable STATIC_WITH forces one of them.
    ///
    ///   std     rustup's target and rust-src: the standard library is built too, without backtraces (a fifth smaller)
    ///   rustup  rustup's target as it is
    ///   zig     Debian's rustc-web and rust-web-src, with cargo-zigbuild and ziglang from PyPI: needs no target from rustup
    ///
    /// The same sources built the same way give the same bytes in any directory. CARGO_TARGET_DIR is respected; REBERTH_COMMIT replaces what
    /// git says the sources are (shown by --version).
    #[command(verbatim_doc_comment)]
    Static {
        /// CPUs to build for [default: this machine's]
        #[arg(value_name = "ARCH")]
        arches: Vec<Arch>,
        /// Without https:// targets: half the size, named dist/reberth-linux-*-no-tls
        #[arg(long)]
        no_tls: bool,
    },
    /// Make a whole release in dist/: both CPUs with and without TLS, arm64 tested under qemu, amd64 rebuilt and compared, all of it packed
    Release,
    /// Build ARCH from a copy of the sources in another directory, and compare the result with dist/
    Reproduce {
        /// The CPU to build for [default: this machine's]
        arch: Option<Arch>,
    },
    /// Pack what dist/ has: an archive for each binary, with man pages and completions, and SHA256SUMS over everything
    Pack,
}

fn main() -> ExitCode {
    match perform(Task::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    let tree = Tree::here()?;
    match task {
        Task::Static { mut arches, no_tls } => {
            if arches.is_empty() {
                arches.push(Arch::of_this_machine()?);
            }
            let binaries: Vec<_> = arches.into_iter().map(|arch| Binary { arch, tls: !no_tls }).collect();
            make::make(&tree, &binaries)
        }
        Task::Release => release(&tree),
        Task::Reproduce { arch } => reproduce::reproduce(&tree, arch.map_or_else(Arch::of_this_machine, Ok)?),
        Task::Pack => pack::pack(&tree),
    }
}

fn release(tree: &Tree) -> Result<()> {
    tree.clear_dist()?;
    for tls in [true, false] {
        make::make(tree, &[Arch::Amd64, Arch::Arm64].map(|arch| Binary { arch, tls }))?;
    }
    run(&mut tree.command("tests/arm64"))?;
    reproduce::reproduce(tree, Arch::Amd64)?;
    pack::pack(tree)?;
    // With the program that a user checks a download with.
    run(tree.command("sha256sum").current_dir(tree.dist()).args(["--check", sums::FILE]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Task::command().debug_assert();
    }

    #[test]
    fn a_cpu_may_be_named_as_docker_or_as_uname_does() {
        for (words, want) in
            [("amd64 arm64", [Arch::Amd64, Arch::Arm64]), ("x86_64 aarch64", [Arch::Amd64, Arch::Arm64])]
        {
            let words = ["xtask", "static"].into_iter().chain(words.split(' '));
            let Task::Static { arches, no_tls: false } = Task::parse_from(words) else { panic!("another task") };
            assert_eq!(arches, want);
        }
    }
}
