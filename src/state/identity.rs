//! Owns the identity of a state file's writer, and whether that process is still alive. Must not know the rest of the
//! file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Identifies a writer among all processes that ever ran: a pid is reused, and start times begin again at each boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Writer {
    pub pid: i32,
    /// Clock ticks after boot, field 22 of `/proc/PID/stat` (proc_pid_stat(5)); `execve` keeps it.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    /// Inode of `/proc/self/ns/mnt`.
    pub mount_namespace: u64,
    /// Inode of `/proc/self/ns/pid`.
    pub pid_namespace: u64,
}

/// Whether a writer is still running.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Life {
    Alive,
    /// Why it cannot be the writer any more.
    Dead(&'static str),
    /// `/proc` hides it (hidepid), and some process has the pid.
    Unknown,
}

impl Writer {
    /// This process.
    pub fn this() -> io::Result<Self> {
        let pid = Pid::this().as_raw();
        let (_, start_time) = stat(pid)?;
        Ok(Self {
            pid,
            start_time,
            boot_id: boot_id()?,
            mount_namespace: mount_namespace()?,
            pid_namespace: pid_namespace()?,
        })
    }

    /// Whether the writer is alive; call it in the writer's PID namespace only.
    pub fn life(&self) -> Life {
        if boot_id().is_ok_and(|now| now != self.boot_id) {
            return Life::Dead("it is from an earlier boot");
        }
        match stat(self.pid) {
            Ok((_, start)) if start != self.start_time => Life::Dead("its pid belongs to another program now"),
            // A zombie still has its pid and start time, but runs no more.
            Ok((b'Z' | b'X', _)) => Life::Dead("it has exited"),
            Ok(_) => Life::Alive,
            Err(_) => match nix::sys::signal::kill(Pid::from_raw(self.pid), None) {
                Err(Errno::ESRCH) => Life::Dead("it has exited"),
                _ => Life::Unknown,
            },
        }
    }
}

/// Our own mount namespace.
pub(super) fn mount_namespace() -> io::Result<u64> {
    namespace("/proc/self/ns/mnt")
}

/// Our own PID namespace.
pub(super) fn pid_namespace() -> io::Result<u64> {
    namespace("/proc/self/ns/pid")
}

/// The number in `mnt:[4026531841]`.
fn namespace(link: &str) -> io::Result<u64> {
    let text = fs::read_link(link)?;
    text.to_str()
        .and_then(|text| text.split_once('[')?.1.strip_suffix(']')?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{link} is {}", text.display())))
}

fn boot_id() -> io::Result<String> {
    let mut buffer = [0; 64];
    let text = read_small(Path::new("/proc/sys/kernel/random/boot_id"), &mut buffer)?;
    Ok(String::from_utf8_lossy(text).trim_end().to_owned())
}

/// The state letter and the start time of a process, that is, of its first thread.
///
/// Not from `/proc/PID/stat`: qemu-user makes up the content of a process's own one, with a start time some ticks off.
fn stat(pid: i32) -> io::Result<(u8, u64)> {
    let path = format!("/proc/{pid}/task/{pid}/stat");
    let mut buffer = [0; 1024];
    let text = read_small(Path::new(&path), &mut buffer)?;
    parse_stat(text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path} is unreadable")))
}

/// The command name may contain spaces and parentheses, so fields are counted from the last `)`.
pub(crate) fn parse_stat(text: &[u8]) -> Option<(u8, u64)> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.bytes().next()?;
    // The state is field 3, the start time field 22.
    let start = fields.nth(22 - 4)?.parse().ok()?;
    Some((state, start))
}

/// A single `read`: a file in `/proc` comes in one piece, and `fs::read` would make three calls.
fn read_small<'a>(path: &Path, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let size = File::open(path)?.read(buffer)?;
    Ok(buffer.get(..size).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let tail = "1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 4711 1 2 3";
        for (line, want) in [
            (format!("7 (a) S {tail}"), Some((b'S', 4711))),
            (format!("7 (a) b) (c) Z {tail}"), Some((b'Z', 4711))),
            ("7 (a) S 1 2".to_owned(), None),
            ("7 a".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(parse_stat(line.as_bytes()), want, "{line:?}");
        }
    }

    #[test]
    fn this_process_is_alive_and_its_forgeries_are_not() {
        let me = Writer::this().unwrap();
        assert_eq!(me.life(), Life::Alive);
        let recycled = Writer { start_time: me.start_time + 1, ..me.clone() };
        assert!(matches!(recycled.life(), Life::Dead(_)));
        let rebooted = Writer { boot_id: "another".into(), ..me.clone() };
        assert!(matches!(rebooted.life(), Life::Dead(_)));
        let gone = Writer { pid: i32::MAX, ..me };
        assert!(matches!(gone.life(), Life::Dead(_)));
    }
}
