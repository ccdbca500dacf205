//! Owns which processes belong to the app: the app itself, and all descendants of reberth that did not exist before it. Must not know why
//! they are signalled.

use tracing::info;

use crate::sys::process;
use crate::sys::signal;

/// The app's tree.
#[derive(Debug)]
pub struct Tree {
    pub app: i32,
    /// Children of reberth that do not belong to the app: a shell that became reberth by `exec` leaves those of its redirections, such as
    /// `> >(logger)`. A logger must not be stopped: it exits by itself once it has read everything.
    unrelated: Vec<i32>,
}

impl Tree {
    pub fn new(app: i32, unrelated: Vec<i32>) -> Self {
        Self { app, unrelated }
    }

    /// Excludes a child that reberth started for itself.
    pub fn exclude(&mut self, pid: Option<i32>) {
        self.unrelated.extend(pid);
    }

    /// A child was reaped: its pid may be reused.
    pub fn reaped(&mut self, pid: i32) {
        self.unrelated.retain(|other| *other != pid);
    }

    /// The app and all descendants of reberth that belong to it.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids = process::descendants(&self.unrelated);
        // Without /proc only the app is known. After its exit no process has its pid, which does no harm here.
        if !pids.contains(&self.app) {
            pids.insert(0, self.app);
        }
        pids
    }

    /// Whether nothing of the tree is left after the app's exit; `childless`: reberth has no child at all.
    pub fn is_gone(&self, childless: bool) -> bool {
        let unseen = || process::can_list() && process::descendants(&self.unrelated).is_empty();
        childless || (!self.unrelated.is_empty() && unseen())
    }

    /// Sends `signal` to everything the app has left behind, followed by CONT to suspended processes, which would not handle it otherwise.
    /// PID 1 reaches every process in its namespace with one call, which no fork escapes; that includes processes that are not the app's,
    /// but they die with PID 1 anyway. Otherwise the tree is read from /proc; without /proc only the app's process group is signalled.
    pub fn signal(&self, signal: i32) {
        let left = if process::pid() == 1 {
            let _ = process::send(-1, signal);
            // KILL works on stopped processes too.
            if signal == libc::SIGKILL { Ok(Vec::new()) } else { process::everybody().ok_or(-1) }
        } else if process::can_list() {
            let left = process::signal_descendants(&self.unrelated, signal);
            if !left.is_empty() {
                info!("ending what the app left behind: {} to pid {}", signal::name(signal), join(&left));
            }
            Ok(left)
        } else {
            let _ = process::send(-self.app, signal);
            Err(-self.app)
        };
        match left {
            _ if signal == libc::SIGKILL => {}
            Ok(left) => process::continue_stopped(&left),
            // It is unknown which of them are stopped.
            Err(unseen) => drop(process::send(unseen, libc::SIGCONT)),
        }
    }
}

/// `1, 2, 3`, shortened if it gets long.
fn join(pids: &[i32]) -> String {
    const SHOWN: usize = 8;
    let mut text = pids.iter().take(SHOWN).map(i32::to_string).collect::<Vec<_>>().join(", ");
    if pids.len() > SHOWN {
        text.push_str(&format!(" and {} more", pids.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // a test may start a program
    fn the_app_is_listed_once_among_its_pids() {
        let mut app = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = |child: &std::process::Child| i32::try_from(child.id()).unwrap();
        let mut tree = Tree::new(pid(&app), vec![pid(&other)]);
        let count = |tree: &Tree, of: &std::process::Child| tree.pids().iter().filter(|one| **one == pid(of)).count();
        assert_eq!((count(&tree, &app), count(&tree, &other)), (1, 0));
        tree.reaped(pid(&other));
        assert_eq!((count(&tree, &app), count(&tree, &other)), (1, 1));
        // Without a /proc that lists them, only the app is known.
        for child in [&mut app, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!((count(&tree, &app), count(&tree, &other)), (1, 0));
    }
}
