//! Owns `install`: copying this binary to a place of the user's choice. Must not know what the copy is for.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::error::{Error, words};

/// Copies this binary to `dest`, or into it if it is a folder, with mode 0755. Returns the path of the copy.
///
/// Writes a temporary file and renames it: a container may be running the old copy (ETXTBSY), and no process sees a partial new one.
///
/// # Errors
/// [`Error::Cannot`] (125): a missing folder, no permission, a full disk, a destination that is not a regular file.
#[inline(never)]
pub fn run(dest: &Path) -> Result<PathBuf, Error> {
    let failed = |what: String| Error::cannot(format!("install: {what}"));
    let place = place(dest).map_err(failed)?;
    let mut source = source().map_err(|error| failed(format!("this binary cannot be read: {}", words(&error))))?;
    let written = atomic::replace(&place, 0o755, |file| {
        io::copy(&mut source, file)?;
        // Independent of the umask.
        file.set_permissions(Permissions::from_mode(0o755))
    });
    written.map_err(|error| {
        failed(format!(
            "{place:?} cannot be written: {}; name a file in an existing folder that uid {} can write",
            words(&error),
            nix::unistd::geteuid()
        ))
    })?;
    Ok(place)
}

/// The file to write: `dest`, or `dest/reberth` if that is a folder.
fn place(dest: &Path) -> Result<PathBuf, String> {
    if dest.is_dir() {
        let place = dest.join("reberth");
        return if place.is_dir() { Err(format!("{place:?} is a folder itself; move it away")) } else { Ok(place) };
    }
    // `Path` drops a trailing slash, but the user means a folder by it.
    let folder = dest.as_os_str().as_encoded_bytes().ends_with(b"/");
    let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder || !parent.is_dir() || dest.file_name().is_none() {
        let missing = if folder { dest } else { parent };
        return Err(format!("{dest:?}: there is no folder {missing:?}; create it first, install does not"));
    }
    // A rename would replace a device such as /dev/null with a file.
    match fs::symlink_metadata(dest) {
        Ok(meta) if !meta.is_file() && !meta.is_symlink() => Err(format!("{dest:?} is neither a file nor a folder")),
        _ => Ok(dest.to_owned()),
    }
}

/// `/proc/self/exe` opens even a binary that was replaced or removed. Without `/proc`, use argv[0], but only if it contains a slash: a
/// bare name was found in PATH, and in the current folder it may name another file.
fn source() -> io::Result<File> {
    let called = || std::env::args_os().next().filter(|name| name.as_bytes().contains(&b'/'));
    File::open("/proc/self/exe").or_else(|error| File::open(called().ok_or(error)?))
}
