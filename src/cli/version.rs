//! Owns the version line. Must not know who prints it.

/// The version line, the same for every command: with the commit, if `cargo xtask static` set it, and the target.
pub fn version() -> String {
    let commit = option_env!("REBERTH_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.map(|commit| format!("{commit}, ")).unwrap_or_default();
    let library = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("reberth {} ({commit}{}-unknown-linux-{library})\n", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH)
}
