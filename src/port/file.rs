//! Owns the port file: the ports really used, for whoever starts reberth. Must not know how they were chosen.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Checks early, before any wait, that the port file can be written, and makes its path independent of the working directory.
///
/// # Errors
/// `Cannot` (125), naming `--port-file`.
pub fn check(path: &Path) -> Result<PathBuf, Error> {
    let path = std::path::absolute(path).map_err(|error| refuse(path, &error))?;
    if path.is_dir() {
        return Err(refuse(&path, &io::ErrorKind::IsADirectory.into()));
    }
    let beside = beside(&path);
    fs::write(&beside, "").and_then(|()| fs::remove_file(&beside)).map_err(|error| refuse(&path, &error))?;
    Ok(path)
}

/// Writes a line per port in the order asked, `PORT` or `NAME=PORT`: complete under its name, or not at all.
///
/// # Errors
/// `Cannot` (125), naming `--port-file`.
pub fn write<'a>(path: &Path, ports: impl Iterator<Item = (Option<&'a str>, u16)>) -> Result<(), Error> {
    let mut text = String::new();
    for (name, port) in ports {
        let _ = match name {
            Some(name) => writeln!(text, "{name}={port}"),
            None => writeln!(text, "{port}"),
        };
    }
    let beside = beside(path);
    fs::write(&beside, text).and_then(|()| fs::rename(&beside, path)).map_err(|error| {
        let _ = fs::remove_file(&beside);
        refuse(path, &error)
    })
}

/// A name in the same directory, so that the rename stays within one file system; the pid keeps two instances apart.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    name.into()
}

fn refuse(path: &Path, error: &io::Error) -> Error {
    Error::cannot(format!(
        "--port-file (REBERTH_PORT_FILE) {}: cannot be written: {error}; name a file in an existing directory that can be written",
        path.display()
    ))
}
