//! Owns the start of the app: what it inherits, and what a failed exec means. Must not know the policy of ports, or what happens after the
//! start.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use nix::unistd::{AccessFlags, access};
use tracing::warn;

use super::advice;
use super::environment::Environment;
use super::invocation::Invocation;
use crate::error::{Error, words};
use crate::setting::table;
use crate::sys::exec::{self, ExecFailure, Image, NotStarted, Setup, Started};
use crate::sys::notify::Listener;
use crate::sys::signal::Inherited;
use crate::sys::terminal::Terminal;

/// How the app is started.
#[derive(Debug)]
pub struct Launch<'a> {
    pub invocation: &'a Invocation,
    pub inherited: Inherited,
    /// The directory in which reberth was started, if reberth has left it.
    pub directory: Option<&'a Path>,
    /// Intercept the app's binds. Cannot be combined with descriptors to pass.
    pub intercept_binds: bool,
}

/// A launched app.
pub struct App {
    started: Started,
    image: Image,
    word: OsString,
    launched: Instant,
}

/// Why there is no app.
#[derive(Debug)]
pub enum NotLaunched {
    Failed(Error),
    /// The app's binds cannot be intercepted, for this reason. Nothing was executed: it may be launched again without interception.
    CannotIntercept(io::Error),
}

impl App {
    /// The listener for the app's calls, if they are intercepted.
    pub fn take_calls(&mut self) -> Option<Listener> {
        let intercepted = self.started.heard.take()?;
        if intercepted.no_new_privs && self.gains_privileges() {
            warn!("{}", advice::NO_NEW_PRIVS);
        }
        Some(intercepted.listener)
    }

    /// Whether the app's file would grant privileges: setuid, setgid, or file capabilities (`capabilities(7)`).
    fn gains_privileges(&self) -> bool {
        let path = self.image.candidates().map(Path::new).find(|path| path.is_file());
        path.is_some_and(|path| {
            let mode = path.metadata().map_or(0, |found| found.permissions().mode());
            mode & 0o6000 != 0 || exec::has_capabilities(path)
        })
    }

    pub fn pid(&self) -> i32 {
        self.started.pid
    }

    /// When it was started.
    pub fn launched(&self) -> Instant {
        self.launched
    }

    /// Set once the app has exited, if it was never executed: an emulator that turns vfork into fork reports a failed exec only then.
    pub fn late_failure(&self) -> Option<Error> {
        self.started.failure().map(|failure| explain(&self.image, &self.word, failure))
    }
}

/// Starts the app as a child: own process group, the terminal if there is one, TERM when reberth dies.
///
/// # Errors
/// `NotFound` (127), `NotExecutable` (126), `Cannot` (125) if the kernel gives no process or descriptor; `CannotIntercept`.
pub fn start(launch: &Launch<'_>, terminal: Option<Terminal>) -> Result<App, NotLaunched> {
    let word = launch.invocation.words.first().map_or(OsStr::new(""), OsString::as_os_str);
    let (mut image, raised) = prepare(launch).map_err(NotLaunched::Failed)?;
    let descriptors: Vec<RawFd> = raised.iter().map(AsRawFd::as_raw_fd).collect();
    let setup = Setup {
        inherited: launch.inherited,
        own_group: true,
        terminal: terminal.map(|terminal| terminal.raw_fd()),
        bound_to_parent: true,
        descriptors: &descriptors,
        directory: launch.directory,
        hear_binds: launch.intercept_binds,
    };
    let started = exec::start(&mut image, &setup).map_err(|failed| match failed {
        NotStarted::Deaf(why) => NotLaunched::CannotIntercept(why),
        NotStarted::Clone(error) => NotLaunched::Failed(Error::cannot(format!(
            "{}: cannot start a process: {}; raise the limit of processes (pids limit of the container, ulimit -u) or free memory",
            word.to_string_lossy(),
            words(&error)
        ))),
    })?;
    match started.failure() {
        None => Ok(App { started, image, word: word.to_owned(), launched: Instant::now() }),
        Some(failure) => {
            // The child took the foreground before its exec failed. Left there, it would put the caller of reberth into the background.
            if let Some(terminal) = terminal {
                terminal.take_back(started.pid);
            }
            Err(NotLaunched::Failed(explain(&image, word, failure)))
        }
    }
}

/// Replaces reberth with the app. Returns only on failure.
pub fn replace(launch: &Launch<'_>) -> Error {
    let word = launch.invocation.words.first().map_or(OsStr::new(""), OsString::as_os_str);
    let (mut image, raised) = match prepare(launch) {
        Ok(prepared) => prepared,
        Err(error) => return error,
    };
    let descriptors: Vec<RawFd> = raised.iter().map(AsRawFd::as_raw_fd).collect();
    let setup = Setup {
        inherited: launch.inherited,
        own_group: false,
        terminal: None,
        bound_to_parent: false,
        descriptors: &descriptors,
        directory: None,
        hear_binds: false,
    };
    let failure = exec::replace(&mut image, &setup);
    explain(&image, word, failure)
}

/// Why this command cannot be executed, as far as that is known in advance: it is not found, or may not be executed.
pub fn precheck(command: &[OsString], environment: &Environment) -> Option<Error> {
    let image = Image::new(command, environment, false).ok()?;
    let may = |path: &&OsStr| access(*path, AccessFlags::X_OK).is_ok() && Path::new(path).is_file();
    // An emulator looks for a program's loader in its own directories.
    let emulated = environment.iter().any(|(name, _)| name == "QEMU_LD_PREFIX");
    let ours = head(Path::new("/proc/self/exe"));
    let has_interpreter = |path: &OsStr| {
        let head = head(Path::new(path));
        let judged = head.starts_with(b"#!") || !emulated && head.get(18..20) == ours.get(18..20);
        !judged || interpreter(&head).is_none_or(|name| Path::new(&name).exists())
    };
    if image.candidates().filter(may).any(has_interpreter) {
        return None;
    }
    if image.candidates().any(|path| may(&path)) {
        return Some(explain(&image, command.first()?, ExecFailure { errno: libc::ENOENT }));
    }
    // As in execvp(3), EACCES for one candidate (the file or a directory above it) takes precedence over ENOENT for the others.
    let refused = |path: &OsStr| access(path, AccessFlags::X_OK) != Err(nix::Error::ENOENT);
    let errno = if image.candidates().any(refused) { libc::EACCES } else { libc::ENOENT };
    Some(explain(&image, command.first()?, ExecFailure { errno }))
}

fn prepare(launch: &Launch<'_>) -> Result<(Image, Vec<OwnedFd>), Error> {
    let image = Image::new(&launch.invocation.words, &launch.invocation.environment, launch.invocation.patch_pid)
        .map_err(|error| Error::cannot(format!("the command line cannot be passed on: {}", words(&error))))?;
    let raised = exec::raise(&launch.invocation.descriptors).map_err(|error| {
        Error::cannot(format!(
            "the sockets cannot be passed to the app: {}; raise the limit of open files (ulimit -n)",
            words(&error)
        ))
    })?;
    Ok((image, raised))
}

/// What a failed exec means, and how to fix it.
pub fn explain(image: &Image, word: &OsStr, failure: ExecFailure) -> Error {
    let shown = word.to_string_lossy();
    let reason = io::Error::from_raw_os_error(failure.errno);
    if matches!(failure.errno, libc::EBADF | libc::EMFILE | libc::ESRCH) {
        return Error::cannot(format!("{shown}: cannot be started: {reason}"));
    }
    let found = image
        .candidates()
        .map(Path::new)
        .find(|path| path.exists() && (failure.errno != libc::EACCES || !path.is_dir()));
    let Some(path) = found.or_else(|| image.candidates().map(Path::new).find(|path| path.exists())) else {
        return match failure.errno {
            libc::EACCES => Error::NotExecutable(format!(
                "{shown}: permission denied on the path to it; check the x bits of the directories"
            )),
            libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => Error::NotExecutable(format!(
                "{shown}: not found, but some directories of PATH could not be searched: {reason}; check what is mounted there"
            )),
            _ if word.is_empty() => Error::NotFound("the command is empty; name a program after --".to_owned()),
            _ if word.as_bytes().starts_with(b"-") => {
                Error::NotFound(format!("{shown}: not found: {}", option(image, &shown)))
            }
            _ if is_a_line(&shown) => Error::NotFound(format!(
                "{shown}: not found: it is one argument with spaces; split it, as {}",
                words_of(&shown)
            )),
            _ if word.as_bytes().contains(&b'/') => Error::NotFound(format!("{shown}: no such file")),
            _ => Error::NotFound(format!("{shown}: not found in PATH; check the image, or give the full path")),
        };
    };
    let head = head(path);
    let place = path.display();
    Error::NotExecutable(match failure.errno {
        libc::ENOENT => match interpreter(&head) {
            Some(missing) => format!("{place}: its interpreter {missing} is missing in this image"),
            None => format!("{place}: its interpreter or loader is missing in this image"),
        },
        libc::EACCES if path.is_dir() => format!("{place}: is a directory, not a program"),
        libc::EACCES if !path.is_file() => format!("{place}: is a pipe, a socket or a device, not a program"),
        libc::EACCES if !has_x_bit(path) => format!("{place}: permission denied: it lacks the x bit (chmod +x)"),
        libc::EACCES => {
            format!("{place}: permission denied; check its owner, its interpreter's x bit and the mount (noexec)")
        }
        libc::ENOEXEC if head.starts_with(b"\x7fELF") => {
            format!("{place}: built for another architecture, or truncated")
        }
        libc::ENOEXEC if head.is_empty() => format!("{place}: is empty, not a program"),
        libc::ENOEXEC => {
            format!("{place}: a script without #!; give it a first line such as #!/bin/sh, or run it as: sh {place}")
        }
        libc::E2BIG => format!("{place}: arguments and environment are too long together ({reason})"),
        _ => format!("{place}: cannot be executed: {reason}"),
    })
}

/// What to do about an option where COMMAND was expected: it came after `--`, as everything after `docker run IMAGE` does.
fn option(image: &Image, word: &str) -> String {
    let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value.to_owned())));
    let Some(setting) = flag.strip_prefix("--").and_then(|flag| table::of_flag(flag, false)) else {
        return "it looks like an option, and options go before --".to_owned();
    };
    let next = || image.arguments().nth(1).map(|next| next.to_string_lossy().into_owned());
    let value = value.or_else(next).unwrap_or_default();
    format!("options go before --, or set {}={value}", setting.variable)
}

/// Whether it is a whole command line rather than the path of a file with a space in its name.
fn is_a_line(word: &str) -> bool {
    let first = word.split(char::is_whitespace).next().unwrap_or_default();
    first.len() < word.len() && (!word.contains('/') || !first.contains('/') || Path::new(first).is_file())
}

/// `["python3", "app.py"]`, as in a Dockerfile or a manifest.
fn words_of(line: &str) -> String {
    format!("{:?}", line.split_whitespace().collect::<Vec<_>>())
}

/// The first bytes of a file: at least what the kernel itself reads for `#!` (BINPRM_BUF_SIZE), and an ELF header with its table.
fn head(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Opening a pipe would wait for its writer, and opening a device may have any effect.
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        let _ = file.take(4096).read_to_end(&mut bytes);
    }
    bytes
}

fn has_x_bit(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0)
}

/// The program that a file needs to run: the one after `#!`, or an ELF file's PT_INTERP (`elf(5)`; 64-bit little-endian, as all supported
/// targets are).
pub(crate) fn interpreter(head: &[u8]) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let word = line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r')).find(|word| !word.is_empty())?;
        let windows = if line.ends_with(b"\r") {
            " (the line ends in a carriage return: convert the file to Unix line ends)"
        } else {
            ""
        };
        return Some(format!("{}{windows}", String::from_utf8_lossy(word)));
    }
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        usize::try_from(bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))).ok()
    };
    let (table, entry, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = table.checked_add(entry.checked_mul(index)?)?;
        if number(at, 4)? == 3 {
            let (offset, size) = (number(at.checked_add(8)?, 8)?, number(at.checked_add(32)?, 8)?);
            let text = head.get(offset..offset.checked_add(size)?)?;
            let name = text.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())?;
            return Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_read_from_scripts_and_elf_files() {
        for (head, expected) in [
            (&b"#!/bin/sh\necho"[..], Some("/bin/sh")),
            (b"#! /usr/bin/env python3\n", Some("/usr/bin/env")),
            (b"#!", None),
            (b"", None),
            (b"\x7fELF\x02\x01", None),
            (b"plain", None),
        ] {
            assert_eq!(interpreter(head).as_deref(), expected, "{head:?}");
        }
        assert!(interpreter(b"#!/bin/sh\r\n").unwrap().contains("carriage return"));
        let own = head(Path::new("/proc/self/exe"));
        if let Some(loader) = interpreter(&own) {
            assert!(loader.starts_with('/'), "{loader}");
        }
        let mut broken = own;
        for at in 0..broken.len().min(1024) {
            broken[at] = 0xff;
            let _ = interpreter(&broken);
        }
    }
}
