//! Owns the asking of a server in its own protocol: one short conversation, read from what has come so far by a pure function for each
//! protocol. Must not know what a protocol's bytes mean.
//!
//! No client libraries: each question is some twenty bytes, and a library would ask for logins, which a probe has no business with.

pub(crate) mod dialect;
pub(crate) mod mysql;
pub(crate) mod postgres;
pub(crate) mod redis;

use super::answer::{Answer, answered_at};
use super::carrier::Carrier;
use super::clock::Clock;
use super::parting::{Left, Parting};
use super::wire::{Broken, Wire};
use crate::health::target::Database;
use crate::health::target::place::Peer;
use dialect::{Healthy, Leave, Read};

/// No more of an answer is kept. Bytes.
pub(crate) const MAX_ANSWER: usize = 64 * 1024;

/// Asks whether the server takes clients.
#[inline(never)]
pub fn ask(database: Database, peer: &Peer, clock: Clock) -> Answer {
    let scheme = database.scheme();
    let (wire, address) = match Wire::to(peer, clock, None) {
        Ok(connected) => connected,
        Err(reason) => return Answer::unhealthy(peer.shown(scheme, ""), reason),
    };
    let shown = answered_at(peer, address).shown(scheme, "");
    let (words, read): (_, fn(&[u8]) -> Read) = match database {
        Database::Redis => (redis::PING.to_vec(), redis::read),
        Database::Postgres => (postgres::startup(), postgres::read),
        Database::Mysql => (Vec::new(), mysql::read),
    };
    let mut carrier = Carrier::Plain(wire);
    match converse(&mut carrier, &words, read, clock) {
        Ok(Healthy { reason, leave }) => {
            let left = match leave {
                Leave::Silent => Left::saying(carrier, Vec::new()),
                Leave::Saying(words) => Left::waiting(carrier, words.to_vec()),
                Leave::Login(words) => Left::login(carrier, words),
            };
            Answer { shown, status: None, outcome: Ok(reason), parting: Parting::new(vec![left], clock) }
        }
        Err(reason) => Answer::unhealthy(shown, reason),
    }
}

/// Says `words`, and reads until `read` has decided.
pub(super) fn converse<T>(
    carrier: &mut Carrier,
    words: &[u8],
    read: impl Fn(&[u8]) -> Result<Option<T>, String>,
    clock: Clock,
) -> Result<T, String> {
    let unsent = match carrier.send(words, clock) {
        Ok(()) => None,
        // A server that refuses us may be gone already. What it said before it went is still to be read, and tells more.
        Err(broken @ Broken::Error(_)) => Some(broken),
        Err(broken) => return Err(broken.words("sending the question", clock)),
    };
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let doing = if text.is_empty() { "waiting for the answer" } else { "reading the answer" };
        let size = carrier.receive(&mut buffer, clock).map_err(|broken| broken.words(doing, clock))?;
        if size == 0 {
            // The kernel tells a reset once, and it was told to the sending.
            if let Some(broken) = unsent.filter(|_| text.is_empty()) {
                return Err(broken.words("sending the question", clock));
            }
            return Err(format!("the server closed the connection while {doing}"));
        }
        text.extend_from_slice(buffer.get(..size).unwrap_or_default());
        if let Some(decided) = read(&text)? {
            return Ok(decided);
        }
        if text.len() >= MAX_ANSWER {
            return Err(format!("the answer is longer than {} KiB", MAX_ANSWER / 1024));
        }
    }
}
