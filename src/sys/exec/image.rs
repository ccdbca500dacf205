//! Owns what is executed: the search along PATH, the arguments and the environment, all allocated before the fork. Must not
//! know how it is executed.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// The PATH that musl's `execvp(3)` uses if the environment has none.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/bin:/usr/bin";

/// A program ready to be executed. Everything is allocated before the fork: the child may only make async-signal-safe
/// calls.
#[derive(Debug)]
pub struct Image {
    pub(super) candidates: Vec<CString>,
    pub(super) arguments: Vec<CString>,
    pub(super) environment: Vec<CString>,
    /// The index of `LISTEN_PID` in `environment`; only the child knows its value.
    pub(super) listen_pid: Option<usize>,
}

impl Image {
    /// Prepares `command` (the program and its arguments) with `environment`, and searches that environment's PATH as
    /// `execvp(3)` does: a name with a slash is a path, an empty element of PATH is the current directory. If
    /// `patch_pid` is set, `LISTEN_PID` in `environment` gets the app's pid at launch.
    ///
    /// # Errors
    /// InvalidInput for an empty command, or a NUL byte, which nothing that came through an exec can contain.
    pub fn new(command: &[OsString], environment: &[(OsString, OsString)], patch_pid: bool) -> io::Result<Self> {
        let word = command.first().ok_or(io::ErrorKind::InvalidInput)?;
        let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_bytes());
        let candidates = if word.is_empty() {
            Vec::new()
        } else if word.as_bytes().contains(&b'/') {
            vec![c_string(word.as_bytes())?]
        } else {
            path.unwrap_or(DEFAULT_PATH)
                .split(|byte| *byte == b':')
                .map(|dir| candidate(dir, word))
                .collect::<Result<_, _>>()?
        };
        let arguments = command.iter().map(|word| c_string(word.as_bytes())).collect::<Result<_, _>>()?;
        let mut listen_pid = None;
        let mut entries = Vec::with_capacity(environment.len());
        for (name, value) in environment {
            // Includes the `=` and the NUL, so that none of hundreds of variables is reallocated.
            let room = name.len() + value.len().max(PID_ROOM.len()) + 2;
            let mut entry = Vec::with_capacity(room);
            entry.extend_from_slice(name.as_bytes());
            entry.push(b'=');
            if patch_pid && name == "LISTEN_PID" {
                // Of duplicates the first counts, as in getenv(3).
                if listen_pid.is_some() {
                    continue;
                }
                listen_pid = Some(entries.len());
                entry.extend_from_slice(PID_ROOM);
            } else {
                entry.extend_from_slice(value.as_bytes());
            }
            entries.push(c_string(entry)?);
        }
        entries.extend(crate::sys::environ::nameless());
        Ok(Self { candidates, arguments, environment: entries, listen_pid })
    }

    /// The command line, the program first.
    pub fn arguments(&self) -> impl Iterator<Item = &OsStr> {
        self.arguments.iter().map(|word| OsStr::from_bytes(word.as_bytes()))
    }

    /// The paths to try, in order.
    pub fn candidates(&self) -> impl Iterator<Item = &OsStr> {
        self.candidates.iter().map(|path| OsStr::from_bytes(path.as_bytes()))
    }
}

/// Whether a file has capabilities, which an exec would grant (`xattr(7)`, `security.capability`).
pub fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = c_string(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: two NUL-terminated strings; with a size of 0 the call only returns the length.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), ptr::null_mut(), 0) >= 0 }
}

/// Room for any pid (`pid_max` is at most 2^22), overwritten from the left and terminated with a NUL.
const PID_ROOM: &[u8] = b"0000000000";

fn candidate(dir: &[u8], word: &OsStr) -> io::Result<CString> {
    let mut path = Vec::with_capacity(dir.len() + word.len() + 2);
    path.extend_from_slice(dir);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(word.as_bytes());
    c_string(path)
}

pub(super) fn c_string(bytes: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}
