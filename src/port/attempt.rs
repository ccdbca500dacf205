//! Owns one port's socket and the single try at it: bind, and listen where the socket is handed over. Must not know policy or time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol as Transport, Socket, Type};

use super::spec::{Protocol, Spec};

/// How a try ended.
#[derive(Debug)]
pub enum Tried {
    Ours,
    /// `EADDRINUSE`: the only answer that waiting can change.
    Busy,
    /// Anything else: permission, address, descriptors.
    Never(io::Error),
}

/// The socket for one port, between the first try and the claim.
///
/// It is kept from try to try: one that bound and lost at `listen` would wake its own subscription if it were closed, and one that
/// did not bind saves the next try two syscalls.
#[derive(Debug)]
pub struct Attempt {
    spec: Spec,
    /// An explicit `[::]` beside an explicit IPv4 address on the same port: it takes IPv6 only, or the two would exclude each other.
    v6_only: bool,
    socket: Option<(SocketAddr, Socket)>,
    bound: bool,
    listening: bool,
    /// Tries so far.
    pub tries: u32,
}

impl Attempt {
    pub fn new(spec: &Spec, v6_only: bool) -> Self {
        Self { spec: spec.clone(), v6_only, socket: None, bound: false, listening: false, tries: 0 }
    }

    /// Binds with SO_REUSEADDR and without listening, so that no client can be accepted and then reset.
    ///
    /// SO_REUSEADDR passes the TIME_WAIT of a server that had it too, and nothing that listens. Never SO_REUSEPORT: a second
    /// instance of the same user would share the port in silence. UDP gets neither, since there SO_REUSEADDR shares as well.
    pub fn bind(&mut self) -> Tried {
        if self.bound {
            return Tried::Ours;
        }
        self.tries = self.tries.saturating_add(1);
        let candidates = self.spec.candidates();
        for (position, address) in candidates.iter().enumerate() {
            match self.bind_to(*address) {
                Ok(()) => {
                    self.bound = true;
                    return Tried::Ours;
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Tried::Busy,
                // The host has IPv6 switched off: the wildcard is then the IPv4 one.
                Err(error) if no_such_family(&error) && position + 1 < candidates.len() => {}
                Err(error) => return Tried::Never(error),
            }
        }
        Tried::Never(io::ErrorKind::AddrNotAvailable.into())
    }

    /// Binds and listens, with the largest backlog there is: clients queue in it until the app accepts. Two sockets with SO_REUSEADDR both bind; only `listen` decides who has the port.
    pub fn listen(&mut self) -> Tried {
        let bound = self.bound;
        match self.bind() {
            Tried::Ours if self.listening || self.spec.protocol == Protocol::Udp => return Tried::Ours,
            Tried::Ours => {}
            other => return other,
        }
        self.tries = self.tries.saturating_add(u32::from(bound));
        let Some((_, socket)) = &self.socket else { return Tried::Busy };
        // The kernel cuts it to net.core.somaxconn; the C library's SOMAXCONN is 128 with musl, and a full queue drops its clients' SYNs.
        match socket.listen(i32::MAX) {
            Ok(()) => {
                self.listening = true;
                Tried::Ours
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if self.spec.port == 0 {
                    // Somebody was faster on the port the kernel chose; the next one may be any other.
                    self.release();
                }
                Tried::Busy
            }
            Err(error) => Tried::Never(error),
        }
    }

    /// Lets go of whatever it holds.
    pub fn release(&mut self) {
        self.socket = None;
        self.bound = false;
        self.listening = false;
    }

    /// True if the port is bound, and yet somebody else listens on it: of two silent sockets with SO_REUSEADDR either may. UDP has no such
    /// second step.
    pub fn is_lost(&self) -> bool {
        let Some((address, socket)) = self.socket.as_ref().filter(|_| self.bound && !self.listening) else {
            return false;
        };
        if self.spec.protocol == Protocol::Udp {
            return false;
        }
        let port =
            socket.local_addr().ok().and_then(|bound| bound.as_socket()).map_or(address.port(), |bound| bound.port());
        let mut second = Self::new(&self.spec.with_port(port), self.v6_only);
        matches!(second.bind(), Tried::Busy)
    }

    /// The bound socket, its real address and its cookie; `None` before a try succeeded.
    pub fn into_socket(self) -> Option<(SocketAddr, OwnedFd, u64)> {
        let (_, socket) = self.socket.filter(|_| self.bound)?;
        let address = socket.local_addr().ok()?.as_socket()?;
        // Old kernels have no cookies to ask for; 0 is nobody's.
        let cookie = socket.cookie().unwrap_or_default();
        Some((address, socket.into(), cookie))
    }

    /// The real port once bound.
    pub fn port(&self) -> Option<u16> {
        let (_, socket) = self.socket.as_ref().filter(|_| self.bound)?;
        Some(socket.local_addr().ok()?.as_socket()?.port())
    }

    fn bind_to(&mut self, address: SocketAddr) -> io::Result<()> {
        if self.socket.as_ref().is_none_or(|(made_for, _)| *made_for != address) {
            self.socket = Some((address, self.make(address)?));
        }
        match &self.socket {
            Some((_, socket)) => socket.bind(&address.into()),
            None => Ok(()),
        }
    }

    fn make(&self, address: SocketAddr) -> io::Result<Socket> {
        let (kind, transport) = match self.spec.protocol {
            Protocol::Tcp => (Type::STREAM, Transport::TCP),
            Protocol::Udp => (Type::DGRAM, Transport::UDP),
        };
        let socket = Socket::new(Domain::for_address(address), kind, Some(transport))?;
        if address.is_ipv6() {
            // Explicitly, whatever the sysctl bindv6only says.
            socket.set_only_v6(self.v6_only)?;
        }
        if self.spec.protocol == Protocol::Tcp {
            socket.set_reuse_address(true)?;
            // Accepted sockets inherit it, and an app that is handed a listening socket rarely sets it: 44 ms for each keep-alive
            // answer instead of 0.3.
            socket.set_tcp_nodelay(true)?;
        }
        Ok(socket)
    }
}

/// Whether a socket with SO_REUSEPORT can be bound there: whoever has the port has set it too, and is of the same user. The socket never
/// listens, so no client comes to it, and is closed at once.
pub fn binds_with_reuse_port(spec: &Spec) -> bool {
    let attempt = Attempt::new(spec, false);
    spec.candidates().first().is_some_and(|address| {
        let made = attempt.make(*address).and_then(|socket| {
            socket.set_reuse_port(true)?;
            socket.bind(&(*address).into())
        });
        made.is_ok()
    })
}

fn no_such_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}
