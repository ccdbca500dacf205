//! Owns what a new instance remembers while it repeatedly requests a port from its group. Must not know the protocol,
//! or when it requests.

use std::time::{Duration, Instant};

use super::Group;
use super::message::{Container, container_words};
use super::request::{Answer, request};
use crate::port::advice;
use crate::port::holder::timestamp;
use crate::port::peers::{Peers, SharedSocket};
use crate::port::spec::{Protocol, Spec};

/// Delay after a request that timed out: each costs a second.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// A failed request that took longer than this has timed out.
const TIMED_OUT: Duration = Duration::from_millis(900);

/// Requests ports from the other instances of a group.
#[derive(Debug)]
pub struct Newcomer {
    pub group: Group,
    /// Our own container, for the others' logs.
    pub container: Container,
    not_before: Option<Instant>,
    /// The last reason logged for a refusal; a wait repeats its requests.
    last_refusal: Option<String>,
}

impl Newcomer {
    pub fn new(group: Group, container: Container) -> Self {
        Self { group, container, not_before: None, last_refusal: None }
    }
}

impl Peers for Newcomer {
    fn request(&mut self, spec: &Spec, interrupted: &mut dyn FnMut() -> bool) -> Option<SharedSocket> {
        let begun = Instant::now();
        if spec.protocol == Protocol::Udp && !self.group.datagrams {
            return None;
        }
        if self.not_before.is_some_and(|at| begun < at) {
            return None;
        }
        match request(&self.group, spec, self.container, interrupted) {
            Answer::Received(received) => {
                let (what, name) = (advice::label(spec), &self.group.name);
                let container = container_words(&received.container);
                tracing::info!(
                    port = spec.port,
                    "{what} is shared with another instance of {name} (--share): uid {}{container}, which has had it since {}",
                    received.uid,
                    timestamp(received.since)
                );
                Some(SharedSocket { socket: received.socket, meeting: received.meeting })
            }
            Answer::Nobody | Answer::Interrupted => None,
            Answer::Refused(why) => {
                if begun.elapsed() >= TIMED_OUT {
                    self.not_before = Some(Instant::now() + RETRY_DELAY);
                }
                if self.last_refusal.as_deref() != Some(&why) {
                    let (what, name) = (advice::label(spec), &self.group.name);
                    tracing::warn!(
                        port = spec.port,
                        "{what} is not shared by the process that has the name {name} (--share): {why}; waiting for it"
                    );
                    self.last_refusal = Some(why);
                }
                None
            }
        }
    }
}
