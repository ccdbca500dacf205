//! Owns what `who` reports about a port: whether a claim would get it, who holds it, and what to do. Must not know how the report is
//! printed, or how a holder is found.

use serde::Serialize;

use crate::error::{Error, words};
use crate::port::advice::{self, Given, Voice};
use crate::port::attempt::{Attempt, Tried};
use crate::port::claim;
use crate::port::group;
use crate::port::holder::{self, Depth, Hidden, Holder, Look, State};
use crate::port::spec::{Protocol, Spec};
use crate::setting::Source;

#[derive(Debug, Serialize)]
pub struct Report {
    /// With `--watch`: the time of the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    pub ports: Vec<Port>,
}

/// The report on one port.
#[derive(Debug, Serialize)]
pub struct Port {
    pub port: u16,
    pub protocol: &'static str,
    /// `free` or `held`. Held means that a claim would have to wait.
    pub state: &'static str,
    pub holders: Vec<Line>,
    pub advice: Vec<String>,
    /// The holders in words, as in the log.
    #[serde(skip)]
    pub words: String,
}

impl Port {
    /// Whether a claim would have to wait.
    pub fn is_held(&self) -> bool {
        self.state == HELD
    }

    /// `free`, or who holds it.
    pub fn summary(&self) -> String {
        if self.is_held() { format!("held by {}", self.words) } else { self.state.to_owned() }
    }
}

/// One holder. Every key is always present; unknown values are null.
#[derive(Debug, Serialize)]
pub struct Line {
    pub pid: Option<i32>,
    pub command: Option<String>,
    pub uid: Option<u32>,
    pub user: Option<String>,
    pub container: Option<String>,
    pub state: &'static str,
    pub address: Option<String>,
    pub since: Option<String>,
    pub seconds_left: Option<u64>,
    pub hidden: Option<String>,
    /// The same as one word: `kernel`, `closed`, `no-proc`, `refused`, `user` or `namespace`.
    pub hidden_by: Option<&'static str>,
    /// How many sockets this line stands for, and whether with SO_REUSEPORT. Only in the table: the JSON keys are fixed.
    #[serde(skip)]
    pub sockets: usize,
    #[serde(skip)]
    pub reuse_port: bool,
}

impl From<Holder> for Line {
    fn from(holder: Holder) -> Self {
        let seconds_left = holder.seconds_left();
        Self {
            pid: holder.pid,
            command: holder.command,
            uid: holder.uid,
            user: holder.user,
            container: holder.container.map(|(id, _)| id),
            state: holder.state.name(),
            address: Some(holder.address.to_string()),
            since: holder.since.map(holder::timestamp),
            seconds_left,
            hidden: holder.hidden.map(|why| why.to_string()),
            hidden_by: holder.hidden.map(Hidden::name),
            sockets: holder.sockets,
            reuse_port: holder.reuse_port == Some(true),
        }
    }
}

/// The user may be at a shell or in a container, so the advice covers both.
const CIRCUMSTANCES: Given = Given {
    voice: Voice::Both,
    port: Source::Default,
    wait: Source::Default,
    fallback: Source::Default,
    handover: Source::Default,
    hands_over: false,
    alone: false,
};

pub const FREE: &str = "free";
pub const HELD: &str = "held";

/// Every port that has a holder.
///
/// # Errors
/// `Cannot` (125): sockets cannot be listed.
pub fn all_listeners() -> Result<Vec<Port>, Error> {
    let all = holder::everybody().map_err(|error| {
        Error::cannot(format!("cannot list sockets: neither netlink nor /proc/net can be read: {}", words(&error)))
    })?;
    let shared = group::all();
    let mut ports: Vec<Port> = Vec::new();
    for holder in all.holders {
        let (number, protocol) = (holder.port, holder.protocol.name());
        let shares = || {
            let of = |place: &&(String, &str, u16)| (place.1, place.2) == (protocol, number);
            let line = |(name, ..): &(String, &str, u16)| format!("shared by the instances of {name} (--share)");
            shared.iter().filter(of).map(line).collect()
        };
        match ports.last_mut().filter(|last| last.port == number && last.protocol == protocol) {
            Some(port) => port.holders.push(holder.into()),
            None => ports.push(Port {
                port: number,
                protocol,
                state: HELD,
                advice: shares(),
                holders: vec![holder.into()],
                words: String::new(),
            }),
        }
    }
    Ok(ports)
}

/// The report on each of these ports, or all failures together.
pub fn check_all(specs: &[Spec]) -> Result<Vec<Port>, Error> {
    let (mut ports, mut failures) = (Vec::new(), Vec::new());
    for spec in specs {
        match check(spec, claim::v6_only(spec, specs)) {
            Ok(port) => ports.push(port),
            Err(line) => failures.push(line),
        }
    }
    if failures.is_empty() { Ok(ports) } else { Err(Error::Cannot(failures)) }
}

/// The report on one port. It is held if a claim would find it held, so an actual bind decides: without listen, and released immediately.
pub fn check(spec: &Spec, v6_only: bool) -> Result<Port, String> {
    check_noting(spec, v6_only, &mut Vec::new())
}

/// The same. Appends the cookie of the socket that was bound to `own`.
pub fn check_noting(spec: &Spec, v6_only: bool, own: &mut Vec<u64>) -> Result<Port, String> {
    let mut attempt = Attempt::new(spec, v6_only);
    let tried = attempt.bind();
    own.extend(attempt.into_socket().map(|(_, _, cookie)| cookie));
    // Port 0 is always free and has no holder.
    let look = if spec.port == 0 { Look::default() } else { holder::look(spec, Depth::Programs) };
    let mut notes = Vec::new();
    let held = match tried {
        Tried::Ours => false,
        Tried::Busy => true,
        // Without the permission to bind, listeners can still be listed.
        Tried::Never(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            notes.push(advice::never(spec, &error));
            look.holders.iter().any(blocks)
        }
        Tried::Never(error) => return Err(advice::never(spec, &error)),
    };
    notes.extend(look.incomplete.map(|reason| format!("this list may be incomplete: {reason}")));
    if held {
        notes.extend(advice::advice(spec, &look, &CIRCUMSTANCES));
    } else {
        notes.extend(look.holders.iter().map(|holder| format!("this does not block a claim: {holder}")));
    }
    let words = look.to_string();
    let holders = if held { look.holders } else { Vec::new() };
    Ok(Port {
        port: spec.port,
        protocol: spec.protocol.name(),
        state: if held { HELD } else { FREE },
        holders: holders.into_iter().map(Line::from).collect(),
        advice: notes,
        words,
    })
}

fn blocks(holder: &Holder) -> bool {
    holder.state == State::Listening || holder.protocol == Protocol::Udp
}
