//! Owns what is said and written when ports have become ours, and the claim that goes on beside an app that was launched before. Must not
//! know how a port is waited for, or what the app does meanwhile.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use tracing::{info, warn};

use crate::error::Error;
use crate::port::claim::{Claim, Stop};
use crate::port::claiming::{Claiming, Step};
use crate::port::file;
use crate::port::range;
use crate::port::spec::{Protocol, Spec};

/// A claim on its way, beside a running app.
pub struct Prewarm<'a> {
    claiming: Claiming,
    port_file: Option<&'a Path>,
}

impl<'a> Prewarm<'a> {
    pub fn new(claiming: Claiming, port_file: Option<&'a Path>) -> Self {
        Self { claiming, port_file }
    }

    /// What wakes it before its deadline.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.claiming.descriptors()
    }

    pub fn deadline(&self) -> Instant {
        self.claiming.deadline()
    }

    /// Goes on; `None`: it still waits. `interrupted` tells whether something more urgent is to be heard.
    ///
    /// # Errors
    /// The ports cannot be had, or not in time.
    pub fn step(&mut self, now: Instant, interrupted: &mut dyn FnMut() -> bool) -> Result<Option<Vec<Claim>>, Error> {
        match self.claiming.step(now, interrupted) {
            Ok(Step::Ours(claims)) => Ok(Some(claims)),
            Ok(Step::Waits) => Ok(None),
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::Ended(_)) => Err(Error::cannot("the wait for the port has ended")),
        }
    }

    /// Tells the claim, after the app has got its socket: one that waits is not kept waiting for a file. After the launch nothing bails out.
    pub fn announce(&self, taken: &[Taken]) {
        if let Err(error) = announce(self.port_file, taken) {
            error.lines().iter().for_each(|line| warn!("{line}"));
        }
    }
}

/// What a claim came to; it outlives the claim's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// As asked.
    pub spec: Spec,
    pub port: u16,
}

impl Taken {
    pub fn of(claims: &[Claim]) -> Vec<Self> {
        claims.iter().map(|claim| Self { spec: claim.spec.clone(), port: claim.port }).collect()
    }
}

/// Tells which ports were taken: in the file and the log. The environment, the arguments and the state follow.
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
            "port {port} lies in net.ipv4.ip_local_port_range, so any outgoing connection may take it while the app does not run: \
             take a port outside, or reserve it: {}",
            range::reserve(port)
        );
    }
}
