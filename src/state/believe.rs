//! Owns whom a reader of state files believes. Must not know what follows from a phase, nor how a file is written.
//!
//! The file decides about healthy or not, and stands in directories that others may write, so nothing in it is taken on trust.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::document::{DEFAULT_DIRS, Document, HELD, MAX_SIZE, State, file_name, parse};
use super::identity::{self, Life, Writer};
use super::pulse;
use crate::error::words;
use crate::port::spec::Spec;

/// How many names are looked at in one directory: somebody may fill `/tmp` with our names to keep us busy.
const MAX_NAMES: usize = 4096;

/// What the state files of this container say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A live `run` of this container, pid `pid`.
    Believed { state: State, pid: i32, path: PathBuf },
    /// A `run` of this container that ended without taking its leave: fail.
    Dead { path: PathBuf, pid: i32, why: &'static str },
    /// There is a file, but nobody to believe: settings decide, and the verdict names it.
    NotBelieved { path: PathBuf, why: String },
    /// No file at all.
    Nothing,
}

impl Found {
    /// How much a finding counts against another: a live writer beats dead ones, and those beat what cannot be believed.
    fn rank(&self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::NotBelieved { .. } => 1,
            Self::Dead { .. } => 2,
            Self::Believed { .. } => 3,
        }
    }
}

/// What is known about one file.
struct Look {
    found: Found,
    start_time: u64,
}

/// Reads the state of the `run` beside us: from `dir` (`--state-dir`), else from the default directories.
///
/// PID 1 is asked first and alone where it is a `run`. Of several live writers the one whose ports as asked are `asked` is taken,
/// else the youngest.
pub fn believe(dir: Option<&Path>, asked: &[Spec]) -> Found {
    // A name with a slip in it must not be taken for a place where nobody has written yet.
    if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
        let why =
            "--state-dir (REBERTH_STATE_DIR) names no directory; left out, it is looked for in /run, /dev/shm and /tmp";
        return Found::NotBelieved { path: dir.to_owned(), why: why.into() };
    }
    let dirs: Vec<&Path> = dir.map_or_else(|| DEFAULT_DIRS.iter().map(Path::new).collect(), |dir| vec![dir]);
    let mine = match identity::mount_namespace() {
        Ok(mine) => mine,
        Err(error) => {
            let why = untold(&error);
            return Found::NotBelieved { path: PathBuf::from("/proc/self/ns"), why };
        }
    };
    let mut best = Look { found: Found::Nothing, start_time: 0 };
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
        for path in held() {
            best = better(best, look_at(&path, mine, 0), asked);
        }
    }
    best.found
}

/// What PID 1 holds in memory, where it had nowhere to write; the links of its descriptors say so. It may be hidden from us.
fn held() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc/1/fd") else { return Vec::new() };
    let named = format!("/memfd:{HELD} (deleted)");
    let is_it = |path: &PathBuf| fs::read_link(path).is_ok_and(|link| link == Path::new(&named));
    entries.flatten().map(|entry| entry.path()).filter(is_it).take(1).collect()
}

fn better(one: Look, other: Look, asked: &[Spec]) -> Look {
    let weight = |look: &Look| {
        let fits = match &look.found {
            Found::Believed { state, .. } => !asked.is_empty() && fits(state, asked),
            _ => false,
        };
        (look.found.rank(), fits, look.start_time)
    };
    if weight(&other) > weight(&one) { other } else { one }
}

/// Whether `state` is of a `run` that was asked for these ports.
fn fits(state: &State, asked: &[Spec]) -> bool {
    state.ports.len() == asked.len()
        && state
            .ports
            .iter()
            .zip(asked)
            .all(|(port, spec)| port.asked == spec.port && port.addr == spec.addr && port.protocol == spec.protocol)
}

/// The state files in `dir` but PID 1's. Those that bear another mount namespace are of another container: one of them is enough, to be named.
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

fn look(path: &Path, mine: u64) -> Look {
    look_at(path, mine, libc::O_NOFOLLOW)
}

fn look_at(path: &Path, mine: u64, flags: i32) -> Look {
    let not = |why: String| Look { found: Found::NotBelieved { path: path.to_owned(), why }, start_time: 0 };
    let (document, alive) = match read(path, flags) {
        Ok(Some(read)) => read,
        Ok(None) => return Look { found: Found::Nothing, start_time: 0 },
        Err(why) => return not(why),
    };
    let Document { writer, state, .. } = document;
    let another = || not("it is of another container (namespace)".to_owned());
    if writer.mount_namespace != mine {
        return another();
    }
    // PID 1 of our own PID namespace wrote it, and lives.
    let judged = if alive && writer.pid == 1 {
        Ok(None)
    } else {
        match identity::pid_namespace() {
            Ok(own) if own == writer.pid_namespace => judge(&writer),
            Ok(_) => return another(),
            Err(error) => return not(untold(&error)),
        }
    };
    let found = match judged {
        Ok(None) => Found::Believed { state, pid: writer.pid, path: path.to_owned() },
        Ok(Some(why)) => Found::Dead { path: path.to_owned(), pid: writer.pid, why },
        Err(why) => return not(why),
    };
    Look { found, start_time: writer.start_time }
}

fn untold(error: &io::Error) -> String {
    format!("one's own namespaces cannot be told: {}", words(error))
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

/// The text of a state file that only root or oneself could have written, and whether PID 1 holds it; `None`: no such file.
fn read(path: &Path, flags: i32) -> Result<Option<(Document<State>, bool)>, String> {
    // O_NONBLOCK, because opening a FIFO would wait for its writer for ever.
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
        return Err(format!("it belongs to uid {}, neither root nor oneself", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(format!("others can write it (mode {:04o})", meta.mode() & 0o7777));
    }
    if meta.len() > MAX_SIZE as u64 {
        return Err(format!("it has {} bytes, more than {MAX_SIZE}", meta.len()));
    }
    let mut text = Vec::with_capacity(1024);
    // The size may change under us, the limit may not.
    let size: io::Result<usize> = (&file).take(MAX_SIZE as u64 + 1).read_to_end(&mut text);
    size.map_err(|error| words(&error))?;
    Ok(Some((parse(&text)?, pulse::is_of_pid_1(&file))))
}
