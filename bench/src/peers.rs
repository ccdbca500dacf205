//! Owns the programs with which reberth is compared: Debian's packages, and the C programs of this folder. Must not know what is measured.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::binary::{root, run};
use crate::fail::{Context, Outcome};

const PACKAGES: &[&str] = &[
    "tini",
    "dumb-init",
    "catatonit",
    "curl",
    "wget",
    "busybox-static",
    "musl-tools",
    "gcc",
    "libc6-dev",
    "valgrind",
    "iproute2",
    "lsof",
    "psmisc",
    "wait-for-it",
];

/// The peers that are a single file, which is copied and whose size is measured; docker-init only if an engine installed it.
pub const PEERS: &[&str] = &["tini-static", "docker-init", "catatonit", "dumb-init", "busybox", "curl", "wget"];

/// The programs that must not have a runtime, and so are written in C.
pub const BARE: &[&str] = &["noop", "check", "waiter", "holder", "server", "orphans"];

/// Where programs are looked up: the machine's own variable may contain anything.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Installs the packages that are missing.
///
/// # Errors
/// apt failed.
pub fn install() -> Outcome<()> {
    let missing: Vec<_> = PACKAGES.iter().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("bench: installing {}", missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(words);
        command
    };
    run(&mut apt(&["update", "-qq"]))?;
    run(apt(&["install", "-y", "-qq", "--no-install-recommends"]).args(missing))
}

fn is_installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).stderr(Stdio::null()).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// The file that a name stands for, in these folders.
pub fn find(name: &str, path: &str) -> Option<PathBuf> {
    path.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// Compiles the C programs into `folder`.
///
/// # Errors
/// One does not compile.
pub fn compile(folder: &Path) -> Outcome<()> {
    let multiarch = Command::new("gcc").arg("-print-multiarch").output().context("gcc")?;
    let multiarch = String::from_utf8_lossy(&multiarch.stdout).trim().to_owned();
    for name in BARE {
        let mut compiler = Command::new("musl-gcc");
        compiler.args(["-O2", "-static", "-s", "-Wall", "-Wextra"]);
        // The kernel's headers do not belong to musl; they come after its own.
        compiler.args(["-idirafter", "/usr/include", "-idirafter"]).arg(format!("/usr/include/{multiarch}"));
        compiler.arg("-o").arg(folder.join(name)).arg(root().join(format!("bench/programs/{name}.c")));
        run(&mut compiler)?;
    }
    Ok(())
}
