//! Owns what a claim requests from other instances that may share a busy port. Must not know how they are found, or the
//! protocol.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use super::spec::Spec;

/// What another instance has provided.
#[derive(Debug)]
pub struct SharedSocket {
    /// Bound to the requested port; TCP: it listens.
    pub socket: OwnedFd,
    /// The group's meeting point: every instance that shares the port accepts requests there.
    pub meeting: OwnedFd,
}

/// Other instances that may share a port.
pub trait Peers: Debug {
    /// Requests the port of `spec`, which is busy. Calls `interrupted` every few milliseconds, and stops if it returns
    /// true.
    fn request(&mut self, spec: &Spec, interrupted: &mut dyn FnMut() -> bool) -> Option<SharedSocket>;
}
