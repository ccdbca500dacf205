//! Owns what /proc shows about a process. Must not know why it is read.

use nix::unistd::Pid;

/// The contents of one of its files; empty once the process has exited.
fn file(pid: Pid, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// The number after `key` in text with lines like `Rss:  1234 kB`.
fn number(text: &str, key: &str) -> i64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The state letter in `stat`, after the name, which may contain any characters.
fn state_in(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether it sleeps interruptibly.
pub fn sleeps(pid: Pid) -> bool {
    state_in(&file(pid, "stat")) == Some('S')
}

/// How often it went to sleep voluntarily, which is how often it has been woken.
pub fn wakeups(pid: Pid) -> i64 {
    number(&file(pid, "status"), "voluntary_ctxt_switches")
}

/// Its memory in KiB: resident, and the private dirty part of that.
pub fn memory(pid: Pid) -> (i64, i64) {
    let rollup = file(pid, "smaps_rollup");
    (number(&rollup, "Rss"), number(&rollup, "Private_Dirty"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_behind_their_key() {
        let text = "Rss:                 712 kB\nPss:  1 kB\nPrivate_Dirty:        56 kB\n\
                    nonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t4\n";
        for (key, expected) in [("Rss", 712), ("Private_Dirty", 56), ("voluntary_ctxt_switches", 4), ("Swap", 0)] {
            assert_eq!(number(text, key), expected, "{key}");
        }
    }

    #[test]
    fn a_name_may_look_like_a_state() {
        assert_eq!(state_in("12 (a) R (b) S 1 12"), Some('S'));
        assert_eq!(state_in(""), None);
    }
}
