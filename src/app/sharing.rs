//! Owns the ports that other instances may share while an app, or `keep`, has them: the sockets given to them, the meeting points, and the
//! log lines about them. Must not know the protocol of the exchange, or how a port was claimed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use socket2::SockRef;
use tracing::{debug, info, warn};

use crate::error::{Error, words};
use crate::port::attempt::QUEUE;
use crate::port::claim::Claim;
use crate::port::holder::processes;
use crate::port::spec::{Protocol, Spec};
use crate::share::Group;
use crate::share::Share;
use crate::share::message::{Container, Secret, container_words};
use crate::share::newcomer::Newcomer;
use crate::share::provider::{Meeting, Met};

/// A refused instance may ask a thousand times a second; a refusal is logged this often.
const QUIET: Duration = Duration::from_secs(10);

/// The configured group, with its secret read. `datagrams`: UDP ports are shared too.
///
/// # Errors
/// A secret file that cannot be read, or is empty.
pub fn group(share: &Share, datagrams: bool) -> Result<Group, Error> {
    let secret = share.secret_file.as_deref().map(secret).transpose()?;
    if secret.is_none() && nix::unistd::geteuid().is_root() {
        warn!(
            "--share {} (REBERTH_SHARE) as uid 0 and without a secret: every root container on this network can take the port; set \
             --share-secret-file (REBERTH_SHARE_SECRET_FILE), or run as another user",
            share.name
        );
    }
    Ok(Group { name: share.name.clone(), secret, datagrams })
}

/// The longest secret that is read. Bytes.
const LONGEST_SECRET: u64 = 64 * 1024;

/// The error for ports that cannot be `shared`, or `kept`.
pub fn cannot(what: &str, error: &io::Error) -> Error {
    Error::cannot(format!("the ports cannot be {what}: {}; raise the limit of open files (ulimit -n)", words(error)))
}

fn secret(path: &Path) -> Result<Secret, Error> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let bad = |why: &str| {
        Error::Settings(vec![format!(
            "--share-secret-file (REBERTH_SHARE_SECRET_FILE) {}: {why}; give a regular file that uid {} can read and that holds the secret",
            path.display(),
            nix::unistd::geteuid()
        )])
    };
    // Opening a pipe without O_NONBLOCK would wait for its writer.
    let open = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = open.map_err(|error| bad(&words(&error)))?;
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err(bad("is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(LONGEST_SECRET).read_to_end(&mut text).map_err(|error| bad(&words(&error)))?;
    // Editors end the last line with a newline; the secret does not include it.
    while text.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        text.pop();
    }
    if text.is_empty() { Err(bad("is empty")) } else { Ok(Secret(text)) }
}

/// The side of the exchange that asks for a socket.
pub fn newcomer(group: &Group) -> Newcomer {
    Newcomer::new(group.clone(), own_container())
}

fn own_container() -> Container {
    let id = processes::own_container().unwrap_or_default();
    let mut container = Container::default();
    container.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
    container
}

/// The specs for ports that are to be shared. Two apps of one group may bind different address families, so one socket has to serve both: a
/// spec without address becomes `0.0.0.0` if this network has IPv6 on loopback at most, and both families otherwise.
pub fn specs(asked: &[Spec]) -> Vec<Spec> {
    let v4_only = std::fs::read_to_string("/proc/net/if_inet6")
        .is_ok_and(|text| text.lines().all(|line| line.split_ascii_whitespace().last() == Some("lo")));
    let addr = v4_only.then(|| std::net::Ipv4Addr::UNSPECIFIED.into());
    asked.iter().map(|spec| Spec { addr: spec.addr.or(addr), ..spec.clone() }).collect()
}

/// Ports that are shared, or may be.
pub struct Sharing {
    group: Group,
    own: Container,
    ports: Vec<Port>,
    /// No line about a refusal before this instant.
    quiet_until: Option<Instant>,
}

struct Port {
    /// With the port actually taken.
    spec: Spec,
    socket: OwnedFd,
    meeting: Option<Meeting>,
    /// Another program has taken the port; nothing can be done about that.
    lost: bool,
}

impl Sharing {
    /// Shares these claims. Each keeps its own socket; this has a copy.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn begin(group: Group, claims: &mut [Claim]) -> io::Result<Self> {
        let mut ports = Vec::new();
        let shared = |claim: &&mut Claim| group.datagrams || claim.spec.protocol == Protocol::Tcp;
        for claim in claims.iter_mut().filter(shared) {
            let spec = claim.spec.with_port(claim.port);
            let socket = claim.socket.try_clone()?;
            let meeting = match claim.meeting.take() {
                Some(meeting) => Some(Meeting::adopt(meeting, &spec)),
                None => open(&group, &spec),
            };
            ports.push(Port { spec, socket, meeting, lost: false });
        }
        Ok(Self { group, own: own_container(), ports, quiet_until: None })
    }

    /// What to poll: instances that ask, and sockets that are shut down.
    pub fn polled(&self) -> impl Iterator<Item = PollFd<'_>> {
        let askers = self.ports.iter().flat_map(|port| port.meeting.iter().flat_map(Meeting::descriptors));
        let ends = self.ports.iter().filter(|port| port.spec.protocol == Protocol::Tcp && !port.lost);
        let ends = ends.map(|port| PollFd::new(port.socket.as_fd(), PollFlags::empty()));
        askers.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).chain(ends)
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.ports.iter().filter_map(|port| port.meeting.as_ref()?.deadline()).min()
    }

    /// Answers the instances that ask, and makes a socket listen again if an instance has shut it down.
    pub fn step(&mut self, now: Instant) {
        for port in &mut self.ports {
            port.revive();
            let Some(meeting) = &mut port.meeting else { continue };
            let give = (!port.lost).then(|| port.socket.as_fd());
            for met in meeting.step(now, &self.group, give, self.own) {
                let (number, name) = (port.spec.port, &self.group.name);
                match met {
                    Met::Gave { uid, container } => info!(
                        "port {number} is shared with one more instance of {name}: uid {uid}{}",
                        container_words(&container)
                    ),
                    Met::Refused { uid, why } if self.quiet_until.is_none_or(|until| now >= until) => {
                        self.quiet_until = Some(now + QUIET);
                        warn!("port {number} is not shared with uid {uid}, which requested it as {name} ({why:?})");
                    }
                    Met::Refused { uid, why } => debug!("port {number} is not shared with uid {uid}: {why:?}"),
                }
            }
            if meeting.is_over() {
                warn!(
                    "the meeting point of port {} has been shut down: no other instance can join any more",
                    port.spec.port
                );
                port.meeting = None;
            }
        }
    }

    /// The sockets, with their ports.
    pub fn sockets(&self) -> impl Iterator<Item = (&Spec, BorrowedFd<'_>)> {
        self.ports.iter().map(|port| (&port.spec, port.socket.as_fd()))
    }
}

fn open(group: &Group, spec: &Spec) -> Option<Meeting> {
    Meeting::open(group, spec)
        .inspect_err(|error| {
            warn!(
                "port {} cannot be shared: another process answers for {} in this network ({}); another instance will have to wait",
                spec.port,
                group.name,
                words(error)
            );
        })
        .ok()
}

impl Port {
    fn revive(&mut self) {
        let socket = SockRef::from(&self.socket);
        if self.lost || self.spec.protocol == Protocol::Udp || socket.is_listener().unwrap_or(true) {
            return;
        }
        let port = self.spec.port;
        match socket.listen(QUEUE) {
            Ok(()) => info!("port {port} was shut down by an instance that shares it, and listens again"),
            Err(error) => {
                self.lost = true;
                warn!("port {port} was shut down by an instance that shares it, and is lost: {}", words(&error));
            }
        }
    }
}
