//! Owns what is expected of an app that comes up, and the facts that can be learnt of it. Must not know where a fact comes from, or what
//! follows from it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::port::holder::Listener;
use crate::port::spec::Spec;

/// What shows that the app serves its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A listener of its own on the port.
    Listener,
    /// A process that accepts on the socket that it was given. `inode`: the socket of the primary port, where that is TCP.
    Accepting { inode: Option<u64> },
    /// Its own listen(2), which is heard: nothing has to be looked for.
    ListenCall,
}

impl Evidence {
    /// The app was given its sockets.
    pub fn is_of_given_socket(self) -> bool {
        matches!(self, Self::Accepting { .. })
    }

    /// The socket that the app has to accept on.
    pub fn given_socket(self) -> Option<u64> {
        if let Self::Accepting { inode } = self { inode } else { None }
    }
}

/// The health target, as far as it decides when it is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeTarget {
    /// It is on the primary port.
    pub on_port: bool,
    /// A mere connection answers it.
    pub connects: bool,
}

/// What is expected of one launch.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The ports really taken, in the order asked. Empty: an app that runs has come up.
    pub ports: Vec<Spec>,
    pub evidence: Evidence,
    pub target: Option<ProbeTarget>,
    /// The port may be lost to another process, so looking stays quick for as long.
    pub at_risk: bool,
    /// `--start-timeout`, from the launch.
    pub limit: Option<Duration>,
}

/// What can be seen of a socket that the app was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepting {
    /// A process of the app's tree waits for connections on it.
    Waits,
    /// A process that has it open waits for several descriptors, and this may be one of them.
    Polls,
    /// It is open, and no process is seen waiting on it.
    Idle,
    /// No process of the tree has it open any more.
    Closed,
    /// The tree's descriptors or calls may not be seen.
    Hidden,
}

/// What a look at the app's sockets has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Of an app that binds by itself: its listeners on the primary port, and all of its listeners.
    Own { here: Vec<Listener>, all: Vec<Listener> },
    /// Of an app that was given the socket: whether it accepts, how many clients wait, and the listeners that it has opened besides.
    Given { accepting: Accepting, queue: Option<u32>, all: Vec<Listener> },
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The machine's deadline has come.
    Due,
    Seen(Seen),
    /// The health target has answered.
    Probed {
        healthy: bool,
    },
    /// The app's listen(2) on this port of ours was answered. `None`: its listener is not to be found.
    ListenHeard {
        port: u16,
        listener: Option<Listener>,
    },
    /// The app calls listen(2) on a socket that is none of ours.
    OtherListenHeard,
    /// The app's bind(2) waits for this port, which is not ours yet. Told once.
    BindWaits(u16),
    /// So many clients that had queued were reset, because the app binds this address.
    ClientsReset(u32, SocketAddr),
    /// The app's calls cannot be answered any more, for this reason: it binds by itself from here on.
    CallsLost(String),
}
