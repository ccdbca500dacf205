//! Owns the state file's format and name. Must not know policy: which phase comes when, or what a phase means for a
//! probe.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::identity::Writer;
use crate::port::spec::{Protocol, Spec};

/// Where the state file goes without `--state-dir`: the first that works.
pub const DEFAULT_DIRS: [&str; 3] = ["/run", "/dev/shm", "/tmp"];

/// The version of the format. A reader accepts no other.
pub(super) const FORMAT: u32 = 1;

/// The most addresses stored per port: a probe needs one, and a file that grew with them would be too large to be
/// trusted.
pub const MAX_PLACES: usize = 16;

/// The phase of `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A port is still busy, at the start or at a relaunch.
    Waiting,
    /// The app has been launched and is not ready yet.
    Starting,
    Ready,
    /// A first TERM, INT or QUIT has arrived.
    Draining,
    /// The app has exited; leftover processes may still be stopped.
    Exited,
    /// reberth has replaced itself with the app (`--exec`): no later phase is published.
    Exec,
    /// `keep` holds the ports; there is no app.
    Keeping,
}

impl Phase {
    /// The word in the file and in a verdict.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Exited => "exited",
            Self::Exec => "exec",
            Self::Keeping => "keeping",
        }
    }
}

/// A port of `run`: as configured and as claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortState {
    pub name: Option<String>,
    /// `None`: the wildcard on both families.
    pub addr: Option<IpAddr>,
    /// The configured port; 0: any free port.
    pub asked: u16,
    /// The port actually claimed; 0 while it is unknown.
    pub port: u16,
    #[serde(with = "ProtocolWord")]
    pub protocol: Protocol,
    /// Where the app listens on it; empty: not seen yet. Each address once, at most [`MAX_PLACES`]; see
    /// [`State::listens_at`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listens: Vec<IpAddr>,
}

impl PortState {
    /// The port of `spec`, claimed as `port` (0: not known yet).
    pub fn new(spec: &Spec, port: u16) -> Self {
        Self {
            name: spec.name.clone(),
            addr: spec.addr,
            asked: spec.port,
            port,
            protocol: spec.protocol,
            listens: Vec::new(),
        }
    }
}

/// `port::spec` knows no file format, so the words are here.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Protocol", rename_all = "lowercase")]
enum ProtocolWord {
    Tcp,
    Udp,
}

/// What `run` publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub phase: Phase,
    /// In the order configured; the first is the primary.
    pub ports: Vec<PortState>,
    /// `--health` as typed, if configured.
    pub health: Option<String>,
    /// `--liveness` as typed, if configured.
    pub liveness: Option<String>,
    /// The app's pid in the writer's PID namespace, once it is launched.
    pub app_pid: Option<i32>,
    /// Other instances may answer on the same ports (`--share`): only an answer from the app's own process tree counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

impl State {
    /// Sets the claimed ports, in the order configured.
    pub fn take(&mut self, taken: &[(&Spec, u16)]) {
        self.ports = taken.iter().map(|(spec, port)| PortState::new(spec, *port)).collect();
    }

    /// Sets the addresses at which the app was seen listening on the port of `spec`, for the caller to publish. An
    /// IPv4-mapped address (`::ffff:127.0.0.1`) becomes the IPv4 address. At most [`MAX_PLACES`] are kept, those first
    /// that a probe would query first: reachable on loopback, then in the order seen.
    pub fn listens_at(&mut self, spec: &Spec, places: &[IpAddr]) {
        let same = |port: &&mut PortState| {
            (&port.name, port.addr, port.port, port.protocol) == (&spec.name, spec.addr, spec.port, spec.protocol)
        };
        let Some(port) = self.ports.iter_mut().find(same) else { return };
        port.listens.clear();
        for place in places.iter().map(IpAddr::to_canonical) {
            if !port.listens.contains(&place) {
                port.listens.push(place);
            }
        }
        port.listens.sort_by_key(|place| !(place.is_unspecified() || place.is_loopback()));
        port.listens.truncate(MAX_PLACES);
    }
}

/// The whole file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document<S> {
    pub(super) format: u32,
    /// The version of reberth that wrote it; for people only.
    pub(super) version: String,
    pub(super) writer: Writer,
    pub state: S,
}

/// The memfd's name, as `/proc/1/fd` shows it (`memfd_create(2)`).
pub(super) const MEMFD_NAME: &str = "reberth-state";

/// In bytes. A state file has a few hundred; anything larger was not written by `run`.
pub(super) const MAX_SIZE: usize = 64 * 1024;

/// Parses a state file; an error is the reason.
pub(crate) fn parse(text: &[u8]) -> Result<Document<State>, String> {
    match serde_json::from_slice::<Document<State>>(text) {
        Ok(document) if document.format == FORMAT => Ok(document),
        Ok(document) => {
            Err(format!("it has format {}, not {FORMAT} (written by reberth {})", document.format, document.version))
        }
        // serde_json quotes what it found, but the content of an untrusted file must not be repeated.
        Err(error) => Err(format!("it is damaged at line {} column {}", error.line(), error.column())),
    }
}

/// `reberth-<inode of the mount namespace>-<pid>.json`
pub(super) fn file_name(mount_namespace: u64, pid: i32) -> String {
    format!("reberth-{mount_namespace}-{pid}.json")
}
