//! Owns a claim that continues beside a running app, and what its ports become once claimed. Must not know how a port is waited for, or
//! what the app does meanwhile.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use tracing::warn;

use super::announce::{Taken, announce};
use super::readiness::binds::hold;
use super::sharing::Sharing;
use crate::error::{Error, words};
use crate::port::claim::{Claim, Stop};
use crate::port::claiming::{Claiming, Step};
use crate::port::held::Held;
use crate::share::Group;

/// A claim beside a running app.
pub struct Prewarm<'a> {
    claiming: Claiming,
    /// The group whose instances share the ports.
    group: Option<Group>,
    port_file: Option<&'a Path>,
}

/// The ports, once claimed.
pub struct Prewarmed {
    pub taken: Vec<Taken>,
    pub sharing: Option<Sharing>,
    /// The sockets to answer the app's binds with.
    pub held: io::Result<Held>,
}

impl<'a> Prewarm<'a> {
    pub fn new(claiming: Claiming, group: Option<Group>, port_file: Option<&'a Path>) -> Self {
        Self { claiming, group, port_file }
    }

    /// What can wake the claim before its deadline.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.claiming.descriptors()
    }

    pub fn deadline(&self) -> Instant {
        self.claiming.deadline()
    }

    /// Continues the claim; `None`: it still waits. `interrupted`: whether something more urgent is pending.
    ///
    /// # Errors
    /// The ports cannot be claimed, or not in time.
    pub fn step(&mut self, now: Instant, interrupted: &mut dyn FnMut() -> bool) -> Result<Option<Prewarmed>, Error> {
        match self.claiming.step(now, interrupted) {
            Ok(Step::Ours(claims)) => Ok(Some(self.divide(claims))),
            Ok(Step::Waits) => Ok(None),
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::Ended(_)) => Err(Error::cannot("the wait for the port has ended")),
        }
    }

    fn divide(&self, mut claims: Vec<Claim>) -> Prewarmed {
        let taken = Taken::of(&claims);
        let sharing = self.group.clone().and_then(|group| {
            Sharing::begin(group, &mut claims)
                .inspect_err(|error| warn!("the ports cannot be shared: {}", words(error)))
                .ok()
        });
        let held = hold(claims, sharing.is_some());
        Prewarmed { taken, sharing, held }
    }

    /// Announces the ports, after the app has got its socket: the app must not wait for a file. After the launch an error is only logged.
    pub fn announce(&self, taken: &[Taken]) {
        if let Err(error) = announce(self.port_file, taken) {
            error.lines().iter().for_each(|line| warn!("{line}"));
        }
    }
}
