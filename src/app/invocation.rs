//! Owns what the app is invoked with: arguments, environment, descriptors. Pure. Must not know how a port is claimed, or how the app is
//! launched.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, RawFd};

use super::activation::Activation;
use super::app_port::AppPort;
use super::environment::{self, Environment};
use super::handover::Handover;
use super::templates;
use crate::port::claim::Claim;
use crate::port::spec::Spec;
use crate::sys::exec::FIRST_PASSED;

/// A port at the launch: claimed, or still waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchPort {
    /// As configured.
    pub spec: Spec,
    /// The port actually taken. While it is still waited for, the configured one: the app then gets the actual port in its bind.
    pub port: u16,
    /// The claimed socket, if there is one.
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

/// Everything passed to exec(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The command word and its arguments.
    pub words: Vec<OsString>,
    pub environment: Environment,
    /// The descriptors that become 3, 4, … in the app. Empty: the inherited ones stay where they are.
    pub descriptors: Vec<RawFd>,
    /// Write the app's own pid into LISTEN_PID.
    pub patch_pid: bool,
}

impl Invocation {
    /// For `command` in the environment `inherited`. The sockets of `activation` keep their numbers; the claimed ones follow.
    pub fn new(
        command: &[OsString],
        inherited: &Environment,
        activation: &Activation,
        handover: Handover,
        ports: &[LaunchPort],
    ) -> Self {
        let first = FIRST_PASSED + i32::try_from(activation.names.len()).unwrap_or(0);
        let passes = handover.passes_descriptors() && !ports.is_empty();
        let app_port = |(port, fd): (&LaunchPort, i32)| AppPort {
            name: port.spec.name.clone(),
            addr: port.spec.addr,
            port: port.port,
            fd: passes.then_some(fd),
        };
        let app_ports: Vec<AppPort> = ports.iter().zip(first..).map(app_port).collect();
        let passed: Option<Vec<String>> =
            passes.then(|| activation.names.iter().cloned().chain(ports.iter().map(LaunchPort::fd_name)).collect());
        let mut environment = environment::build(inherited, &app_ports, passed.as_deref());
        let patch_pid = passes || !activation.names.is_empty();
        // Another form of LISTEN_PID (sd_listen_fds(3)); the inherited value identifies reberth, not the app.
        environment.retain(|(name, _)| !(patch_pid && name == "LISTEN_PIDFDID"));
        let descriptors = if passes {
            activation.descriptors().chain(ports.iter().filter_map(|port| port.socket)).collect()
        } else {
            Vec::new()
        };
        Self { words: templates::expand(command, &app_ports), environment, descriptors, patch_pid }
    }
}
