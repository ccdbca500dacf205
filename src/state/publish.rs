//! Owns writing the state file: where it goes, and that it appears atomically. Must not know policy.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::document::{DEFAULT_DIRS, Document, FORMAT, MAX_SIZE, MEMFD_NAME, State, file_name};
use super::identity::Writer;
use super::lock;
use crate::error::{Error, words};

/// The writing side, held by `run`. Unless it is PID 1, it keeps no descriptor open once it has published. Its paths
/// are absolute, so it survives `chdir("/")`.
#[derive(Debug)]
pub struct Publisher {
    destination: Destination,
    /// A write failed after the start: log that once, not once per phase.
    warned: bool,
}

/// Where a publisher writes.
#[derive(Debug)]
enum Destination {
    /// Nowhere yet: the default directories are tried at the first publish, which for a free port is after the launch,
    /// while the app is starting.
    Undecided,
    OnDisk(Place),
    /// No directory works, so PID 1 holds the text itself: see [`InMemory`].
    InMemory(InMemory),
    /// No directory works, and `run` continues without.
    Nowhere,
}

/// The state of a PID 1 that cannot write a file: a memfd that only PID 1 has open. Processes that may trace PID 1,
/// those of the same user or root, read it through `/proc/1/fd` (`ptrace(2)`, PTRACE_MODE_READ). Each state is a new
/// memfd that atomically replaces the previous one (`dup3(2)`), so that a reader sees one or the other.
#[derive(Debug)]
struct InMemory {
    writer: Writer,
    file: OwnedFd,
}

impl InMemory {
    fn new(writer: Writer, state: &State) -> io::Result<Self> {
        let file = Self::filled(&writer, state)?;
        Ok(Self { writer, file })
    }

    fn write(&mut self, state: &State) -> io::Result<()> {
        let new = Self::filled(&self.writer, state)?;
        Ok(nix::unistd::dup3(new, &mut self.file, nix::fcntl::OFlag::O_CLOEXEC)?)
    }

    fn filled(writer: &Writer, state: &State) -> io::Result<OwnedFd> {
        let mut file = File::from(nix::sys::memfd::memfd_create(MEMFD_NAME, nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&text(writer, state)?)?;
        // A memfd has mode 0777, but a file that others can write is not trusted.
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        Ok(file.into())
    }
}

#[derive(Debug)]
struct Place {
    writer: Writer,
    path: PathBuf,
    temporary: PathBuf,
    /// The temporary file, complete, until the first publish.
    reserved: Option<File>,
    /// The published file, open for its lock: see [`lock`].
    locked: Option<File>,
}

impl Publisher {
    /// Resolves `dir`, which is `--state-dir`, if given (relative to the current working directory), and writes `first`
    /// to a temporary file there: only a real write shows that a directory is writable. The state is visible from the
    /// first [`Publisher::publish`] on, so that a run whose port is free publishes once. A second file over one just
    /// written makes ext4 flush it, which would cost the most in a short run.
    ///
    /// # Errors
    /// [`Error::Settings`] (125) if `dir` is not writable.
    pub fn open(dir: Option<&Path>, first: &State) -> Result<Self, Error> {
        let Some(dir) = dir else { return Ok(Self { destination: Destination::Undecided, warned: false }) };
        let opened = Writer::this().and_then(|writer| {
            let mut place = Place::new(&std::path::absolute(dir)?, writer);
            place.reserve(first)?;
            Ok(place)
        });
        match opened {
            Ok(place) => Ok(Self { destination: Destination::OnDisk(place), warned: false }),
            Err(error) => Err(Error::Settings(vec![format!(
                "--state-dir (REBERTH_STATE_DIR) {:?}: the state file cannot be written there: {}; \
                 name an existing directory that uid {} can write, or leave it out: then it is the first writable of {}, or PID 1's memory",
                dir,
                words(&error),
                nix::unistd::geteuid(),
                DEFAULT_DIRS.join(", "),
            )])),
        }
    }

    /// The state file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.destination {
            Destination::OnDisk(place) => Some(place.path.as_path()),
            Destination::Undecided | Destination::InMemory(_) | Destination::Nowhere => None,
        }
    }

    /// The open descriptor, if there is one: until the first publish, and as PID 1.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.destination {
            Destination::OnDisk(place) => place.reserved.as_ref().or(place.locked.as_ref()).map(AsFd::as_fd),
            Destination::InMemory(memory) => Some(memory.file.as_fd()),
            Destination::Undecided | Destination::Nowhere => None,
        }
    }

    /// Publishes `state` atomically; without `--state-dir` in the first of [`DEFAULT_DIRS`] that works. There is no
    /// error, because nothing after the launch returns early. Instead it returns a warning to log: that no default
    /// directory works, or the first failure of a later write. Further failures are silent until a write succeeds
    /// again.
    #[must_use = "the line is to be logged"]
    pub fn publish(&mut self, state: &State) -> Option<String> {
        let (where_to, written) = match &mut self.destination {
            Destination::Nowhere => return None,
            Destination::OnDisk(place) => (place.path.display().to_string(), place.write(state)),
            Destination::InMemory(memory) => ("in memory".to_owned(), memory.write(state)),
            Destination::Undecided => {
                let (destination, warning) = take_default(state);
                self.destination = destination;
                return warning;
            }
        };
        match written {
            Ok(()) => {
                self.warned = false;
                None
            }
            Err(_) if self.warned => None,
            Err(error) => {
                self.warned = true;
                Some(format!(
                    "state file {where_to}: phase {} cannot be written: {}; healthcheck still sees the previous phase",
                    state.phase.name(),
                    words(&error)
                ))
            }
        }
    }

    /// Removes the file at a clean exit. If that fails, a reader still sees that the writer has exited.
    pub fn remove(&self) {
        if let Destination::OnDisk(place) = &self.destination {
            let _ = fs::remove_file(if place.reserved.is_some() { &place.temporary } else { &place.path });
        }
    }
}

/// Publishes in the first default directory that works; the warning says why none does.
fn take_default(state: &State) -> (Destination, Option<String>) {
    let mut tried = Vec::new();
    let mut destination = Destination::Nowhere;
    match Writer::this() {
        Ok(writer) => {
            for dir in DEFAULT_DIRS {
                let mut place = Place::new(Path::new(dir), writer.clone());
                match place.write(state) {
                    Ok(()) => return (Destination::OnDisk(place), None),
                    Err(error) => tried.push(format!("{dir}: {}", words(&error))),
                }
            }
            // Only for PID 1 does a reader know where to look.
            if writer.pid == 1
                && let Ok(memory) = InMemory::new(writer, state)
            {
                destination = Destination::InMemory(memory);
            }
        }
        Err(error) => tried.push(format!("/proc: {}", words(&error))),
    }
    let instead = match destination {
        Destination::InMemory(_) => "healthcheck asks PID 1 itself, which only the same user and root may do",
        _ => "healthcheck relies on its settings alone",
    };
    let warning = format!(
        "no state file: {}; {instead}; mount a small tmpfs and name it with --state-dir (REBERTH_STATE_DIR)",
        tried.join(", ")
    );
    (destination, Some(warning))
}

fn text(writer: &Writer, state: &State) -> io::Result<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut text = serde_json::to_vec(&Document { format: FORMAT, version, writer: writer.clone(), state })?;
    text.push(b'\n');
    Ok(text)
}

impl Place {
    fn new(dir: &Path, writer: Writer) -> Self {
        let path = dir.join(file_name(writer.mount_namespace, writer.pid));
        let mut temporary: OsString = path.clone().into();
        temporary.push(".new");
        Self { writer, path, temporary: temporary.into(), reserved: None, locked: None }
    }

    /// Writes `first` to the temporary file.
    fn reserve(&mut self, first: &State) -> io::Result<()> {
        self.reserved = Some(self.write_temporary(&text(&self.writer, first)?)?);
        Ok(())
    }

    fn write(&mut self, state: &State) -> io::Result<()> {
        let mut text = text(&self.writer, state)?;
        if let Some(mut file) = self.reserved.take() {
            // The temporary file has no readers, so it can be overwritten.
            let length = u64::try_from(text.len()).unwrap_or_default();
            let written = file.rewind().and_then(|()| file.write_all(&text)).and_then(|()| file.set_len(length));
            drop(file);
            return written.inspect_err(|_| self.discard()).and_then(|()| self.show());
        }
        // Closed before it is visible: a file open for writing keeps its file system from being remounted read-only.
        match self.write_temporary(&text).map(drop).and_then(|()| self.show()) {
            // A full disk has no room for a second file, but the first one's blocks are allocated already.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                let written = overwrite(&self.path, &mut text).map_err(|_| error);
                // Closing that descriptor has released the lock.
                self.locked = self.locked.take().filter(lock::acquire);
                written
            }
            other => other,
        }
    }

    fn show(&mut self) -> io::Result<()> {
        // Locked before it is visible, and before another process could put a file there.
        let locked = if self.writer.pid == 1 { File::open(&self.temporary).ok().filter(lock::acquire) } else { None };
        fs::rename(&self.temporary, &self.path).inspect_err(|_| self.discard())?;
        self.locked = locked;
        Ok(())
    }

    fn discard(&self) {
        let _ = fs::remove_file(&self.temporary);
    }

    fn write_temporary(&self, text: &[u8]) -> io::Result<File> {
        let mut file = match self.create() {
            // Left by a writer killed between write and rename, with our name: after a container restart, pid and
            // namespace can be the same.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&self.temporary)?;
                self.create()?
            }
            other => other?,
        };
        file.write_all(text)
            // With a tight umask, a healthcheck that runs as another user could not read the file.
            .and_then(|()| file.set_permissions(fs::Permissions::from_mode(0o644)))
            .inspect_err(|_| self.discard())?;
        Ok(file)
    }

    /// `create_new` is O_EXCL: it never follows a symlink planted in `/tmp`. std adds O_CLOEXEC.
    fn create(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).mode(0o644).open(&self.temporary)
    }
}

/// Overwrites the old text with one `write`, padded with spaces to its length, so that a reader sees one or the other.
pub(super) fn overwrite(path: &Path, text: &mut Vec<u8>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let old = usize::try_from(file.metadata()?.len()).unwrap_or(0).min(MAX_SIZE);
    text.resize(text.len().max(old), b' ');
    file.write_all(text)
}
