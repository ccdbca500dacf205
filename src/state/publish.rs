//! Owns the writing of the state file: where it goes, and that it appears complete or not at all. Must not know policy.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::document::{DEFAULT_DIRS, Document, FORMAT, HELD, MAX_SIZE, State, file_name};
use super::identity::Writer;
use super::pulse;
use crate::error::{Error, words};

/// The writing side, held by `run`. Unless it is PID 1 it keeps no descriptor once it has published, and its paths are absolute, so it survives
/// `chdir("/")`.
#[derive(Debug)]
pub struct Publisher {
    seat: Seat,
    /// One line about a write that fails after the start, not one a phase.
    complained: bool,
}

/// Where a publisher publishes.
#[derive(Debug)]
enum Seat {
    /// Nowhere yet: the default directories are tried when there is something to publish, which for a free port is after the launch,
    /// beside the app's own start.
    Open,
    Taken(Place),
    /// There is no place, and PID 1 holds the text itself: see [`Held`].
    Held(Held),
    /// There is no place, and `run` goes on without.
    Nowhere,
}

/// The state of PID 1 where nothing can be written: a file in memory that it alone has open, and that is read through `/proc/1/fd` by who may
/// trace it, which is the same user and root (`ptrace(2)`, PTRACE_MODE_READ). Each state is a file of its own, put in the place of the one
/// before it at once (`dup3(2)`), so that a reader sees the one or the other.
#[derive(Debug)]
struct Held {
    writer: Writer,
    file: OwnedFd,
}

impl Held {
    fn new(writer: Writer, state: &State) -> io::Result<Self> {
        let file = Self::filled(&writer, state)?;
        Ok(Self { writer, file })
    }

    fn write(&mut self, state: &State) -> io::Result<()> {
        let new = Self::filled(&self.writer, state)?;
        Ok(nix::unistd::dup3(new, &mut self.file, nix::fcntl::OFlag::O_CLOEXEC)?)
    }

    fn filled(writer: &Writer, state: &State) -> io::Result<OwnedFd> {
        let mut file = File::from(nix::sys::memfd::memfd_create(HELD, nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&text(writer, state)?)?;
        // It comes with 0777, and what others may write is not believed.
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        Ok(file.into())
    }
}

#[derive(Debug)]
struct Place {
    writer: Writer,
    path: PathBuf,
    beside: PathBuf,
    /// What lies beside, complete, while nothing is in the place yet.
    reserved: Option<File>,
    /// What is in the place, open for its lock: see [`pulse`].
    alive: Option<File>,
}

impl Publisher {
    /// Finds the place where `dir`, which is `--state-dir`, names one (relative to the working directory of now), and writes `first`
    /// beside it: only a real write tells whether a directory can be written. Nobody sees it before the first [`Publisher::publish`],
    /// so that a run whose port is free shows its state once: a second file over one that was just written makes ext4 write that one
    /// out, which is what would cost most of all in a short run.
    ///
    /// # Errors
    /// [`Error::Settings`] (125) when `dir` cannot be written.
    pub fn open(dir: Option<&Path>, first: &State) -> Result<Self, Error> {
        let Some(dir) = dir else { return Ok(Self { seat: Seat::Open, complained: false }) };
        let opened = Writer::this().and_then(|writer| {
            let mut place = Place::new(&std::path::absolute(dir)?, writer);
            place.reserve(first)?;
            Ok(place)
        });
        match opened {
            Ok(place) => Ok(Self { seat: Seat::Taken(place), complained: false }),
            Err(error) => Err(Error::Settings(vec![format!(
                "--state-dir (REBERTH_STATE_DIR) {:?}: the state file cannot be written there: {}; \
                 name an existing directory that uid {} can write, or leave it out: then it is the first of {} that can be written, or PID 1's memory",
                dir,
                words(&error),
                nix::unistd::geteuid(),
                DEFAULT_DIRS.join(", "),
            )])),
        }
    }

    /// The state file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.seat {
            Seat::Taken(place) => Some(place.path.as_path()),
            Seat::Open | Seat::Held(_) | Seat::Nowhere => None,
        }
    }

    /// The descriptor it holds, if it holds one: until it first publishes, and as PID 1.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.seat {
            Seat::Taken(place) => place.reserved.as_ref().or(place.alive.as_ref()).map(AsFd::as_fd),
            Seat::Held(held) => Some(held.file.as_fd()),
            Seat::Open | Seat::Nowhere => None,
        }
    }

    /// Publishes `state`, complete or not at all; with no `--state-dir` in the first of [`DEFAULT_DIRS`] that works. After the launch
    /// nothing bails out, so this has no error: that no default directory works is a line to log as a warning, and so is the first
    /// failure of a later write; the next ones are silent until a write succeeds again.
    #[must_use = "the line is to be logged"]
    pub fn publish(&mut self, state: &State) -> Option<String> {
        let (where_to, written) = match &mut self.seat {
            Seat::Nowhere => return None,
            Seat::Taken(place) => (place.path.display().to_string(), place.write(state)),
            Seat::Held(held) => ("in memory".to_owned(), held.write(state)),
            Seat::Open => {
                let (seat, warning) = take_default(state);
                self.seat = seat;
                return warning;
            }
        };
        match written {
            Ok(()) => {
                self.complained = false;
                None
            }
            Err(_) if self.complained => None,
            Err(error) => {
                self.complained = true;
                Some(format!(
                    "state file {where_to}: phase {} cannot be written: {}; healthcheck still sees the phase before it",
                    state.phase.name(),
                    words(&error)
                ))
            }
        }
    }

    /// Removes the file at a clean end. Nothing can be done about a failure, and a reader sees that the writer is gone.
    pub fn remove(&self) {
        if let Seat::Taken(place) = &self.seat {
            let _ = fs::remove_file(if place.reserved.is_some() { &place.beside } else { &place.path });
        }
    }
}

/// Publishes in the first default directory that works; the line says why none does.
fn take_default(state: &State) -> (Seat, Option<String>) {
    let mut tried = Vec::new();
    let mut seat = Seat::Nowhere;
    match Writer::this() {
        Ok(writer) => {
            for dir in DEFAULT_DIRS {
                let mut place = Place::new(Path::new(dir), writer.clone());
                match place.write(state) {
                    Ok(()) => return (Seat::Taken(place), None),
                    Err(error) => tried.push(format!("{dir}: {}", words(&error))),
                }
            }
            // Only of PID 1 does a reader know where to look.
            if writer.pid == 1
                && let Ok(held) = Held::new(writer, state)
            {
                seat = Seat::Held(held);
            }
        }
        Err(error) => tried.push(format!("/proc: {}", words(&error))),
    }
    let instead = match seat {
        Seat::Held(_) => "healthcheck asks PID 1 itself, which only the same user and root may",
        _ => "healthcheck goes by its settings alone",
    };
    let warning = format!(
        "no state file: {}; {instead}; mount a small tmpfs and name it with --state-dir (REBERTH_STATE_DIR)",
        tried.join(", ")
    );
    (seat, Some(warning))
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
        let mut beside: OsString = path.clone().into();
        beside.push(".new");
        Self { writer, path, beside: beside.into(), reserved: None, alive: None }
    }

    /// Writes `first` where nobody looks for it.
    fn reserve(&mut self, first: &State) -> io::Result<()> {
        self.reserved = Some(self.write_beside(&text(&self.writer, first)?)?);
        Ok(())
    }

    fn write(&mut self, state: &State) -> io::Result<()> {
        let mut text = text(&self.writer, state)?;
        if let Some(mut file) = self.reserved.take() {
            // Nobody reads what lies beside, so it may be written over.
            let length = u64::try_from(text.len()).unwrap_or_default();
            let written = file.rewind().and_then(|()| file.write_all(&text)).and_then(|()| file.set_len(length));
            drop(file);
            return written.inspect_err(|_| self.discard()).and_then(|()| self.show());
        }
        // Closed before anybody sees it: a file that is open for writing keeps its disk from being remounted read-only.
        match self.write_beside(&text).map(drop).and_then(|()| self.show()) {
            // A full disk has no room for a second file, but the room of the first one is ours already.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                let written = overwrite(&self.path, &mut text).map_err(|_| error);
                // With the descriptor that was just closed the lock has gone.
                self.alive = self.alive.take().filter(pulse::begin);
                written
            }
            other => other,
        }
    }

    fn show(&mut self) -> io::Result<()> {
        // Locked before anybody sees it, and before anybody else could lay another file there.
        let alive = if self.writer.pid == 1 { File::open(&self.beside).ok().filter(pulse::begin) } else { None };
        fs::rename(&self.beside, &self.path).inspect_err(|_| self.discard())?;
        self.alive = alive;
        Ok(())
    }

    fn discard(&self) {
        let _ = fs::remove_file(&self.beside);
    }

    fn write_beside(&self, text: &[u8]) -> io::Result<File> {
        let mut file = match self.create() {
            // Left by a writer that was killed between its write and its rename, with our name: container restarts reuse both numbers.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&self.beside)?;
                self.create()?
            }
            other => other?,
        };
        file.write_all(text)
            // A tight umask would hide the file from a healthcheck that runs as another user.
            .and_then(|()| file.set_permissions(fs::Permissions::from_mode(0o644)))
            .inspect_err(|_| self.discard())?;
        Ok(file)
    }

    /// `create_new` is O_EXCL: it never follows a symbolic link that somebody laid in `/tmp`. std adds O_CLOEXEC.
    fn create(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).mode(0o644).open(&self.beside)
    }
}

/// One `write` over the old text, padded with blanks to its length, so that a reader sees the one or the other.
pub(super) fn overwrite(path: &Path, text: &mut Vec<u8>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let old = usize::try_from(file.metadata()?.len()).unwrap_or(0).min(MAX_SIZE);
    text.resize(text.len().max(old), b' ');
    file.write_all(text)
}
