//! Owns what the app is invoked with: its arguments, its environment, its descriptors. Pure. Must not know how a port is claimed, or how
//! the app is launched.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, RawFd};

use super::activation::Activation;
use super::environment::{self, Environment};
use super::handover::Handover;
use super::templates;
use super::told::ToldPort;
use crate::port::claim::Claim;
use crate::port::spec::Spec;
use crate::sys::exec::FIRST_PASSED;

/// A port at the launch: claimed, or still waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchPort {
    /// As asked.
    pub spec: Spec,
    /// As it is. Of one that is still waited for it is the one asked for: the app finds in its bind whatever it comes to.
    pub port: u16,
    /// The claimed socket, where there is one.
    pub socket: Option<RawFd>,
}

impl LaunchPort {
    pub fn claimed(claim: &Claim) -> Self {
        Self { spec: claim.spec.clone(), port: claim.port, socket: Some(claim.socket.as_raw_fd()) }
    }

    pub fn awaited(spec: &Spec) -> Self {
        Self { spec: spec.clone(), port: spec.port, socket: None }
    }

    /// The socket's name in LISTEN_FDNAMES.
    fn fd_name(&self) -> String {
        self.spec.name.clone().unwrap_or_else(|| self.spec.port.to_string())
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The command word and its arguments.
    pub words: Vec<OsString>,
    pub environment: Environment,
    /// What becomes 3, 4, … in the app; empty leaves what was inherited in its place.
    pub descriptors: Vec<RawFd>,
    /// Put the app's own pid into LISTEN_PID.
    pub patch_pid: bool,
}

impl Invocation {
    /// For `command` in the environment `inherited`. The sockets of `activation` keep their numbers; ours come behind them.
    pub fn new(
        command: &[OsString],
        inherited: &Environment,
        activation: &Activation,
        handover: Handover,
        ports: &[LaunchPort],
    ) -> Self {
        let first = FIRST_PASSED + i32::try_from(activation.names.len()).unwrap_or(0);
        let passes = handover.passes_descriptors() && !ports.is_empty();
        let told = |(port, fd): (&LaunchPort, i32)| ToldPort {
            name: port.spec.name.clone(),
            addr: port.spec.addr,
            port: port.port,
            fd: passes.then_some(fd),
        };
        let told: Vec<ToldPort> = ports.iter().zip(first..).map(told).collect();
        let passed: Option<Vec<String>> =
            passes.then(|| activation.names.iter().cloned().chain(ports.iter().map(LaunchPort::fd_name)).collect());
        let mut environment = environment::build(inherited, &told, passed.as_deref());
        let patch_pid = passes || !activation.names.is_empty();
        // It says the same as LISTEN_PID in another way (sd_listen_fds(3)), and would be reberth's own.
        environment.retain(|(name, _)| !(patch_pid && name == "LISTEN_PIDFDID"));
        let descriptors = if passes {
            activation.descriptors().chain(ports.iter().filter_map(|port| port.socket)).collect()
        } else {
            Vec::new()
        };
        Self { words: templates::expand(command, &told), environment, descriptors, patch_pid }
    }
}
