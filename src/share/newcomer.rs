//! Owns what a newcomer remembers while it asks the others of its group for their socket, again and again. Must not know the words of the
//! exchange, or when it asks.

use std::time::{Duration, Instant};

use super::Group;
use super::asking::{Answer, ask};
use super::message::{Container, container_words};
use crate::port::advice;
use crate::port::holder::timestamp;
use crate::port::peers::{Peers, SharedSocket};
use crate::port::spec::{Protocol, Spec};

/// After one who did not answer in time, the next question waits this long: each costs a second.
const PAUSE: Duration = Duration::from_secs(10);
/// So much time of a question means that nobody answered.
const SILENT: Duration = Duration::from_millis(900);

/// Whom the ports may be shared with.
#[derive(Debug)]
pub struct Newcomer {
    pub group: Group,
    /// Our own, for the others' logs.
    pub container: Container,
    not_before: Option<Instant>,
    /// What was said last of a refusal; a wait asks again and again.
    said: Option<String>,
}

impl Newcomer {
    pub fn new(group: Group, container: Container) -> Self {
        Self { group, container, not_before: None, said: None }
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
        match ask(&self.group, spec, self.container, interrupted) {
            Answer::Given(given) => {
                let (what, name) = (advice::label(spec), &self.group.name);
                let container = container_words(&given.container);
                tracing::info!(
                    port = spec.port,
                    "{what} is shared with another instance of {name} (--share): uid {}{container}, which has had it since {}",
                    given.uid,
                    timestamp(given.since)
                );
                Some(SharedSocket { socket: given.socket, meeting: given.meeting })
            }
            Answer::Nobody | Answer::Interrupted => None,
            Answer::Refused(why) => {
                if begun.elapsed() >= SILENT {
                    self.not_before = Some(Instant::now() + PAUSE);
                }
                if self.said.as_deref() != Some(&why) {
                    let (what, name) = (advice::label(spec), &self.group.name);
                    tracing::warn!(
                        port = spec.port,
                        "{what} is not shared by whoever has the name {name} (--share): {why}; waiting for it"
                    );
                    self.said = Some(why);
                }
                None
            }
        }
    }
}
