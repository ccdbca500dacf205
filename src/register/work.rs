//! Owns the process beside PID 1: it receives wishes, makes requests to the registry, and logs the results. It may
//! block. Must not know the app.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, recv};
use tracing::{info, warn};

use super::entry::Entry;
use super::etcd::Cluster;
use super::machine::{Machine, Report, Step, Wish};
use super::place::{Register, Registry};
use crate::sys::descriptor;

/// PID 1's two commands. Closing the socket is the third.
pub const ANNOUNCE: u8 = b'+';
pub const WITHDRAW: u8 = b'-';

/// Runs until PID 1 closes the socket and the entry is withdrawn.
pub fn run(wishes: &OwnedFd, registry: &Registry, register: &Register, entry: &Entry) -> u8 {
    let mut machine = Machine::new(register.ttl);
    let mut cluster = Cluster::new(registry, &register.credentials, register.ttl);
    loop {
        // Only the newest wish counts.
        while let Some(wish) = receive(wishes) {
            machine.wish(wish);
            if wish == Wish::Gone {
                break;
            }
        }
        match machine.step(Instant::now()) {
            Step::Do(act) => {
                let answer = cluster.perform(act, entry);
                if let Some(report) = machine.on(Instant::now(), act, answer) {
                    log(report, registry, entry, &cluster);
                }
            }
            Step::Wait(until) => {
                descriptor::wait_readable(&mut [PollFd::new(wishes.as_fd(), PollFlags::POLLIN)], until);
            }
            Step::Leave => return 0,
        }
    }
}

fn receive(wishes: &OwnedFd) -> Option<Wish> {
    let mut word = [0];
    match recv(wishes.as_raw_fd(), &mut word, MsgFlags::MSG_DONTWAIT) {
        Ok(1) if word == [ANNOUNCE] => Some(Wish::Announced),
        Ok(1) => Some(Wish::Withdrawn),
        Ok(_) => Some(Wish::Gone),
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => None,
        Err(_) => Some(Wish::Gone),
    }
}

fn log(report: Report, registry: &Registry, entry: &Entry, cluster: &Cluster<'_>) {
    let (instance, place) =
        (&entry.instance, || cluster.address(entry).map_or_else(|why| why, |host| entry.address(&host)));
    match report {
        Report::Announced => info!("announced in {registry} as {instance}, at {}", place()),
        Report::Withdrawn => info!("withdrawn from {registry}: {instance}"),
        Report::Lost => info!("{registry} has lost the entry {instance}: putting it again"),
        Report::Unreachable(why) => warn!(
            "the registry {registry} cannot be used now: {why}; the app is not affected, and its entry is put as soon as possible (--register)"
        ),
        Report::Restored => warn!("the registry {registry} is back: announced as {instance}, at {}", place()),
    }
}
