//! Owns which processes are the app's: it, and everything below us that was not there before it. Must not know why they are signalled.

use tracing::info;

use crate::sys::process;
use crate::sys::signal;

/// The app's tree.
#[derive(Debug)]
pub struct Tree {
    pub app: i32,
    /// Children of ours from before the launch: a shell that became us by `exec` leaves those of its redirections, such as
    /// `> >(logger)`. They are not the app's to be ended, and a logger ends by itself once it has all.
    strangers: Vec<i32>,
}

impl Tree {
    pub fn new(app: i32, strangers: Vec<i32>) -> Self {
        Self { app, strangers }
    }

    /// A child of our own that is none of the app's.
    pub fn leave_out(&mut self, pid: Option<i32>) {
        self.strangers.extend(pid);
    }

    /// A child of ours is gone: its pid may be anybody's next.
    pub fn reaped(&mut self, pid: i32) {
        self.strangers.retain(|stranger| *stranger != pid);
    }

    /// The app and everything below us that is its.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids = vec![self.app];
        pids.extend(process::descendants(&self.strangers));
        pids
    }

    /// Whether nothing of it is left, once the app is gone; `childless`: we have no child at all.
    pub fn is_gone(&self, childless: bool) -> bool {
        let unseen = || process::can_list() && process::descendants(&self.strangers).is_empty();
        childless || (!self.strangers.is_empty() && unseen())
    }

    /// Sends `signal` to all that the app has left behind. PID 1 reaches everybody in its namespace with one call that no fork escapes,
    /// strangers too: they end with it anyway. Off PID 1 the tree is read from /proc, or without one the app's process group has to do.
    pub fn signal(&self, signal: i32) {
        let send = |target: i32| {
            let _ = process::send(target, signal);
            // A stopped process takes no TERM until it is continued.
            if signal != libc::SIGKILL {
                let _ = process::send(target, libc::SIGCONT);
            }
        };
        if process::pid() == 1 {
            return send(-1);
        }
        let left = process::descendants(&self.strangers);
        if left.is_empty() {
            return send(-self.app);
        }
        info!("ending what the app left behind: {} to pid {}", signal::name(signal), join(&left));
        left.into_iter().for_each(send);
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
