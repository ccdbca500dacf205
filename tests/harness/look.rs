//! Owns the inspection of processes through `/proc`. Must not change any process, except in [`end_tagged`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The part of `/proc/PID/stat` that tests need (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `T` (stopped), `Z` (zombie) and so on.
    pub state: char,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// The foreground process group of its terminal, -1 without one.
    pub foreground: i32,
}

/// `None`: there is no such process (any more).
pub fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    // The command name is in parentheses and may contain spaces and parentheses: count from the last one.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse().ok());
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        foreground: number(5)?,
    })
}

/// One line of `/proc/PID/status`, without its key: `SigBlk`, `PPid`, `NSpid`, `voluntary_ctxt_switches`.
pub fn status(pid: i32, name: &str) -> Option<String> {
    let text = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|v| v.trim().to_owned()))
}

/// Number and target of each descriptor (`pipe:[1]`, `/dev/null`).
pub fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|e| {
            let number = e.file_name().to_str()?.parse().ok()?;
            Some((number, std::fs::read_link(e.path()).ok()?.to_string_lossy().into_owned()))
        })
        .collect()
}

pub fn cwd(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

pub fn executable(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

/// The PID namespace a process lives in, as the kernel names it.
pub fn pid_namespace(pid: i32) -> Option<OsString> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok().map(PathBuf::into_os_string)
}

/// Every visible process.
pub fn everyone() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// Whether it still runs: it has neither been reaped nor become a zombie.
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|s| s.state != 'Z' && s.state != 'X')
}

/// Children of `parent`, zombies included.
pub fn children(parent: i32) -> Vec<i32> {
    everyone().into_iter().filter(|&pid| stat(pid).is_some_and(|s| s.parent == parent)).collect()
}

/// How many children of `parent` have exited and have not been reaped.
pub fn zombies(parent: i32) -> usize {
    everyone().into_iter().filter_map(stat).filter(|s| s.parent == parent && s.state == 'Z').count()
}

/// Processes that were started with `word` in their environment. Zombies have no environment and are not found.
///
/// # Panics
/// If `word` is not `NAME=value`: every environment ends in an empty word, and callers kill what is found.
pub fn tagged(word: &str) -> Vec<i32> {
    assert!(word.contains('='), "{word:?} is no variable");
    everyone()
        .into_iter()
        .filter(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&b| b == 0).any(|variable| variable == word.as_bytes())
        })
        .collect()
}

/// Kills every process with `word` in its environment, each by its pid. Runs twice, because a process may have been forking.
pub fn end_tagged(word: &str) {
    for _ in 0..2 {
        for pid in tagged(word) {
            // SAFETY: kill(2) takes two numbers and touches no memory.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}
