//! Owns replacing a file atomically: written to a temporary file, then renamed. Must not know what is in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How many temporary names are tried before giving up.
const NAMES: u32 = 16;

/// Creates or replaces the file at `path` with what `write` writes; `mode` as in `open(2)`, masked by the umask.
///
/// # Errors
/// Those of `open(2)`, `write` and `rename(2)`. The temporary file is then removed, and the file at `path` is
/// unchanged.
pub fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let (temporary, mut file) = create_temporary(path, mode)?;
    let written = write(&mut file);
    // Closed first: a process that executes the file as soon as it appears must not find it open for writing (ETXTBSY).
    drop(file);
    written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Whether a file can be created beside `path`, which is most of what [`replace`] needs.
///
/// # Errors
/// Those of `open(2)`.
pub fn try_create(path: &Path) -> io::Result<()> {
    let (temporary, _) = create_temporary(path, 0o600)?;
    fs::remove_file(temporary)
}

/// In the same directory, so that the rename stays within one file system. The pid does not make the name unique: every
/// container on a shared volume is pid 1. `create_new` is O_EXCL: it neither reuses another writer's file nor follows a
/// planted symlink.
#[allow(clippy::disallowed_methods, reason = "a name unlike others is all that is wanted of the clock")]
fn create_temporary(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for turn in 0..NAMES {
        let name = format!(".reberth-{}-{}.new", std::process::id(), nanos.wrapping_add(turn));
        let temporary = path.with_file_name(name);
        let opened =
            OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).mode(mode).open(&temporary);
        match opened {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
