//! Owns what the app is started with for given ports: its words, its environment, its descriptors. Pure. Must not know how ports are claimed,
//! or how an app is started.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use super::command::{self, Listen, Place};
use super::handover::Handover;
use super::launch::{Activation, Environment};
use crate::port::claim::Claim;
use crate::port::spec::Spec;
use crate::sys::exec::FIRST_PASSED;

/// A port that the app is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub name: Option<String>,
    pub addr: Option<IpAddr>,
    /// As asked.
    pub asked: u16,
    /// As it is.
    pub port: u16,
    /// The claimed socket, where there is one.
    pub socket: Option<RawFd>,
}

impl Told {
    /// A port that is ours.
    pub fn claimed(claim: &Claim) -> Self {
        Self { port: claim.port, socket: Some(claim.socket.as_raw_fd()), ..Self::awaited(&claim.spec) }
    }

    /// A port that is still waited for: the app is told the one asked for, and finds in its bind whatever it comes to.
    pub fn awaited(spec: &Spec) -> Self {
        Self { name: spec.name.clone(), addr: spec.addr, asked: spec.port, port: spec.port, socket: None }
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outfit {
    pub words: Vec<OsString>,
    pub environment: Environment,
    /// What becomes 3, 4, … in the app; empty leaves what was inherited in its place.
    pub descriptors: Vec<RawFd>,
    /// Put the app's own pid into LISTEN_PID.
    pub patch_pid: bool,
}

impl Outfit {
    /// For `command` in the environment `inherited`, with what a service manager has passed to us.
    pub fn new(
        command: &[OsString],
        inherited: &Environment,
        activation: &Activation,
        handover: Handover,
        told: &[Told],
    ) -> Self {
        let first = FIRST_PASSED + i32::try_from(activation.names.len()).unwrap_or(0);
        let passes = handover == Handover::Listen && !told.is_empty();
        let place = |(told, fd): (&Told, i32)| Place {
            name: told.name.clone(),
            addr: told.addr,
            port: told.port,
            fd: passes.then_some(fd),
        };
        let places: Vec<Place> = told.iter().zip(first..).map(place).collect();
        let listen = passes.then(|| {
            let asked = told.iter().map(|told| told.name.clone().unwrap_or_else(|| told.asked.to_string()));
            Listen { names: activation.names.iter().cloned().chain(asked).collect() }
        });
        let mut environment = command::environment(inherited, &places, listen.as_ref()).entries;
        let patch_pid = passes || !activation.names.is_empty();
        // It says the same as LISTEN_PID in another way (sd_listen_fds(3)), and would be reberth's own.
        environment.retain(|(name, _)| !(patch_pid && name == "LISTEN_PIDFDID"));
        let descriptors = if passes {
            activation.descriptors().chain(told.iter().filter_map(|told| told.socket)).collect()
        } else {
            Vec::new()
        };
        Self { words: command::expand(command, &places), environment, descriptors, patch_pid }
    }
}
