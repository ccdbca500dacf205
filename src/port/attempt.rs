//! Owns one port's socket and a single try: bind it, listen on it, or hold it without listening. Must not know policy
//! or time.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol as Transport, SockFilter, Socket, Type};

use super::spec::{Protocol, Spec};

/// The accept queue. The kernel limits it to net.core.somaxconn; musl's SOMAXCONN is only 128, and a full queue drops
/// clients' SYNs.
pub const QUEUE: i32 = i32::MAX;

/// What it means to have a port. UDP sockets do not listen, so all three are a bound socket there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It can be bound: a bound socket with SO_REUSEADDR that does not listen, and so excludes no other. The app binds
    /// by itself.
    Probe,
    /// Our socket listens, and is passed to the app.
    Listen,
    /// No other process can bind it until we release it. A spec with an address listens. A wildcard does not listen
    /// until it is known which family the app wants, and has SO_REUSEADDR off.
    Bind,
}

/// The result of a try.
#[derive(Debug)]
pub enum Tried {
    Ours,
    /// `EADDRINUSE`: the only error that waiting can resolve.
    Busy,
    /// Any other error: permission, address, descriptors.
    Never(io::Error),
}

/// The socket for one port, from the first try until the claim.
///
/// It is reused for every try. Closing a socket that was bound but failed in `listen` would wake our own subscription,
/// and reusing one that was not bound saves the next try two system calls.
#[derive(Debug)]
pub struct Attempt {
    spec: Spec,
    /// An explicit `[::]` beside an explicit IPv4 address on the same port: IPv6 only, or the two would exclude each
    /// other.
    v6_only: bool,
    hold: Hold,
    socket: Option<(SocketAddr, Socket)>,
    bound: bool,
    /// Bound beside sockets with SO_REUSEADDR that may be other instances' attempts: only `listen` decides.
    undecided: bool,
    listening: bool,
    /// Tries so far.
    pub tries: u32,
}

impl Attempt {
    /// A [`Hold::Probe`].
    pub fn new(spec: &Spec, v6_only: bool) -> Self {
        Self::to(Hold::Probe, spec, v6_only)
    }

    pub fn to(hold: Hold, spec: &Spec, v6_only: bool) -> Self {
        Self {
            spec: spec.clone(),
            v6_only,
            hold,
            socket: None,
            bound: false,
            undecided: false,
            listening: false,
            tries: 0,
        }
    }

    /// Tries once to do what its [`Hold`] means.
    pub fn acquire(&mut self) -> Tried {
        match self.hold {
            Hold::Probe => self.bind(),
            Hold::Bind if self.is_silent() => self.hold(),
            Hold::Listen | Hold::Bind => self.listen(),
        }
    }

    /// Binds without listening, so that no client is accepted and then reset.
    ///
    /// SO_REUSEADDR ignores the TIME_WAIT of a server that had set it too, but no listener. Never SO_REUSEPORT: a
    /// second instance of the same user would share the port unnoticed. A UDP socket gets neither, because there
    /// SO_REUSEADDR shares the port as well. A port to be held without listening is first tried without it: then no
    /// other process has bound the port, or can.
    pub fn bind(&mut self) -> Tried {
        if self.bound {
            return Tried::Ours;
        }
        self.tries = self.tries.saturating_add(1);
        let candidates = self.spec.candidates();
        for (position, address) in candidates.iter().enumerate() {
            match self.bind_to(*address).and_then(|()| self.pin(*address)) {
                Ok(()) => {
                    self.bound = true;
                    return Tried::Ours;
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Tried::Busy,
                // IPv6 is disabled on the host: the wildcard is the IPv4 one.
                Err(error) if no_such_family(&error) && position + 1 < candidates.len() => {}
                Err(error) => return Tried::Never(error),
            }
        }
        Tried::Never(io::ErrorKind::AddrNotAvailable.into())
    }

    /// Binds and listens, with the largest backlog: clients queue in it until the app accepts. Two sockets with
    /// SO_REUSEADDR can both be bound; only `listen` decides which one gets the port.
    pub fn listen(&mut self) -> Tried {
        let bound = self.bound;
        match self.bind() {
            Tried::Ours if self.listening || self.spec.protocol == Protocol::Udp => return Tried::Ours,
            Tried::Ours => {}
            other => return other,
        }
        self.tries = self.tries.saturating_add(u32::from(bound));
        let Some((_, socket)) = &self.socket else { return Tried::Busy };
        let result = socket.listen(QUEUE);
        self.listening = result.is_ok();
        self.listened(result)
    }

    /// Binds exclusively, without listening.
    fn hold(&mut self) -> Tried {
        match self.bind() {
            Tried::Ours if self.undecided => self.decide(),
            other => other,
        }
    }

    /// Of several bound sockets with SO_REUSEADDR on a port, one may listen. SO_REUSEADDR is cleared while this one
    /// does. From then on the others cannot listen, even after this one has stopped listening, and no new socket can be
    /// bound. It also makes older kernels forget that all sockets on this port had SO_REUSEADDR (`tb->fastreuse` in
    /// net/ipv4/inet_connection_sock.c), which would let new sockets pass unchecked.
    fn decide(&mut self) -> Tried {
        let Some((_, socket)) = &self.socket else { return Tried::Busy };
        // A client that connected now would be reset. If its SYN is dropped, it retries a second later and is refused,
        // as it should be.
        let filtered = socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)]);
        let decided = socket.listen(1).and_then(|()| {
            socket.set_reuse_address(false)?;
            socket.shutdown(Shutdown::Read)
        });
        if filtered.is_ok() {
            let _ = socket.detach_filter();
        }
        if decided.is_ok() {
            self.undecided = false;
        }
        self.listened(decided)
    }

    fn listened(&mut self, result: io::Result<()>) -> Tried {
        match result {
            Ok(()) => Tried::Ours,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if self.spec.port == 0 {
                    // Another process was faster on the port that the kernel chose; the next try may get any other.
                    self.release();
                }
                Tried::Busy
            }
            Err(error) => Tried::Never(error),
        }
    }

    /// Takes a socket that another instance has created, bound and listening like this attempt's own.
    pub fn adopt(&mut self, socket: OwnedFd) {
        let socket = Socket::from(socket);
        let address = socket.local_addr().ok().and_then(|bound| bound.as_socket());
        self.listening = self.spec.protocol == Protocol::Tcp;
        (self.bound, self.undecided) = (address.is_some(), false);
        self.socket = address.map(|address| (address, socket));
    }

    /// True if the port is held without listening.
    fn is_silent(&self) -> bool {
        self.hold == Hold::Bind && self.spec.addr.is_none() && self.spec.protocol == Protocol::Tcp
    }

    /// Releases the port.
    pub fn release(&mut self) {
        self.socket = None;
        (self.bound, self.undecided, self.listening) = (false, false, false);
    }

    /// True if we have bound the port, but another process listens on it: of two bound sockets with SO_REUSEADDR,
    /// either may listen. Not possible with UDP.
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

    /// The bound socket, its actual address and its cookie; `None` before a try has succeeded.
    pub fn into_socket(self) -> Option<(SocketAddr, OwnedFd, u64)> {
        let (_, socket) = self.socket.filter(|_| self.bound)?;
        let address = socket.local_addr().ok()?.as_socket()?;
        // Old kernels have no cookies; no socket has cookie 0.
        let cookie = socket.cookie().unwrap_or_default();
        Some((address, socket.into(), cookie))
    }

    /// The actual port once bound.
    pub fn port(&self) -> Option<u16> {
        let (_, socket) = self.socket.as_ref().filter(|_| self.bound)?;
        Some(socket.local_addr().ok()?.as_socket()?.port())
    }

    fn bind_to(&mut self, address: SocketAddr) -> io::Result<()> {
        if self.socket.as_ref().is_none_or(|(made_for, _)| *made_for != address) {
            self.socket = Some((address, self.make(address)?));
            self.undecided = false;
        }
        let Some((_, socket)) = &self.socket else { return Ok(()) };
        match socket.bind(&address.into()) {
            // Another socket is bound to it, or a server left a TIME_WAIT: with SO_REUSEADDR the bind may succeed.
            Err(error) if self.is_silent() && !self.undecided && error.kind() == io::ErrorKind::AddrInUse => {
                socket.set_reuse_address(true)?;
                self.undecided = true;
                socket.bind(&address.into())
            }
            other => other,
        }
    }

    /// The kernel releases a port of its own choice as soon as the socket stops listening (`SOCK_BINDPORT_LOCK`,
    /// net/ipv4/af_inet.c). To hold the port through that, a second socket is bound to its number, beside the first.
    fn pin(&mut self, address: SocketAddr) -> io::Result<()> {
        if self.hold != Hold::Bind || self.spec.port != 0 || self.spec.protocol == Protocol::Udp {
            return Ok(());
        }
        // If this fails, the next try must take another port.
        let Some((_, first)) = self.socket.take() else { return Ok(()) };
        let chosen = first.local_addr()?.as_socket().map_or(0, |bound| bound.port());
        first.set_reuse_address(true)?;
        let second = self.make(address)?;
        second.set_reuse_address(true)?;
        second.bind(&SocketAddr::new(address.ip(), chosen).into())?;
        self.socket = Some((address, second));
        self.undecided = true;
        Ok(())
    }

    fn make(&self, address: SocketAddr) -> io::Result<Socket> {
        if self.spec.protocol == Protocol::Tcp && !self.is_silent() {
            return stream(address, self.v6_only);
        }
        let (kind, transport) = match self.spec.protocol {
            Protocol::Tcp => (Type::STREAM, Transport::TCP),
            Protocol::Udp => (Type::DGRAM, Transport::UDP),
        };
        unbound(address, self.v6_only, kind, transport)
    }
}

/// Whether a socket with SO_REUSEPORT can be bound there. If so, the holder has set it too, and is of the same user.
/// The socket never listens, so it gets no client, and is closed immediately.
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

/// A TCP socket that may listen at `address` later: close-on-exec, blocking, SO_REUSEADDR, and for IPv6 as `v6_only`
/// says, whatever the sysctl bindv6only is.
///
/// # Errors
/// Those of socket(2).
pub fn stream(address: SocketAddr, v6_only: bool) -> io::Result<Socket> {
    let socket = unbound(address, v6_only, Type::STREAM, Transport::TCP)?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it, and an app rarely sets it on a listening socket that it is given: without it, each
    // keep-alive response takes 44 ms instead of 0.3.
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn unbound(address: SocketAddr, v6_only: bool, kind: Type, transport: Transport) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(transport))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    Ok(socket)
}

/// `BPF_RET | BPF_K`: with 0, the packet is dropped.
const RETURN: u16 = 0x06;

fn no_such_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}
