//! Owns the ways in which the app gets its port, and what differs between them. Others ask the predicates here; none compares the
//! ways itself. Must not know how anything is done.
//!
//! | way | held until the launch | what the app is given | what shows that it serves | what reberth keeps |
//! | --- | --- | --- | --- | --- |
//! | `Off` | a bound socket that does not listen, released right before the launch | the number | a listener of the app | nothing |
//! | `Descriptors` | a listening socket | LISTEN_FDS, `{fd}` | a process accepts on that socket | nothing, or its copy if it is shared |
//! | `Bind` | a socket that no other process can bind beside; it listens if it is shared | the answer to its own bind(2), which is intercepted (`intercepts_binds`) | its listen(2) | the sockets, until the app stops |
//!
//! `passes_descriptors` is true of the second, `intercepts_binds` of the third, `gives_sockets` of both.

use super::readiness::fact::Evidence;
use crate::port::attempt::Hold;
use crate::port::claim::Claim;
use crate::port::spec::Protocol;
use crate::setting::value::word;
use crate::sys::descriptor;

/// How the app gets its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// The app binds for itself; reberth releases the port right before the launch.
    Off,
    /// `on`: the app is given the listening socket as a file descriptor.
    Descriptors,
    /// The app is given the listening socket in its own bind(2).
    Bind,
}

/// The text form of `--handover`. `None`: auto.
pub fn handover(text: &str) -> Result<Option<Handover>, String> {
    let ways = Handover::ALL.into_iter().map(|way| (way.word(), Some(way)));
    word(text, &std::iter::once(("auto", None)).chain(ways).collect::<Vec<_>>())
}

impl Handover {
    /// In the order of the help and of error messages.
    pub const ALL: [Self; 3] = [Self::Descriptors, Self::Off, Self::Bind];

    /// What `auto` resolves to, by the other settings. `wants_fd`: an argument uses `{fd}`.
    pub fn auto(wants_fd: bool, prewarm: bool, shares: bool) -> Self {
        if prewarm || shares && !wants_fd {
            Self::Bind
        } else if wants_fd {
            Self::Descriptors
        } else {
            Self::Off
        }
    }

    /// The word of `--handover`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Descriptors => "on",
            Self::Bind => "bind",
        }
    }

    /// How a port is held until the launch. `shared`: other instances have the same socket.
    pub fn hold(self, shared: bool) -> Hold {
        match self {
            Self::Off => Hold::Probe,
            Self::Bind if !shared => Hold::Bind,
            // A shared socket listens from the start: other apps may already have decided its address family.
            Self::Descriptors | Self::Bind => Hold::Listen,
        }
    }

    /// The app is given the sockets as file descriptors (LISTEN_FDS, `{fd}`).
    pub fn passes_descriptors(self) -> bool {
        self == Self::Descriptors
    }

    /// The app's own bind(2) is intercepted, and answered with a socket. Such an app can be launched before the port is claimed: it blocks
    /// in its bind until then.
    pub fn intercepts_binds(self) -> bool {
        self == Self::Bind
    }

    /// The app is given the sockets in one way or another, so they can be shared. Otherwise the app must find the port free, and may lose
    /// it to another process that finds it free too.
    pub fn gives_sockets(self) -> bool {
        self != Self::Off
    }

    /// What shows that the app serves the port of these claims.
    pub fn evidence(self, claims: &[Claim]) -> Evidence {
        match self {
            Self::Off => Evidence::Listener,
            Self::Descriptors => {
                let tcp = claims.iter().find(|claim| claim.spec.protocol == Protocol::Tcp);
                Evidence::Accepting { inode: tcp.and_then(|claim| descriptor::inode(&claim.socket)) }
            }
            Self::Bind => Evidence::ListenCall,
        }
    }
}
