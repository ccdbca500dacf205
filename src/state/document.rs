//! Owns the state file's words and its name. Must not know policy: which phase comes when, or what a phase means for a probe.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::identity::Writer;
use crate::port::spec::{Protocol, Spec};

/// Where the state file goes when nothing else was asked: the first that works.
pub const DEFAULT_DIRS: [&str; 3] = ["/run", "/dev/shm", "/tmp"];

/// The form of the file. A reader believes no other.
pub(super) const FORMAT: u32 = 1;

/// More addresses of one port are not told: one is enough to be asked, and a file that grew with them would not be believed.
pub const MAX_PLACES: usize = 16;

/// Where `run` stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A port is still busy (again, after a relaunch).
    Waiting,
    /// The app is launched, not ready yet.
    Starting,
    Ready,
    /// A first TERM, INT or QUIT has come.
    Draining,
    /// The app is gone; leftovers may still be ended.
    Exited,
    /// reberth has replaced itself by the app (`--exec`): nobody reports any phase after this one.
    Exec,
    /// `keep` holds the ports; there is no app.
    Keeping,
}

impl Phase {
    /// The word in the file and in a verdict line.
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

/// A port of `run`: what was asked and what was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortState {
    pub name: Option<String>,
    /// `None`: the wildcard on both families.
    pub addr: Option<IpAddr>,
    /// The port of the settings; 0: any free port.
    pub asked: u16,
    /// The port really taken; 0 while it is not known yet.
    pub port: u16,
    #[serde(with = "ProtocolWord")]
    pub protocol: Protocol,
    /// Where the app listens on it, once seen; empty: not seen yet. Each once, at most [`MAX_PLACES`]; see [`State::listens_at`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listens: Vec<IpAddr>,
}

impl PortState {
    /// What `spec` asked for, taken on `port` (0: not known yet).
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

/// `port::spec` knows no file format, so its words stand here.
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
    /// In the order asked; the first is the primary.
    pub ports: Vec<PortState>,
    /// `--health` as typed, if `run` was told one.
    pub health: Option<String>,
    /// `--liveness` as typed, likewise.
    pub liveness: Option<String>,
    /// The app's pid in the writer's PID namespace, once it is launched.
    pub app_pid: Option<i32>,
    /// Others may answer on the same ports (`--share`): only an answer of the app's own tree counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

impl State {
    /// These ports were taken, in the order asked.
    pub fn take(&mut self, taken: &[(&Spec, u16)]) {
        self.ports = taken.iter().map(|(spec, port)| PortState::new(spec, *port)).collect();
    }

    /// The app has been seen listening on the port of `spec` at these addresses: in place of what was seen before, and to be published by
    /// the caller. An IPv4 address of an IPv6 socket (`::ffff:127.0.0.1`) is that IPv4 address. No more than [`MAX_PLACES`] are kept, and
    /// then those that a probe would ask first: whatever is on loopback, and then in the order seen.
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

/// What `/proc/1/fd` shows of it (`memfd_create(2)`).
pub(super) const HELD: &str = "reberth-state";

/// A state file is some hundred bytes; whatever is larger was not written by `run`. Bytes.
pub(super) const MAX_SIZE: usize = 64 * 1024;

/// Reads a state file's text; an error says what is wrong with it.
pub(crate) fn parse(text: &[u8]) -> Result<Document<State>, String> {
    match serde_json::from_slice::<Document<State>>(text) {
        Ok(document) if document.format == FORMAT => Ok(document),
        Ok(document) => {
            Err(format!("it has format {}, not {FORMAT} (written by reberth {})", document.format, document.version))
        }
        // serde_json quotes what it found; what stands in a file we do not trust is not repeated.
        Err(error) => Err(format!("it is damaged at line {} column {}", error.line(), error.column())),
    }
}

/// `reberth-<inode of the mount namespace>-<pid>.json`
pub(super) fn file_name(mount_namespace: u64, pid: i32) -> String {
    format!("reberth-{mount_namespace}-{pid}.json")
}
