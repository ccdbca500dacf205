//! Owns reading state files, and which writers to trust. Must not know what a phase leads to, or how a file is written.
//!
//! The file decides between healthy and unhealthy, and is in a directory that other users may write to, so everything
//! about it is verified.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::document::{DEFAULT_DIRS, Document, MAX_SIZE, MEMFD_NAME, State, file_name, parse};
use super::identity::{self, Life, Writer};
use super::lock;
use crate::error::words;
use crate::port::spec::Spec;

/// How many names are read in one directory: another user may fill `/tmp` with names like ours.
const MAX_NAMES: usize = 4096;

/// What the state files of this container contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Written by a live `run` of this container with pid `pid`.
    Believed { state: State, pid: i32, path: PathBuf },
    /// A `run` of this container has died without removing its file: fail.
    Dead { path: PathBuf, pid: i32, why: &'static str },
    /// There is a file but no trusted writer: the settings decide, and the verdict names the file.
    NotBelieved { path: PathBuf, why: String },
    /// There is no file.
    Nothing,
}

impl Found {
    /// Which of two findings wins: a live writer, then a dead one, then an untrusted file.
    fn rank(&self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::NotBelieved { .. } => 1,
            Self::Dead { .. } => 2,
            Self::Believed { .. } => 3,
        }
    }
}

/// The finding for one file.
struct Finding {
    found: Found,
    start_time: u64,
}

/// Reads the state of the `run` in this container: from `dir` (`--state-dir`), else from the default directories.
///
/// If PID 1 is a `run`, its state wins. Of several live writers, the one configured with the ports `asked` wins, else
/// the youngest.
pub fn believe(dir: Option<&Path>, asked: &[Spec]) -> Found {
    // A mistyped directory must not look like one without a state file.
    if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
        let why = "--state-dir (REBERTH_STATE_DIR) does not name a directory; if it is not set, reberth looks in /run, /dev/shm and /tmp";
        return Found::NotBelieved { path: dir.to_owned(), why: why.into() };
    }
    let dirs: Vec<&Path> = dir.map_or_else(|| DEFAULT_DIRS.iter().map(Path::new).collect(), |dir| vec![dir]);
    let mine = match identity::mount_namespace() {
        Ok(mine) => mine,
        Err(error) => {
            let why = unreadable(&error);
            return Found::NotBelieved { path: PathBuf::from("/proc/self/ns"), why };
        }
    };
    let mut best = Finding { found: Found::Nothing, start_time: 0 };
    for dir in &dirs {
        best = better(best, look(&dir.join(file_name(mine, 1)), mine), asked);
        if matches!(best.found, Found::Believed { .. }) {
            return best.found;
        }
    }
    for dir in &dirs {
        for path in others(dir, mine) {
            best = better(best, look(&path, mine), asked);
        }
    }
    if dir.is_none() && !matches!(best.found, Found::Believed { .. }) {
        for path in in_memory() {
            best = better(best, look_at(&path, mine, 0), asked);
        }
    }
    best.found
}

/// The state that PID 1 holds in memory because it cannot write a file; found by the links of its descriptors, if we
/// may read them.
fn in_memory() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc/1/fd") else { return Vec::new() };
    let named = format!("/memfd:{MEMFD_NAME} (deleted)");
    let is_it = |path: &PathBuf| fs::read_link(path).is_ok_and(|link| link == Path::new(&named));
    entries.flatten().map(|entry| entry.path()).filter(is_it).take(1).collect()
}

fn better(one: Finding, other: Finding, asked: &[Spec]) -> Finding {
    let weight = |look: &Finding| {
        let fits = match &look.found {
            Found::Believed { state, .. } => !asked.is_empty() && fits(state, asked),
            _ => false,
        };
        (look.found.rank(), fits, look.start_time)
    };
    if weight(&other) > weight(&one) { other } else { one }
}

/// Whether `state` belongs to a `run` that was configured with these ports.
fn fits(state: &State, asked: &[Spec]) -> bool {
    state.ports.len() == asked.len()
        && state
            .ports
            .iter()
            .zip(asked)
            .all(|(port, spec)| port.asked == spec.port && port.addr == spec.addr && port.protocol == spec.protocol)
}

/// The state files in `dir` except PID 1's. Those with another mount namespace belong to other containers: one is
/// enough, for the verdict to name.
fn others(dir: &Path, mine: u64) -> Vec<PathBuf> {
    let own = format!("reberth-{mine}-");
    let first = file_name(mine, 1);
    let mut found = Vec::new();
    let mut foreign = None;
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("reberth-") || !name.ends_with(".json") || name == first {
            continue;
        }
        if !name.starts_with(&own) {
            foreign = foreign.or_else(|| Some(dir.join(name)));
        } else if found.len() < MAX_NAMES {
            found.push(dir.join(name));
        }
    }
    found.extend(foreign);
    found
}

fn look(path: &Path, mine: u64) -> Finding {
    look_at(path, mine, libc::O_NOFOLLOW)
}

fn look_at(path: &Path, mine: u64, flags: i32) -> Finding {
    let not = |why: String| Finding { found: Found::NotBelieved { path: path.to_owned(), why }, start_time: 0 };
    let (document, alive) = match read(path, flags) {
        Ok(Some(read)) => read,
        Ok(None) => return Finding { found: Found::Nothing, start_time: 0 },
        Err(why) => return not(why),
    };
    let Document { writer, state, .. } = document;
    let another = || not("it is from another container (namespace)".to_owned());
    if writer.mount_namespace != mine {
        return another();
    }
    // PID 1 of our own PID namespace wrote it, and is alive.
    let judged = if alive && writer.pid == 1 {
        Ok(None)
    } else {
        match identity::pid_namespace() {
            Ok(own) if own == writer.pid_namespace => judge(&writer),
            Ok(_) => return another(),
            Err(error) => return not(unreadable(&error)),
        }
    };
    let found = match judged {
        Ok(None) => Found::Believed { state, pid: writer.pid, path: path.to_owned() },
        Ok(Some(why)) => Found::Dead { path: path.to_owned(), pid: writer.pid, why },
        Err(why) => return not(why),
    };
    Finding { found, start_time: writer.start_time }
}

fn unreadable(error: &io::Error) -> String {
    format!("reberth cannot read its own namespaces: {}", words(error))
}

fn judge(writer: &Writer) -> Result<Option<&'static str>, String> {
    if writer.pid < 1 {
        return Err(format!("it names pid {} as its writer", writer.pid));
    }
    match writer.life() {
        Life::Alive => Ok(None),
        Life::Dead(why) => Ok(Some(why)),
        Life::Unknown => Err(format!("/proc hides its writer, pid {}", writer.pid)),
    }
}

/// The content of a state file that only root or we ourselves can have written, and whether PID 1 has it locked;
/// `None`: no such file.
fn read(path: &Path, flags: i32) -> Result<Option<(Document<State>, bool)>, String> {
    // O_NONBLOCK, because opening a FIFO would wait for a writer for ever.
    let opened = OpenOptions::new().read(true).custom_flags(flags | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => Ok(None),
                Some(libc::ELOOP) => Err("it is a symbolic link".to_owned()),
                Some(libc::ENXIO) => Err("it is not a regular file".to_owned()),
                _ => Err(words(&error)),
            };
        }
    };
    let meta = file.metadata().map_err(|error| words(&error))?;
    if !meta.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(format!("it belongs to uid {}, neither root nor the current user", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(format!("others can write it (mode {:04o})", meta.mode() & 0o7777));
    }
    if meta.len() > MAX_SIZE as u64 {
        return Err(format!("it has {} bytes, more than {MAX_SIZE}", meta.len()));
    }
    let mut text = Vec::with_capacity(1024);
    // The file may grow meanwhile; the limit stays.
    let size: io::Result<usize> = (&file).take(MAX_SIZE as u64 + 1).read_to_end(&mut text);
    size.map_err(|error| words(&error))?;
    Ok(Some((parse(&text)?, lock::is_held_by_pid_1(&file))))
}
