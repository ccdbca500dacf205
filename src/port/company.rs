//! Owns what a claim asks of other instances that may share a busy port with it. Must not know how they are found, or what they say.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use super::spec::Spec;

/// What another instance has given.
#[derive(Debug)]
pub struct Lent {
    /// Bound to the port asked for; TCP: it listens.
    pub socket: OwnedFd,
    /// The socket of the place where those meet who share the port: whoever shares it answers there.
    pub meeting: OwnedFd,
}

/// Others that may share a port.
pub trait Company: Debug {
    /// Asks for the port of `spec`, which is busy. `interrupted` is asked every few milliseconds whether there is something more urgent.
    fn join(&mut self, spec: &Spec, interrupted: &mut dyn FnMut() -> bool) -> Option<Lent>;
}
