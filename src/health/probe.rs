//! Owns a probe: one target, one answer, one deadline. Must not know how the target was chosen: `health::decide` does.

use std::time::Duration;

use super::resolved::ResolvedTarget;
use super::target::place::Peer;
use super::terms::Terms;
use super::url::Url;
use crate::sys::lookup;

pub mod answer;
pub(crate) mod body;
pub mod closing;
mod connection;
pub(crate) mod database;
pub mod deadline;
pub(crate) mod fcgi;
pub(crate) mod grpc;
pub(crate) mod http;
#[cfg(feature = "tls")]
mod tls;
pub mod wire;

use answer::{Answer, answered_at};
use closing::Closing;
use deadline::{Deadline, shown_duration};
use wire::Wire;

/// Probes once and returns within `timeout`, whatever the server does. `own`: the pid of the `run` whose app must answer, if instances
/// share its port.
///
/// The rarer protocols are `inline(never)`, so that their buffers take no stack in an HTTP or TCP probe.
pub fn run(resolved: &ResolvedTarget, terms: &Terms, own: Option<i32>, timeout: Duration) -> Answer {
    let deadline = Deadline::after(timeout);
    let shown = resolved.shown();
    match resolved {
        ResolvedTarget::Tcp(host, port) => match Wire::tcp_to(host, *port, deadline, own) {
            Ok((wire, address)) => {
                let peer = answered_at(&Peer::Host(host.clone(), *port), Some(address));
                Answer::connected(peer.shown("tcp", ""), wire, deadline)
            }
            Err(reason) => Answer::unhealthy(shown, reason),
        },
        ResolvedTarget::Unix(socket) => match Wire::unix(socket, deadline) {
            Ok(wire) => Answer::connected(shown, wire, deadline),
            Err(reason) => Answer::unhealthy(shown, reason),
        },
        ResolvedTarget::Http(url) => http::probe(url, (None, own), shown, terms, deadline),
        ResolvedTarget::Grpc(tls, peer, service) => grpc::probe((*tls, peer), service, terms, deadline, own),
        ResolvedTarget::Fcgi(peer, path) => fcgi::probe(peer, path, terms, deadline),
        ResolvedTarget::Database(database, peer) => database::probe(*database, peer, deadline),
        ResolvedTarget::File(path) => {
            let outcome = match lookup::exists(path, deadline.end()) {
                Ok(()) => Ok("it exists".to_owned()),
                Err(lookup::Failed::Error(why)) => Err(why),
                Err(lookup::Failed::Timeout) => Err(format!(
                    "timed out after {}: its file system does not answer (a mount whose server is gone?)",
                    shown_duration(deadline.total())
                )),
            };
            Answer { shown, status: None, outcome, closing: Closing::default() }
        }
        ResolvedTarget::Dns(name) => {
            let outcome = wire::resolve(name, deadline).map(|found| format!("it resolves to {found}"));
            Answer { shown, status: None, outcome, closing: Closing::default() }
        }
        ResolvedTarget::HttpOverUnix(socket, path) => {
            let url = Url { tls: false, host: "localhost".into(), port: 80, path: path.clone() };
            http::probe(&url, (Some(socket), None), shown, terms, deadline)
        }
    }
}
