//! Owns the ways in which the app gets its port, and everything that differs between them: how the port is held until the launch, what the
//! app is given, what shows that it serves the port, what reberth keeps. Must not know how any of that is done.

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
    /// The app is given the listening socket as a file descriptor.
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
