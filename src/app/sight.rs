//! Owns the looks at the app's sockets: in the kernel's tables, and through /proc at whose they are. Must not know what a sight means:
//! `readiness` does.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::readiness::{View, show};
use super::takeup;
use super::tree::Tree;
use crate::port::holder::{self, Listener};
use crate::port::spec::{Protocol, Spec};

/// Between two walks through /proc while nobody listens on the port.
const WALK_PAUSE: Duration = Duration::from_millis(250);

/// What is looked for, and what was seen before.
pub struct Sight {
    /// The port whose socket tells that the app is there.
    primary: Option<Spec>,
    /// The inode of that port's listening socket, if the app was given it.
    handed_over: Option<u64>,
    /// The inodes of all sockets the app was given, inherited ones too: having them open says nothing of where it listens.
    given: Vec<u64>,
    next_walk: Instant,
    /// The inodes of the machine's listeners when the app had hardly begun: none of them is its.
    before: Option<HashSet<u64>>,
}

impl Sight {
    /// Looks for an app launched at `now`.
    pub fn new(primary: Option<Spec>, handed_over: Option<u64>, given: Vec<u64>, now: Instant) -> Self {
        Self { primary, handed_over, given, next_walk: now + WALK_PAUSE, before: None }
    }

    /// Looks for this port from now on.
    pub fn look_for(&mut self, primary: Option<Spec>) {
        self.primary = primary;
    }

    /// One look. Microseconds while nobody listens on the port; else a walk through the descriptors of the app's tree.
    pub fn look(&mut self, now: Instant, tree: &Tree) -> View {
        let nothing = View::Own { here: Vec::new(), all: Vec::new() };
        let Some(primary) = self.primary.clone() else { return nothing };
        if let Some(inode) = self.handed_over {
            let pids = tree.pids();
            let take_up = takeup::look(&pids, inode);
            return View::Given { take_up, queue: holder::accept_queue(primary.port, inode), all: self.own_of(&pids) };
        }
        if self.before.is_none() {
            let inodes = holder::listening(0).unwrap_or_default().into_iter().map(|found| found.inode);
            self.before = Some(inodes.collect());
        }
        // Whoever listens there is found with one cheap question; whose it is costs a walk through /proc.
        let there = match primary.protocol {
            Protocol::Tcp => holder::listening(primary.port).unwrap_or_default(),
            Protocol::Udp => holder::bound_udp(primary.port).unwrap_or_default(),
        };
        if there.is_empty() && now < self.next_walk {
            return nothing;
        }
        self.next_walk = now + WALK_PAUSE;
        if !holder::can_see_programs() {
            // The port was ours a moment ago; that somebody listens there is all that can be known.
            return View::Own { here: there, all: Vec::new() };
        }
        let pids = tree.pids();
        let mut here = holder::had_by(&pids, there.clone());
        let mut all = self.own_of(&pids);
        if here.is_empty() {
            // The port was ours a moment ago, so a listener of the app's user is the app's; and so is one elsewhere that came after it.
            let hidden = holder::hidden_users(&pids);
            here = there.into_iter().filter(|found| hidden.contains(&found.uid)).collect();
            all.extend(self.new_of(&hidden));
        }
        View::Own { here, all }
    }

    /// The listeners of these programs that they have opened themselves.
    fn own_of(&self, pids: &[i32]) -> Vec<Listener> {
        let mut all = holder::listeners(pids).unwrap_or_default();
        all.retain(|found| !self.given.contains(&found.inode));
        all
    }

    /// The listeners of these users that were not there when the app began.
    fn new_of(&self, users: &[u32]) -> Vec<Listener> {
        if users.is_empty() {
            return Vec::new();
        }
        let all = holder::listening(0).unwrap_or_default();
        let new = |found: &Listener| self.before.as_ref().is_some_and(|before| !before.contains(&found.inode));
        all.into_iter().filter(|found| users.contains(&found.uid) && new(found)).collect()
    }

    /// Who of what the app has left behind still serves its port: the pid and the first of its words.
    pub fn still_serves(&self, tree: &Tree) -> Option<(i32, String)> {
        let primary = self.primary.as_ref().filter(|primary| primary.protocol == Protocol::Tcp)?;
        let there = holder::listening(primary.port).ok().filter(|there| !there.is_empty())?;
        let left = tree.pids().into_iter().filter(|pid| *pid != tree.app);
        left.into_iter().find(|pid| !holder::had_by(&[*pid], there.clone()).is_empty()).map(|pid| {
            (pid, holder::processes::facts(pid).command.unwrap_or_else(|| "its words cannot be read".into()))
        })
    }

    /// Why the app is not seen serving its port, for a diagnosis.
    pub fn why_not(&self, tree: &Tree) -> Option<String> {
        let primary = self.primary.as_ref()?;
        let pids = tree.pids();
        let mut listeners = self.own_of(&pids);
        let hidden = holder::hidden_users(&pids);
        listeners.extend(self.new_of(&hidden));
        Some(if self.handed_over.is_some() {
            format!("it was given the socket for port {} (LISTEN_FDS, {{fd}}) and has not taken it", primary.port)
        } else if !holder::can_see_programs() {
            format!(
                "nobody listens on port {} as it was told (PORT, {{port}}); where it listens cannot be seen without /proc",
                primary.port
            )
        } else if listeners.is_empty() && !hidden.is_empty() {
            format!(
                "it was told port {} (PORT, {{port}}); where it listens cannot be seen, since it runs as another user (uid {})",
                primary.port,
                hidden.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
            )
        } else if listeners.is_empty() {
            format!("it listens nowhere; it was told port {} (PORT, {{port}})", primary.port)
        } else {
            format!(
                "it was told port {} and listens on {} instead: make it take PORT from its environment or {{port}} from its \
                 arguments",
                primary.port,
                show(&listeners)
            )
        })
    }
}
