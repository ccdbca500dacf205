//! Owns the port file: the ports in use, for the process that starts reberth. Must not know how they were chosen.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::error::{Error, words};

/// Checks early, before any wait, that the port file can be written. The returned path does not depend on the working
/// directory or on symbolic links: a link stays, and the file it points to is replaced.
///
/// # Errors
/// `Settings` (125), naming `--port-file`.
pub fn check(path: &Path) -> Result<PathBuf, Error> {
    let place = std::path::absolute(path).and_then(|path| match fs::canonicalize(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(path),
        other => other,
    });
    let place = place.map_err(|error| refuse(path, &words(&error)))?;
    match fs::symlink_metadata(&place) {
        Ok(meta) if meta.is_dir() => return Err(refuse(path, "is a directory")),
        // A rename would replace a device such as /dev/null, or a pipe that a process reads, with a file.
        Ok(meta) if !meta.is_file() && !meta.is_symlink() => return Err(refuse(path, "is not a regular file")),
        _ => {}
    }
    atomic::try_create(&place).map_err(|error| refuse(path, &words(&error)))?;
    Ok(place)
}

/// Writes one line per port in the order configured, `PORT` or `NAME=PORT`, atomically.
///
/// # Errors
/// `Settings` (125), naming `--port-file`.
pub fn write<'a>(path: &Path, ports: impl Iterator<Item = (Option<&'a str>, u16)>) -> Result<(), Error> {
    let mut text = String::new();
    for (name, port) in ports {
        let _ = match name {
            Some(name) => writeln!(text, "{name}={port}"),
            None => writeln!(text, "{port}"),
        };
    }
    atomic::replace(path, 0o666, |file| file.write_all(text.as_bytes())).map_err(|error| refuse(path, &words(&error)))
}

fn refuse(path: &Path, reason: &str) -> Error {
    Error::Settings(vec![format!(
        "--port-file (REBERTH_PORT_FILE) {}: cannot be written: {reason}; name a file in an existing directory that uid {} can write",
        path.display(),
        nix::unistd::geteuid()
    )])
}
