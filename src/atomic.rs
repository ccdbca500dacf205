//! Owns a file that appears under its name complete or not at all: written beside, then renamed. Must not know what is in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// So many names beside are tried before a folder full of them is an error.
const NAMES: u32 = 16;

/// Replaces the file at `path`, or makes it, with what `write` writes; `mode` as in `open(2)`, less the umask.
///
/// # Errors
/// Those of `open(2)`, `write` and `rename(2)`; nothing is left beside then, and what was at `path` still is.
pub fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let (beside, mut file) = create_beside(path, mode)?;
    let written = write(&mut file);
    // Closed first: whoever executes it the moment it appears must not find it open for writing (ETXTBSY).
    drop(file);
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Whether a file can be made beside `path`, which is most of what [`replace`] needs.
///
/// # Errors
/// Those of `open(2)`.
pub fn try_beside(path: &Path) -> io::Result<()> {
    let (beside, _) = create_beside(path, 0o600)?;
    fs::remove_file(beside)
}

/// In the same folder, so that the rename stays within one file system. The pid is no name of one's own: every container on a shared
/// volume is pid 1. `create_new` is O_EXCL: it neither takes the file of another writer nor follows a link that somebody has laid there.
#[allow(clippy::disallowed_methods, reason = "a name unlike others is all that is wanted of the clock")]
fn create_beside(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for turn in 0..NAMES {
        let name = format!(".reberth-{}-{}.new", std::process::id(), nanos.wrapping_add(turn));
        let beside = path.with_file_name(name);
        let opened =
            OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).mode(mode).open(&beside);
        match opened {
            Ok(file) => return Ok((beside, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
