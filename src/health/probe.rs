//! Owns a probe: one target, one answer, one deadline. Must not know how the target was chosen: `health::decide` does.

use std::time::Duration;

use super::question::Question;
use super::target::place::Peer;
use super::terms::Terms;
use super::url::Url;
use crate::sys::lookup;

pub mod answer;
pub(crate) mod body;
mod carrier;
pub mod clock;
pub(crate) mod database;
pub(crate) mod fcgi;
pub(crate) mod grpc;
pub(crate) mod http;
pub mod parting;
#[cfg(feature = "tls")]
mod tls;
pub mod wire;

use answer::{Answer, answered_at};
use clock::{Clock, shown_duration};
use parting::Parting;
use wire::Wire;

/// Probes once and returns within `timeout`, whatever the server does. `own`: the pid of the `run` whose app must answer, if instances
/// share its port.
///
/// The rarer protocols are `inline(never)`, so that their buffers take no stack in an HTTP or TCP probe.
pub fn ask(question: &Question, terms: &Terms, own: Option<i32>, timeout: Duration) -> Answer {
    let clock = Clock::start(timeout);
    let shown = question.shown();
    match question {
        Question::Tcp(host, port) => match Wire::tcp_to(host, *port, clock, own) {
            Ok((wire, address)) => {
                let peer = answered_at(&Peer::Host(host.clone(), *port), Some(address));
                Answer::connected(peer.shown("tcp", ""), wire, clock)
            }
            Err(reason) => Answer::unhealthy(shown, reason),
        },
        Question::Unix(socket) => match Wire::unix(socket, clock) {
            Ok(wire) => Answer::connected(shown, wire, clock),
            Err(reason) => Answer::unhealthy(shown, reason),
        },
        Question::Http(url) => http::ask(url, (None, own), shown, terms, clock),
        Question::Grpc(tls, peer, service) => grpc::ask((*tls, peer), service, terms, clock, own),
        Question::Fcgi(peer, path) => fcgi::ask(peer, path, terms, clock),
        Question::Database(database, peer) => database::ask(*database, peer, clock),
        Question::File(path) => {
            let outcome = match lookup::exists(path, clock.end()) {
                Ok(()) => Ok("it exists".to_owned()),
                Err(lookup::Failed::Error(why)) => Err(why),
                Err(lookup::Failed::Timeout) => Err(format!(
                    "timed out after {}: its file system does not answer (a mount whose server is gone?)",
                    shown_duration(clock.total())
                )),
            };
            Answer { shown, status: None, outcome, parting: Parting::default() }
        }
        Question::Dns(name) => {
            let outcome = wire::resolve(name, clock).map(|found| format!("it resolves to {found}"));
            Answer { shown, status: None, outcome, parting: Parting::default() }
        }
        Question::HttpOverUnix(socket, path) => {
            let url = Url { tls: false, host: "localhost".into(), port: 80, path: path.clone() };
            http::ask(&url, (Some(socket), None), shown, terms, clock)
        }
    }
}
