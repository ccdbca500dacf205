//! Owns what is expected of a starting app, and the facts that can be learnt about it. Must not know where a fact comes from, or what
//! follows from it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::port::holder::Listener;
use crate::port::spec::Spec;

/// What shows that the app serves its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A listener of the app on the port.
    Listener,
    /// A process of the app that accepts on the socket it was given. `inode`: the socket of the primary port, if that is TCP.
    Accepting { inode: Option<u64> },
    /// The app's own listen(2), which is intercepted: no polling is needed.
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

/// The properties of the health target that decide when it is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeTarget {
    /// It is on the primary port.
    pub on_port: bool,
    /// A mere connection counts as healthy.
    pub connects: bool,
}

/// What is expected of one launch.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The ports actually taken, in the order configured. Empty: the app is ready as soon as it runs.
    pub ports: Vec<Spec>,
    pub evidence: Evidence,
    pub target: Option<ProbeTarget>,
    /// The port may be lost to another process; until it is safe, polling stays frequent.
    pub at_risk: bool,
    /// `--start-timeout`, from the launch.
    pub limit: Option<Duration>,
}

/// What can be seen of a socket that the app was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepting {
    /// A process of the app's tree waits for connections on it.
    Waits,
    /// A process with the socket open waits in `poll` or `select`, perhaps on other descriptors.
    Polls,
    /// It is open, and no process is seen waiting on it.
    Idle,
    /// No process of the tree has it open any more.
    Closed,
    /// The tree's descriptors or system calls cannot be read.
    Hidden,
}

/// What a look at the app's sockets has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// For an app that binds for itself: its listeners on the primary port, and all its listeners.
    Own { here: Vec<Listener>, all: Vec<Listener> },
    /// For an app that was given the socket: whether it accepts, how many clients are queued, and the listeners it has opened itself.
    Given { accepting: Accepting, queue: Option<u32>, all: Vec<Listener> },
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The deadline of the state machine has passed.
    Due,
    Seen(Seen),
    /// A probe of the health target has finished.
    Probed {
        healthy: bool,
    },
    /// The app's listen(2) on this claimed port was answered. `None`: the listener was not found.
    ListenCalled {
        port: u16,
        listener: Option<Listener>,
    },
    /// The app has called listen(2) on a socket that reberth does not hold.
    OtherListenCalled,
    /// The app's bind(2) waits for this port, which is not claimed yet. Reported once.
    BindWaits(u16),
    /// This many queued clients were reset because the app binds this address.
    ClientsReset(u32, SocketAddr),
    /// The app's calls cannot be answered any more, for this reason: from now on it binds for itself.
    CallsLost(String),
}
