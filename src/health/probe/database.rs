//! Owns the exchange with a database server: sends the opening bytes and reads until the protocol's pure `read` decides.
//! Must not know what a protocol's bytes mean.
//!
//! No client libraries: an exchange sends some twenty bytes, and a library would require a login, which a probe must not need.

pub(crate) mod dialect;
pub(crate) mod mysql;
pub(crate) mod postgres;
pub(crate) mod redis;

use super::answer::{Answer, answered_at};
use super::closing::{Closing, OpenConnection};
use super::connection::Connection;
use super::deadline::Deadline;
use super::wire::{Broken, Wire};
use crate::health::target::Database;
use crate::health::target::place::Peer;
use dialect::{Ending, Healthy, Read};

/// How much of an answer is kept. Bytes.
pub(crate) const MAX_ANSWER: usize = 64 * 1024;

/// Probes whether the server accepts clients.
#[inline(never)]
pub fn probe(database: Database, peer: &Peer, deadline: Deadline) -> Answer {
    let scheme = database.scheme();
    let (wire, address) = match Wire::to(peer, deadline, None) {
        Ok(connected) => connected,
        Err(reason) => return Answer::unhealthy(peer.shown(scheme, ""), reason),
    };
    let shown = answered_at(peer, address).shown(scheme, "");
    let (words, read): (_, fn(&[u8]) -> Read) = match database {
        Database::Redis => (redis::PING.to_vec(), redis::read),
        Database::Postgres => (postgres::startup(), postgres::read),
        Database::Mysql => (Vec::new(), mysql::read),
    };
    let mut connection = Connection::Plain(wire);
    match converse(&mut connection, &words, read, deadline) {
        Ok(Healthy { reason, ending }) => {
            let open = match ending {
                Ending::Silent => OpenConnection::sending(connection, Vec::new()),
                Ending::Sending(words) => OpenConnection::sending_and_waiting(connection, words.to_vec()),
                Ending::Login(words) => OpenConnection::login(connection, words),
            };
            Answer { shown, status: None, outcome: Ok(reason), closing: Closing::new(vec![open], deadline) }
        }
        Err(reason) => Answer::unhealthy(shown, reason),
    }
}

/// Sends `words`, and reads until `read` decides.
pub(super) fn converse<T>(
    connection: &mut Connection,
    words: &[u8],
    read: impl Fn(&[u8]) -> Result<Option<T>, String>,
    deadline: Deadline,
) -> Result<T, String> {
    let unsent = match connection.send(words, deadline) {
        Ok(()) => None,
        // A server that refuses the client may have closed already. What it sent before explains more than the broken pipe.
        Err(broken @ Broken::Error(_)) => Some(broken),
        Err(broken) => return Err(broken.words("sending the request", deadline)),
    };
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let doing = if text.is_empty() { "waiting for the answer" } else { "reading the answer" };
        let size = connection.receive(&mut buffer, deadline).map_err(|broken| broken.words(doing, deadline))?;
        if size == 0 {
            // The kernel reports a reset once, and the send has consumed it.
            if let Some(broken) = unsent.filter(|_| text.is_empty()) {
                return Err(broken.words("sending the request", deadline));
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
