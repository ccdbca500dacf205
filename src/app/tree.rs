//! Owns which processes belong to the app: the app itself, and everything below us that was not there before it. Must not know why they are
//! signalled.

use tracing::info;

use crate::sys::process;
use crate::sys::signal;

/// The app's tree.
#[derive(Debug)]
pub struct Tree {
    pub app: i32,
    /// Children of ours that are not the app's: a shell that became us by `exec` leaves those of its redirections, such as
    /// `> >(logger)`. A logger must not be ended: it ends by itself once it has read everything.
    strangers: Vec<i32>,
}

impl Tree {
    pub fn new(app: i32, strangers: Vec<i32>) -> Self {
        Self { app, strangers }
    }

    /// A child that we have started, and that is not the app's.
    pub fn leave_out(&mut self, pid: Option<i32>) {
        self.strangers.extend(pid);
    }

    /// A child of ours was reaped: its pid may be given to another.
    pub fn reaped(&mut self, pid: i32) {
        self.strangers.retain(|stranger| *stranger != pid);
    }

    /// The app and everything below us that belongs to it.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids = process::descendants(&self.strangers);
        // Without /proc the app is all that is known. After its end no process has its pid, which does no harm here.
        if !pids.contains(&self.app) {
            pids.insert(0, self.app);
        }
        pids
    }

    /// Whether nothing of it is left, once the app is gone; `childless`: we have no child at all.
    pub fn is_gone(&self, childless: bool) -> bool {
        let unseen = || process::can_list() && process::descendants(&self.strangers).is_empty();
        childless || (!self.strangers.is_empty() && unseen())
    }

    /// Sends `signal` to all that the app has left behind, and CONT after it to those that are stopped and would not take it otherwise.
    /// PID 1 reaches everything in its namespace with one call that no fork escapes, strangers too: they end with it anyway. Off PID 1 the
    /// tree is read from /proc; without /proc the app's process group has to do.
    pub fn signal(&self, signal: i32) {
        let left = if process::pid() == 1 {
            let _ = process::send(-1, signal);
            // KILL works on stopped processes too.
            if signal == libc::SIGKILL { Ok(Vec::new()) } else { process::everybody().ok_or(-1) }
        } else if process::can_list() {
            let left = process::signal_descendants(&self.strangers, signal);
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
            // It cannot be seen which of them are stopped.
            Err(unseen) => drop(process::send(unseen, libc::SIGCONT)),
        }
    }
}

/// `1, 2, 3`, shortened where it gets long.
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
    fn the_app_stands_once_among_its_pids() {
        let mut app = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = |child: &std::process::Child| i32::try_from(child.id()).unwrap();
        let mut tree = Tree::new(pid(&app), vec![pid(&other)]);
        let count = |tree: &Tree, of: &std::process::Child| tree.pids().iter().filter(|one| **one == pid(of)).count();
        assert_eq!((count(&tree, &app), count(&tree, &other)), (1, 0));
        tree.reaped(pid(&other));
        assert_eq!((count(&tree, &app), count(&tree, &other)), (1, 1));
        // Without a /proc that says so the app is all that is known.
        for child in [&mut app, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!((count(&tree, &app), count(&tree, &other)), (1, 0));
    }
}
