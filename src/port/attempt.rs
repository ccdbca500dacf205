//! Owns one port's socket and the single try at it: bind it, listen on it, or hold it in silence. Must not know policy or time.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol as Transport, SockFilter, Socket, Type};

use super::spec::{Protocol, Spec};

/// How many clients may wait to be accepted. The kernel cuts it to net.core.somaxconn; the C library's SOMAXCONN is 128 with musl, and a full
/// queue drops its clients' SYNs.
pub const QUEUE: i32 = i32::MAX;

/// What having a port means. UDP has no listening, so all three are a bound socket there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It can be bound: a socket in silence with SO_REUSEADDR, which is in nobody's way. The app binds by itself.
    Probe,
    /// Our socket listens, to be handed over.
    Listen,
    /// Nobody else can bind it until we let go. A spec with an address listens; a wildcard is silent until it is known which family the
    /// app wants, and then has SO_REUSEADDR off.
    Bind,
}

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
    hold: Hold,
    socket: Option<(SocketAddr, Socket)>,
    bound: bool,
    /// The port is bound beside sockets with SO_REUSEADDR that may be others' attempts: only `listen` decides.
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

    /// One try at all that its [`Hold`] means.
    pub fn acquire(&mut self) -> Tried {
        match self.hold {
            Hold::Probe => self.bind(),
            Hold::Bind if self.is_silent() => self.hold(),
            Hold::Listen | Hold::Bind => self.listen(),
        }
    }

    /// Binds without listening, so that no client can be accepted and then reset.
    ///
    /// SO_REUSEADDR passes the TIME_WAIT of a server that had it too, and nothing that listens. Never SO_REUSEPORT: a second
    /// instance of the same user would share the port in silence. UDP gets neither, since there SO_REUSEADDR shares as well. What is held in
    /// silence is tried without it first: then nobody else has bound the port or can.
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
        let result = socket.listen(QUEUE);
        self.listening = result.is_ok();
        self.listened(result)
    }

    /// Binds so that nobody else can, and does not listen.
    fn hold(&mut self) -> Tried {
        match self.bind() {
            Tried::Ours if self.undecided => self.decide(),
            other => other,
        }
    }

    /// Of several silent sockets with SO_REUSEADDR on a port one may listen. SO_REUSEADDR goes off while it does: the others cannot listen
    /// from here on, though this one is silent again at once, and nobody new can bind. It also makes older kernels forget that all sockets
    /// on this port had SO_REUSEADDR (`tb->fastreuse` in net/ipv4/inet_connection_sock.c), which would let newcomers pass unlooked at.
    fn decide(&mut self) -> Tried {
        let Some((_, socket)) = &self.socket else { return Tried::Busy };
        // A client that came in would be reset. One whose SYN is dropped asks again a second later, and is refused as it should be.
        let deaf = socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)]);
        let decided = socket.listen(1).and_then(|()| {
            socket.set_reuse_address(false)?;
            socket.shutdown(Shutdown::Read)
        });
        if deaf.is_ok() {
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
                    // Somebody was faster on the port the kernel chose; the next one may be any other.
                    self.release();
                }
                Tried::Busy
            }
            Err(error) => Tried::Never(error),
        }
    }

    /// Takes a socket that somebody else has made, bound and listening as this attempt's own would be.
    pub fn adopt(&mut self, socket: OwnedFd) {
        let socket = Socket::from(socket);
        let address = socket.local_addr().ok().and_then(|bound| bound.as_socket());
        self.listening = self.spec.protocol == Protocol::Tcp;
        (self.bound, self.undecided) = (address.is_some(), false);
        self.socket = address.map(|address| (address, socket));
    }

    /// True for what is held without listening.
    fn is_silent(&self) -> bool {
        self.hold == Hold::Bind && self.spec.addr.is_none() && self.spec.protocol == Protocol::Tcp
    }

    /// Lets go of whatever it holds.
    pub fn release(&mut self) {
        self.socket = None;
        (self.bound, self.undecided, self.listening) = (false, false, false);
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
            self.undecided = false;
        }
        let Some((_, socket)) = &self.socket else { return Ok(()) };
        match socket.bind(&address.into()) {
            // Somebody has bound it, or TIME_WAIT is left of a server: with SO_REUSEADDR it may be had all the same.
            Err(error) if self.is_silent() && !self.undecided && error.kind() == io::ErrorKind::AddrInUse => {
                socket.set_reuse_address(true)?;
                self.undecided = true;
                socket.bind(&address.into())
            }
            other => other,
        }
    }

    /// A port of the kernel's choice is let go as soon as its socket ceases to listen (`SOCK_BINDPORT_LOCK`, net/ipv4/af_inet.c). One that
    /// is to be held through that is bound again by its number, beside the first.
    fn pin(&mut self, address: SocketAddr) -> io::Result<()> {
        if self.hold != Hold::Bind || self.spec.port != 0 || self.spec.protocol == Protocol::Udp {
            return Ok(());
        }
        // Where this fails the next try is to take another port.
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

/// A TCP socket that may come to listen at `address`: close-on-exec, blocking, SO_REUSEADDR, and for IPv6 as `v6_only` says, whatever the
/// sysctl bindv6only does.
///
/// # Errors
/// Those of socket(2).
pub fn stream(address: SocketAddr, v6_only: bool) -> io::Result<Socket> {
    let socket = unbound(address, v6_only, Type::STREAM, Transport::TCP)?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it, and an app that is handed a listening socket rarely sets it: 44 ms for each keep-alive answer instead of
    // 0.3.
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

/// `BPF_RET | BPF_K`: with 0, no byte of the packet is let through.
const RETURN: u16 = 0x06;

fn no_such_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}
