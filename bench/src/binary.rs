//! Owns the measured binary: the static one built from these sources. Must not know what is measured.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::fail::{Context, Outcome, fail};

/// The top of the repository.
pub fn root() -> &'static Path {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench)
}

/// The static binary, built unless it is newer than everything it is made of.
///
/// # Errors
/// It cannot be built.
pub fn built(no_tls: bool) -> Outcome<PathBuf> {
    let cpu = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let binary = root().join(format!("dist/reberth-linux-{cpu}{}", if no_tls { "-no-tls" } else { "" }));
    if modified(&binary).is_none_or(|built| newest_source() > Some(built)) {
        eprintln!("bench: building {}", binary.display());
        build(no_tls)?;
    }
    Ok(binary)
}

/// The only place that knows how a static binary is built.
fn build(no_tls: bool) -> Outcome<()> {
    let mut command = Command::new("cargo");
    command.args(["xtask", "static"]).args(no_tls.then_some("--no-tls")).current_dir(root());
    run(&mut command)
}

fn newest_source() -> Option<SystemTime> {
    let single = ["Cargo.toml", "Cargo.lock", ".cargo/config.toml"].map(|file| root().join(file));
    let files = ["src", "link", "xtask/src"].iter().flat_map(|folder| below(&root().join(folder))).chain(single);
    files.filter_map(|file| modified(&file)).max()
}

fn modified(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|file| file.modified()).ok()
}

/// All files below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}

/// Runs a tool of the preparation, which must succeed. Its output goes to stderr: stdout is for the tables.
///
/// # Errors
/// It failed.
pub fn run(command: &mut Command) -> Outcome<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdout(std::io::stderr()).status().context(&program)?;
    if status.success() { Ok(()) } else { fail(format_args!("{program}: {status}")) }
}
