//! Owns the sockets of claimed TCP ports while they answer the app's own bind(2): which socket matches a bind, and
//! keeping the port from other processes meanwhile. Must not know which process binds, or how a socket gets into the
//! app.
//!
//! A socket of ours lets another one be bound to the port by having SO_REUSEADDR on and not listening. Between that and
//! the new socket's listen(2), for some microseconds, another process that binds and listens can take the port: the
//! kernel has no way to do both atomically. At any other time it cannot.

mod at;
mod place;

pub use at::Want;

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::Socket;

use self::at::{At, Plan, Role, is_redundant, plan};
use self::place::Place;
use super::attempt::{QUEUE, stream};
use super::claim::Claim;
use super::holder;
use super::spec::Protocol;
use crate::sys::descriptor;

/// A listening socket that matches an app's bind(2).
#[derive(Debug)]
pub struct Given<'a> {
    pub socket: BorrowedFd<'a>,
    pub inode: u64,
    /// How many queued clients were reset on a listener that had to make room for this one.
    pub reset: u32,
    /// Other instances may have the same socket, and serve on it.
    pub shared: bool,
}

/// One socket of ours.
#[derive(Debug)]
struct Kept {
    /// The position of the claim it belongs to.
    index: usize,
    port: u16,
    at: At,
    role: Role,
    inode: u64,
    socket: Socket,
}

/// The sockets of claimed ports. An index is the position of a claim in the list that was passed to [`Held::new`].
#[derive(Debug)]
pub struct Held {
    /// `None`: not TCP.
    places: Vec<Option<Place>>,
    sockets: Vec<Kept>,
    /// Other instances have the same sockets: none may stop listening, and no app gets a new one.
    shared: bool,
}

impl Held {
    /// Takes the claims' sockets, made with [`super::attempt::Hold::Bind`]. UDP sockets are closed: the app binds those
    /// ports by itself.
    ///
    /// # Errors
    /// A socket's address cannot be read.
    pub fn new(claims: Vec<Claim>) -> io::Result<Self> {
        let mut held = Self { places: Vec::new(), sockets: Vec::new(), shared: false };
        for (index, claim) in claims.into_iter().enumerate() {
            let tcp = claim.spec.protocol == Protocol::Tcp;
            held.places.push(tcp.then(|| Place::new(&claim.spec, claim.port)));
            if tcp {
                held.sockets.push(Kept::from_claim(index, claim)?);
            }
        }
        Ok(held)
    }

    /// The same for sockets that other instances have too.
    pub fn shared(self) -> Self {
        Self { shared: true, ..self }
    }

    /// The index of the port that a bind to `port` at `want` is for: one that was claimed, one that was configured and
    /// replaced by a fallback, or any free one if the app binds 0 and the spec was 0. `None`: the bind does not concern
    /// us. If it is unknown whether an IPv6 wildcard is IPv6-only, assume that it is not.
    ///
    /// An app that binds port 0 may have our port already and want another one. Only then `has` is called: whether the
    /// app has the socket with this inode open.
    pub fn leads_to(&self, port: u16, want: &Want, has: &mut dyn FnMut(u64) -> bool) -> Option<usize> {
        let held = |port: u16| self.holds(port);
        let mut had = |index: usize| {
            let mut given = self.sockets.iter().filter(|kept| kept.index == index && kept.role == Role::Given);
            given.any(|kept| has(kept.inode))
        };
        place::leads_to(&self.places, port, At::of(*want), &held, &mut had)
    }

    /// The listening socket that matches the app's bind on the port of `index`, an existing or a new one; it counts as
    /// given from then on. If the app already has a socket that covers what it binds, that is the one.
    ///
    /// `has` returns whether the app has the socket with this inode open. It is called for given sockets that are in
    /// the way.
    ///
    /// # Errors
    /// What bind(2) returns to the app: an address that this host does not have, that another process has, or that
    /// excludes another socket of the app. `NotFound`: the port was released.
    pub fn socket_for(&mut self, index: usize, want: &Want, has: &mut dyn FnMut(u64) -> bool) -> io::Result<Given<'_>> {
        let port = self.port(index).filter(|port| self.holds(*port)).ok_or(io::ErrorKind::NotFound)?;
        let inodes: Vec<u64> = self.on(port).map(|kept| kept.inode).collect();
        let inode_of = |position: usize| inodes.get(position).copied().unwrap_or_default();
        let planned = if self.shared {
            at::plan_shared(At::of(*want), &self.roles(port))
        } else {
            plan(At::of(*want), &self.roles(port), &mut |position| has(inode_of(position)))
        };
        let (inode, reset) = match planned {
            Plan::InUse => return Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
            Plan::Take(position) => {
                // The app may have shut it down.
                self.listen_again(inode_of(position))?;
                (inode_of(position), 0)
            }
            Plan::Make(at, aside) => {
                let aside: Vec<u64> = aside.into_iter().map(inode_of).collect();
                let socket = stream(at.with_port(port), at.v6_only())?;
                self.with_room(port, |held| held.make((index, port), at, socket, &aside))?
            }
        };
        let kept = self.sockets.iter_mut().find(|kept| kept.inode == inode).ok_or(io::ErrorKind::NotFound)?;
        kept.role = Role::Given;
        Ok(Given { socket: kept.socket.as_fd(), inode, reset, shared: self.shared })
    }

    /// The index of the port whose socket with this inode the app was given.
    pub fn find(&self, inode: u64) -> Option<usize> {
        self.sockets.iter().find(|kept| kept.inode == inode && kept.role == Role::Given).map(|kept| kept.index)
    }

    /// Listens on a socket of ours with the largest backlog: for an app that calls listen(2), or whose shutdown(2)
    /// stopped it from listening.
    ///
    /// # Errors
    /// `EADDRINUSE`: it was not listening, and another process has the port now. `NotFound`: it is not ours.
    pub fn listen_again(&mut self, inode: u64) -> io::Result<()> {
        let port = self.listener(inode)?.port;
        match self.listener(inode)?.socket.listen(QUEUE) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                self.with_room(port, |held| held.listener(inode)?.socket.listen(QUEUE))
            }
            other => other,
        }
    }

    /// The inodes of the sockets that the app was given.
    pub fn inodes(&self) -> impl Iterator<Item = u64> {
        self.sockets.iter().filter(|kept| kept.role == Role::Given).map(|kept| kept.inode)
    }

    /// Releases the port of `index`. The app keeps what it was given, and binds by itself from now on.
    pub fn release(&mut self, index: usize) {
        if let Some(port) = self.port(index) {
            self.sockets.retain(|kept| kept.port != port);
        }
    }

    /// Releases all ports.
    pub fn release_all(&mut self) {
        self.sockets.clear();
    }

    /// Whether we have a socket on this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.on(port).next().is_some()
    }

    /// The port of this index; `None`: not TCP.
    pub fn port(&self, index: usize) -> Option<u16> {
        Some(self.places.get(index)?.as_ref()?.port)
    }

    fn holds(&self, port: u16) -> bool {
        self.on(port).next().is_some()
    }

    fn on(&self, port: u16) -> impl Iterator<Item = &Kept> {
        self.sockets.iter().filter(move |kept| kept.port == port)
    }

    fn roles(&self, port: u16) -> Vec<(At, Role)> {
        self.on(port).map(|kept| (kept.at, kept.role)).collect()
    }

    fn listener(&self, inode: u64) -> io::Result<&Kept> {
        let mut listeners = self.sockets.iter().filter(|kept| kept.role != Role::Silent);
        listeners.find(|kept| kept.inode == inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Runs `act` while the silent sockets on `port` exclude no other socket, then closes those that are no longer
    /// needed.
    fn with_room<T>(&mut self, port: u16, act: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        self.reuse_silent(port, true);
        let result = act(self);
        let there = self.roles(port);
        self.sockets.retain(|kept| kept.port != port || kept.role != Role::Silent || !is_redundant(kept.at, &there));
        self.reuse_silent(port, false);
        result
    }

    /// A listener keeps SO_REUSEADDR: its connections inherit it, and a TIME_WAIT without it would block the next
    /// instance for a minute.
    fn reuse_silent(&self, port: u16, on: bool) {
        for kept in self.on(port).filter(|kept| kept.role == Role::Silent) {
            let _ = kept.socket.set_reuse_address(on);
        }
    }

    /// Makes `socket` a listener at `at`; the listeners `aside` make room if necessary. Returns its inode, and how many
    /// clients were reset.
    fn make(&mut self, (index, port): (usize, u16), at: At, socket: Socket, aside: &[u64]) -> io::Result<(u64, u32)> {
        let address = at.with_port(port).into();
        let mut put_aside = Vec::new();
        let mut reset = 0;
        let bound = match socket.bind(&address) {
            // An address that is not available has been refused by now: no client is reset for that.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && !aside.is_empty() => {
                (put_aside, reset) = self.put_aside(aside);
                socket.bind(&address)
            }
            other => other,
        };
        match bound.and_then(|()| socket.listen(QUEUE)).and_then(|()| with_inode(socket)) {
            Ok((socket, inode)) => {
                self.sockets.push(Kept { index, port, at, role: Role::Ready, inode, socket });
                Ok((inode, reset))
            }
            Err(error) => {
                self.put_back(&put_aside);
                Err(error)
            }
        }
    }

    /// Stops these listeners without releasing their ports. Returns their previous roles, and how many clients were
    /// queued.
    fn put_aside(&mut self, inodes: &[u64]) -> (Vec<(u64, Role)>, u32) {
        let mut before = Vec::new();
        let mut clients = 0u32;
        for kept in self.sockets.iter_mut().filter(|kept| inodes.contains(&kept.inode)) {
            clients = clients.saturating_add(holder::accept_queue(kept.port, kept.inode).unwrap_or_default());
            // ENOTCONN: the app had shut it down before closing it.
            let _ = kept.socket.shutdown(Shutdown::Read);
            before.push((kept.inode, kept.role));
            kept.role = Role::Silent;
        }
        (before, clients)
    }

    fn put_back(&mut self, before: &[(u64, Role)]) {
        for kept in &mut self.sockets {
            if let Some((_, role)) = before.iter().find(|(inode, _)| *inode == kept.inode)
                && kept.socket.listen(QUEUE).is_ok()
            {
                kept.role = *role;
            }
        }
    }
}

impl Kept {
    fn from_claim(index: usize, claim: Claim) -> io::Result<Self> {
        let (socket, inode) = with_inode(claim.socket.into())?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (scope_id, v6_only) = match address {
            SocketAddr::V4(_) => (0, false),
            SocketAddr::V6(address) => (address.scope_id(), socket.only_v6()?),
        };
        let at = At::of(Want { ip: address.ip(), scope_id, v6_only });
        let role = if socket.is_listener()? { Role::Ready } else { Role::Silent };
        Ok(Self { index, port: address.port(), at, role, inode, socket })
    }
}

/// The socket with its inode, which identifies it in the kernel's tables.
fn with_inode(socket: Socket) -> io::Result<(Socket, u64)> {
    let socket: OwnedFd = socket.into();
    let inode = descriptor::inode(&socket).ok_or(io::ErrorKind::NotFound)?;
    Ok((socket.into(), inode))
}
