//! Owns the looks at the app's sockets: the kernel's socket tables, and the walk through /proc that finds the process behind a socket. Must
//! not know what a look means: `machine` does.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::accepting;
use super::advice::Unserved;
use super::fact::Seen;
use crate::app::tree::Tree;
use crate::port::holder::{self, Listener};
use crate::port::spec::{Protocol, Spec};

/// The least time between two walks through /proc while no process listens on the port.
const WALK_PAUSE: Duration = Duration::from_millis(250);

/// What to look for, and what was seen before.
pub struct Sockets {
    /// The port whose socket shows that the app listens.
    primary: Option<Spec>,
    /// The inode of that port's listening socket, if the app was given it.
    given: Option<u64>,
    /// The inodes of all sockets passed to the app, inherited ones included: that they are open does not show where the app listens.
    passed: Vec<u64>,
    next_walk: Instant,
    /// The inodes of all listeners on the machine right after the launch: none of them belongs to the app.
    before: Option<HashSet<u64>>,
}

impl Sockets {
    /// For an app launched at `now`.
    pub fn new(primary: Option<Spec>, given: Option<u64>, passed: Vec<u64>, now: Instant) -> Self {
        Self { primary, given, passed, next_walk: now + WALK_PAUSE, before: None }
    }

    /// Looks for this port from now on.
    pub fn look_for(&mut self, primary: Option<Spec>) {
        self.primary = primary;
    }

    /// One look. It takes microseconds while no process listens on the port; otherwise it walks through the descriptors of the app's tree.
    pub fn look(&mut self, now: Instant, tree: &Tree) -> Seen {
        let nothing = Seen::Own { here: Vec::new(), all: Vec::new() };
        let Some(primary) = self.primary.clone() else { return nothing };
        if let Some(inode) = self.given {
            let pids = tree.pids();
            let accepting = accepting::look(&pids, inode);
            return Seen::Given {
                accepting,
                queue: holder::accept_queue(primary.port, inode),
                all: self.own_of(&pids),
            };
        }
        if self.before.is_none() {
            let inodes = holder::listening(0).unwrap_or_default().into_iter().map(|found| found.inode);
            self.before = Some(inodes.collect());
        }
        // One cheap query shows whether there is a listener. Finding its process takes a walk through /proc.
        let there = match primary.protocol {
            Protocol::Tcp => holder::listening(primary.port).unwrap_or_default(),
            Protocol::Udp => holder::bound_udp(primary.port).unwrap_or_default(),
        };
        if there.is_empty() && now < self.next_walk {
            return nothing;
        }
        self.next_walk = now + WALK_PAUSE;
        if !holder::can_see_programs() {
            // All that can be known is that some process listens. The port was claimed until a moment ago, so the listener counts as the
            // app.
            return Seen::Own { here: there, all: Vec::new() };
        }
        let pids = tree.pids();
        let mut here = holder::had_by(&pids, there.clone());
        let mut all = self.own_of(&pids);
        if here.is_empty() {
            // The port was claimed until a moment ago, so a listener of the app's user counts as the app. So does a listener of that user
            // on another port, if it is newer than the launch.
            let hidden = holder::hidden_users(&pids);
            here = there.into_iter().filter(|found| hidden.contains(&found.uid)).collect();
            all.extend(self.new_of(&hidden));
        }
        Seen::Own { here, all }
    }

    /// The listeners that these processes have opened themselves.
    fn own_of(&self, pids: &[i32]) -> Vec<Listener> {
        let mut all = holder::listeners(pids).unwrap_or_default();
        all.retain(|found| !self.passed.contains(&found.inode));
        all
    }

    /// The listeners of these users that did not exist at the launch.
    fn new_of(&self, users: &[u32]) -> Vec<Listener> {
        if users.is_empty() {
            return Vec::new();
        }
        let all = holder::listening(0).unwrap_or_default();
        let new = |found: &Listener| self.before.as_ref().is_some_and(|before| !before.contains(&found.inode));
        all.into_iter().filter(|found| users.contains(&found.uid) && new(found)).collect()
    }

    /// A process that the app left behind and that still serves its port: pid and command line.
    pub fn still_serves(&self, tree: &Tree) -> Option<(i32, String)> {
        let primary = self.primary.as_ref().filter(|primary| primary.protocol == Protocol::Tcp)?;
        let there = holder::listening(primary.port).ok().filter(|there| !there.is_empty())?;
        let left = tree.pids().into_iter().filter(|pid| *pid != tree.app);
        left.into_iter().find(|pid| !holder::had_by(&[*pid], there.clone()).is_empty()).map(|pid| {
            (pid, holder::processes::facts(pid).command.unwrap_or_else(|| "its words cannot be read".into()))
        })
    }

    /// Why the app is not seen serving its port, for the diagnosis.
    pub fn why_unserved(&self, tree: &Tree) -> Unserved {
        let pids = tree.pids();
        let mut listeners = self.own_of(&pids);
        let hidden = holder::hidden_users(&pids);
        listeners.extend(self.new_of(&hidden));
        if self.given.is_some() {
            Unserved::NotTaken
        } else if !holder::can_see_programs() {
            Unserved::NoProc
        } else if !listeners.is_empty() {
            Unserved::Elsewhere(listeners)
        } else if !hidden.is_empty() {
            Unserved::Hidden(hidden)
        } else {
            Unserved::Nowhere
        }
    }
}
