//! Owns the announcement of claimed ports in the port file, the log and the state file. Must not know how they were claimed.

use std::path::Path;

use tracing::{info, warn};

use super::settings::Run;
use crate::error::Error;
use crate::port::claim::Claim;
use crate::port::file;
use crate::port::range;
use crate::port::spec::{Protocol, Spec};
use crate::state::{Phase, PortState, Publisher, State};

/// A claimed port. It outlives the socket of the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// As configured.
    pub spec: Spec,
    pub port: u16,
}

impl Taken {
    pub fn of(claims: &[Claim]) -> Vec<Self> {
        claims.iter().map(|claim| Self { spec: claim.spec.clone(), port: claim.port }).collect()
    }

    /// The spec with the port actually taken.
    pub fn actual(&self) -> Spec {
        self.spec.with_port(self.port)
    }
}

/// Announces the ports in the port file and the log. The environment and arguments of the app, and the state file, come later.
///
/// # Errors
/// The port file cannot be written.
pub fn announce(port_file: Option<&Path>, taken: &[Taken]) -> Result<(), Error> {
    if let Some(path) = port_file {
        file::write(path, taken.iter().map(|taken| (taken.spec.name.as_deref(), taken.port)))?;
    }
    for Taken { spec, port } in taken {
        let name = spec.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        let protocol = match spec.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
        };
        info!("port {port}{protocol}{name} claimed");
        if spec.port == *port {
            warn_of_range(*port);
        }
    }
    Ok(())
}

fn warn_of_range(port: u16) {
    if range::may_be_taken(port) {
        warn!(
            "port {port} lies in net.ipv4.ip_local_port_range, so any outgoing connection may take it while the app is not running: \
             take a port outside, or reserve it: {}",
            range::reserve(port)
        );
    }
}

/// Publishes a state. A failure is only logged.
pub fn publish(publisher: &mut Publisher, state: &State) {
    if let Some(line) = publisher.publish(state) {
        warn!("{line}");
    }
}

/// The state to publish in this phase.
pub fn state(config: &Run, phase: Phase, taken: &[Taken]) -> State {
    let ports = if taken.is_empty() {
        // A configured port is known before it is claimed, unless it is 0 (any free port).
        config.ports.iter().map(|spec| PortState::new(spec, spec.port)).collect()
    } else {
        taken.iter().map(|taken| PortState::new(&taken.spec, taken.port)).collect()
    };
    State {
        phase,
        ports,
        health: config.health.as_ref().map(ToString::to_string),
        liveness: config.liveness.as_ref().map(ToString::to_string),
        app_pid: None,
        shared: config.share.is_some(),
    }
}
