//! Owns the way to a server: resolve, connect, send and receive, all within the deadline. Must not know HTTP or TLS.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::poll::PollFlags;
use socket2::{Domain, SockAddr, Socket, Type};

use super::deadline::{Deadline, Stopped, shown_duration};
use crate::error::words;
use crate::health::acceptor::{self, Acceptor};
use crate::health::host::{bracketed, is_here};
use crate::health::target::place::Peer;
use crate::sys::lookup;

/// A reason starts with this if nothing listens.
pub const REFUSED: &str = "connection refused";

/// A non-blocking connection.
///
/// The kubelet's dialer sets SO_LINGER to one second (pkg/probe/dialer_others.go). On Linux that does not shorten TIME_WAIT: it makes
/// close(2) wait for the peer's last ACK, even on a non-blocking socket, and no deadline covers that. A plain close sends the same FIN.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
}

/// Delay before reconnecting, if another instance accepted the connection.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(25);

/// Delay between checks whether the connection was accepted.
const FIRST_LOOK: Duration = Duration::from_micros(200);
const LAST_LOOK: Duration = Duration::from_millis(5);

/// Why a transfer failed.
#[derive(Debug)]
pub enum Broken {
    /// The deadline has passed.
    Timeout,
    /// What happened; the step at which it happened is appended.
    Error(String),
    /// A complete reason, with what helps.
    #[cfg(feature = "tls")]
    Explained(String),
}

/// How much is read of what a server sends unprompted. Bytes.
const MAX_GREETING: usize = 10 * 1024;

impl Broken {
    /// The reason for the user. `doing` names the step that failed.
    pub fn words(self, doing: &str, deadline: Deadline) -> String {
        match self {
            Self::Timeout => format!("timed out after {} while {doing}", shown_duration(deadline.total())),
            Self::Error(why) => format!("{why} while {doing}"),
            #[cfg(feature = "tls")]
            Self::Explained(why) => why,
        }
    }
}

impl From<Stopped> for Broken {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Timeout => Self::Timeout,
            Stopped::Failed(errno) => Self::Error(errno.desc().to_lowercase()),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Error(words(&error))
    }
}

impl Wire {
    /// Connects to the first address of `host` that accepts. Returns that address too.
    ///
    /// # Errors
    /// The first address' reason: the others are only alternatives.
    pub fn tcp(host: &str, port: u16, deadline: Deadline) -> Result<(Self, SocketAddr), String> {
        let addresses = addresses(host, port, deadline)?;
        // Each address gets a share of the time, so that a silent first one leaves time for the second.
        let share = deadline.total() / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut first = None;
        for address in addresses {
            match connect(address, deadline.capped(share)) {
                Ok(socket) => return Ok((Self { socket }, address)),
                Err(reason) => first = first.or(Some(reason)),
            }
            if deadline.remaining().is_zero() {
                break;
            }
        }
        Err(first.unwrap_or_else(|| format!("{host} has no address")))
    }

    /// The same. With `own`, the pid of a `run` that shares its port, only a connection that its app accepted counts: any other is closed
    /// and replaced until the deadline.
    pub fn tcp_to(host: &str, port: u16, deadline: Deadline, own: Option<i32>) -> Result<(Self, SocketAddr), String> {
        let Some(root) = own else { return Self::tcp(host, port, deadline) };
        let time = shown_duration(deadline.total());
        let others = format!(
            "only other instances that share the port (--share) answered within {time}, never this run's own app"
        );
        let mut pause = FIRST_PAUSE;
        let mut first = true;
        loop {
            // At the deadline `tcp` itself times out, but that is not the cause.
            let (wire, address) = match Self::tcp(host, port, deadline) {
                Ok(connected) => connected,
                Err(reason) => return Err(if first { reason } else { others }),
            };
            match wire.acceptor(address, root, deadline) {
                Acceptor::Own | Acceptor::Unknown => return Ok((wire, address)),
                Acceptor::NotYet if first => {
                    return Err(format!(
                        "connected, and no instance that shares the port (--share) has accepted within {time}"
                    ));
                }
                Acceptor::Other if !deadline.remaining().is_zero() => {}
                Acceptor::NotYet | Acceptor::Other => return Err(others),
            }
            // Not immediately: each attempt costs the other instance a client that sends nothing.
            drop(wire);
            deadline.capped(pause).sleep();
            pause = (pause * 2).min(LAST_PAUSE);
            first = false;
        }
    }

    /// Connects to `peer`. Returns the address, if it has one.
    pub fn to(peer: &Peer, deadline: Deadline, own: Option<i32>) -> Result<(Self, Option<SocketAddr>), String> {
        match peer {
            Peer::Host(host, port) => {
                Self::tcp_to(host, *port, deadline, own).map(|(wire, address)| (wire, Some(address)))
            }
            Peer::Socket(socket) => Self::unix(socket, deadline).map(|wire| (wire, None)),
        }
    }

    /// Waits until the connection is accepted. Returns by whom.
    fn acceptor(&self, address: SocketAddr, root: i32, deadline: Deadline) -> Acceptor {
        let Some(here) = self.socket.local_addr().ok().and_then(|here| here.as_socket()) else {
            return Acceptor::Unknown;
        };
        let mut pause = FIRST_LOOK;
        loop {
            match acceptor::acceptor(here, address, root) {
                Acceptor::NotYet if !deadline.remaining().is_zero() => deadline.capped(pause).sleep(),
                by => return by,
            }
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Connects to a Unix socket; `@name` is an abstract one.
    pub fn unix(path: &Path, deadline: Deadline) -> Result<Self, String> {
        let name = path.as_os_str().as_bytes();
        // An abstract name starts with a NUL (unix(7)).
        let name = name.strip_prefix(b"@").map(|name| [b"\0", name].concat());
        let address = SockAddr::unix(name.as_deref().map_or(path, |name| Path::new(OsStr::from_bytes(name))))
            .map_err(|_| "the path of a unix socket has at most 107 bytes".to_owned())?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(|error| words(&error))?;
        // If the backlog is full, a non-blocking connect(2) fails with EAGAIN, and poll(2) cannot wait for room. Only a blocking connect
        // waits, limited by the send timeout (unix(7)). Zero would mean no limit.
        let limit = deadline.remaining().max(Duration::from_millis(1));
        let connected = socket
            .set_write_timeout(Some(limit))
            .and_then(|()| socket.connect(&address))
            .and_then(|()| socket.set_nonblocking(true));
        match connected {
            Ok(()) => Ok(Self { socket }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(format!(
                "no connection within {}: the backlog of the socket is full",
                shown_duration(deadline.total())
            )),
            Err(error) => Err(match error.raw_os_error() {
                Some(libc::ECONNREFUSED) => "connection refused: no process listens on this socket any more".to_owned(),
                Some(libc::ENOENT) => "there is no such socket".to_owned(),
                _ => words(&error),
            }),
        }
    }

    /// Sends all of `bytes`.
    pub fn send(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<(), Broken> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) => self.pause(error, PollFlags::POLLOUT, deadline)?,
            }
        }
        Ok(())
    }

    /// Receives at least one byte, or 0 at EOF.
    pub fn receive(&mut self, buffer: &mut [u8], deadline: Deadline) -> Result<usize, Broken> {
        // The response has rarely arrived yet, so poll first.
        self.wait(PollFlags::POLLIN, deadline)?;
        loop {
            match self.socket.read(buffer) {
                Ok(received) => return Ok(received),
                Err(error) => self.pause(error, PollFlags::POLLIN, deadline)?,
            }
        }
    }

    /// Sends FIN, and discards what the peer still sends until it closes too.
    pub fn close(&mut self, deadline: Deadline) {
        let mut buffer = [0; 1024];
        if self.socket.shutdown(Shutdown::Write).is_ok() {
            // Limited, so that a flood ends before the deadline does.
            for _ in 0..MAX_GREETING / buffer.len() {
                if !self.receive(&mut buffer, deadline).is_ok_and(|size| size > 0) {
                    return;
                }
            }
        }
    }

    /// Waits until the socket is ready for `flags`.
    pub fn wait(&self, flags: PollFlags, deadline: Deadline) -> Result<(), Broken> {
        Ok(deadline.wait(self.socket.as_fd(), flags)?)
    }

    /// For TLS, which reads and writes itself.
    #[cfg(feature = "tls")]
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn pause(&self, error: io::Error, flags: PollFlags, deadline: Deadline) -> Result<(), Broken> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => self.wait(flags, deadline),
            _ => Err(error.into()),
        }
    }
}

/// One connect. The error is worded for the user.
fn connect(address: SocketAddr, deadline: Deadline) -> Result<Socket, String> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => format!("{REFUSED}: nothing listens on {address}"),
        _ => format!("{address}: {}", words(&error)),
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None).map_err(failed)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            match deadline.wait(socket.as_fd(), PollFlags::POLLOUT) {
                Ok(()) => {}
                Err(Stopped::Timeout) => {
                    return Err(format!(
                        "no connection to {address} within {}: its backlog is full, or packets are dropped",
                        shown_duration(deadline.total())
                    ));
                }
                Err(Stopped::Failed(errno)) => return Err(errno.desc().to_lowercase()),
            }
            if let Some(error) = socket.take_error().map_err(failed)? {
                return Err(failed(error));
            }
        }
        Err(error) => return Err(failed(error)),
    }
    // The kernel may choose the destination port as our source port, and TCP then connects the socket to itself (simultaneous open).
    if socket.local_addr().ok().and_then(|local| local.as_socket()) == Some(address) {
        return Err(format!("{REFUSED}: nothing listens on {address}"));
    }
    Ok(socket)
}

/// The addresses of a host. `localhost` and the wildcards are resolved here: 127.0.0.1 first, then `::1`, where a resolver may order
/// them differently (musl returns `::1` first).
fn addresses(host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, String> {
    let at = |address: IpAddr| SocketAddr::new(address, port);
    if is_here(host) {
        return Ok(vec![at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into())]);
    }
    if let Some((address, zone)) = host.split_once('%') {
        let address: Ipv6Addr = address.parse().map_err(|_| format!("{host} is not an IPv6 address with a zone"))?;
        // The zone may be an interface number.
        let scope = if_nametoindex(zone).ok().or_else(|| zone.parse().ok());
        let scope = scope.ok_or_else(|| format!("there is no interface {zone} here"))?;
        return Ok(vec![SocketAddrV6::new(address, port, 0, scope).into()]);
    }
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![at(address)]),
        Err(_) => match lookup::addresses(host, deadline.end()) {
            Ok(found) if found.is_empty() => Err(format!("the name {} has no address", bracketed(host))),
            Ok(found) => Ok(found.into_iter().map(at).collect()),
            Err(lookup::Failed::Timeout) => {
                Err(format!("the name {host} was not resolved within {}", shown_duration(deadline.total())))
            }
            Err(lookup::Failed::Error(why)) => Err(format!("the name {host} cannot be resolved: {why}")),
        },
    }
}

/// The first address of a name.
pub fn resolve(name: &str, deadline: Deadline) -> Result<IpAddr, String> {
    let found = addresses(name, 0, deadline)?;
    found.first().map(SocketAddr::ip).ok_or_else(|| format!("the name {name} has no address"))
}
