//! Owns the requester's side: it requests a port from an instance of the group, and checks all that it receives. Must
//! not know what an answer leads to.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use socket2::{Domain, Protocol as Transport, SockRef, Type};

use super::message::{About, Bad, Container, Message, SIZE, Side};
use super::{Group, PATIENCE};
use crate::error::words;
use crate::port::group::place;
use crate::port::spec::{Protocol, Spec};
use crate::sys::descriptor::wait_readable;
use crate::sys::passing;

/// How often `interrupted` is called during a request.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What was received, checked.
#[derive(Debug)]
pub struct Received {
    /// Bound to the requested port; TCP: it listens.
    pub socket: OwnedFd,
    /// The meeting point's socket.
    pub meeting: OwnedFd,
    /// When the provider claimed the port, in seconds since 1970.
    pub since: u64,
    pub container: Container,
    pub uid: u32,
}

/// The result of a request.
#[derive(Debug)]
pub enum Answer {
    Received(Box<Received>),
    /// No instance of the group has the port.
    Nobody,
    /// An instance has it and refuses, for this reason.
    Refused(String),
    /// `interrupted` returned true.
    Interrupted,
}

/// Makes one request. It takes some 0.3 ms, and at most [`PATIENCE`] if the peer is silent; meanwhile `interrupted` is
/// called every few milliseconds.
pub fn request(group: &Group, spec: &Spec, container: Container, interrupted: &mut dyn FnMut() -> bool) -> Answer {
    let name = place(&group.name, spec);
    let socket = match passing::connect_to(&name) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => return Answer::Nobody,
        Err(error) => return Answer::Refused(words(&error)),
    };
    let mut request = Request { group, spec, name: &name, socket, until: Instant::now() + PATIENCE, interrupted };
    request.exchange(container).unwrap_or_else(|answer| answer)
}

struct Request<'a> {
    group: &'a Group,
    spec: &'a Spec,
    name: &'a [u8],
    socket: OwnedFd,
    until: Instant,
    interrupted: &'a mut dyn FnMut() -> bool,
}

impl Request<'_> {
    fn exchange(&mut self, container: Container) -> Result<Answer, Answer> {
        let refused = |error: io::Error| Answer::Refused(words(&error));
        let uid = passing::peer_uid(self.socket.as_fd()).map_err(refused)?;
        let secret = self.group.secret.as_ref();
        if secret.is_none() && uid != nix::unistd::geteuid().as_raw() {
            return Err(Answer::Refused(format!(
                "uid {uid} has its name and is a different user; give all instances one --user, or one --share-secret-file"
            )));
        }
        let requester = passing::random().map_err(refused)?;
        let (port, udp) = (self.spec.port, self.spec.protocol == Protocol::Udp);
        self.send(&Message::Hello { nonce: requester, port, udp, secret: secret.is_some(), container })?;
        let (Message::Challenge { nonce: provider }, _) = self.receive()? else { return Err(malformed()) };
        let about = About { name: &self.group.name, spec: self.spec, requester: &requester, provider: &provider };
        self.send(&Message::Prove { proof: about.proof(secret, Side::Requester) })?;
        let (Message::Grant { proof, since, container }, fds) = self.receive()? else { return Err(malformed()) };
        if !about.proves(&proof, secret, Side::Provider) {
            return Err(Answer::Refused("it does not know the secret of --share-secret-file".to_owned()));
        }
        // Dropping the rest closes it: an extra copy of a listener that no process serves would swallow clients.
        let [socket, meeting]: [OwnedFd; 2] = fds.try_into().map_err(|_| malformed())?;
        self.check(&socket, &meeting)
            .map_err(|why| Answer::Refused(format!("the socket it gave is not the port: {why}")))?;
        Ok(Answer::Received(Box::new(Received { socket, meeting, since, container, uid })))
    }

    fn send(&self, message: &Message) -> Result<(), Answer> {
        passing::send(self.socket.as_fd(), &message.bytes(), &[]).map_err(|_| gone())
    }

    fn receive(&mut self) -> Result<(Message, Vec<OwnedFd>), Answer> {
        let mut buffer = [0; SIZE + 1];
        loop {
            match passing::receive(self.socket.as_fd(), &mut buffer) {
                Ok(Some((0, _))) | Err(_) => return Err(gone()),
                Ok(Some((size, fds))) => {
                    return match Message::parse(buffer.get(..size).unwrap_or_default()) {
                        Ok(Message::Refused(why)) => Err(Answer::Refused(why.words().to_owned())),
                        Ok(message) => Ok((message, fds)),
                        Err(Bad::Version) => Err(Answer::Refused(super::message::Refusal::Version.words().to_owned())),
                        Err(Bad::Form) => Err(malformed()),
                    };
                }
                Ok(None) => {}
            }
            let now = Instant::now();
            if now >= self.until {
                return Err(Answer::Refused(format!("it has not answered within {PATIENCE:?}")));
            }
            if (self.interrupted)() {
                return Err(Answer::Interrupted);
            }
            let mut one = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            wait_readable(&mut one, Some((now + POLL_INTERVAL).min(self.until)));
        }
    }

    /// Only what the kernel reports about the received sockets is trusted.
    fn check(&self, socket: &OwnedFd, meeting: &OwnedFd) -> Result<(), &'static str> {
        let here = SockRef::from(socket);
        let (kind, transport) = match self.spec.protocol {
            Protocol::Tcp => (Type::STREAM, Transport::TCP),
            Protocol::Udp => (Type::DGRAM, Transport::UDP),
        };
        if here.r#type().ok() != Some(kind) || here.protocol().ok() != Some(Some(transport)) {
            return Err("it has another protocol");
        }
        if self.spec.protocol == Protocol::Tcp && !here.is_listener().is_ok_and(|listens| listens) {
            return Err("it does not listen");
        }
        let bound = here.local_addr().ok().and_then(|bound| bound.as_socket()).ok_or("it has no address")?;
        if bound.port() != self.spec.port {
            return Err("it is bound to another port");
        }
        let asked = self.spec.addr.filter(|addr| !addr.is_unspecified());
        let fits = |addr: IpAddr| asked.map_or(addr.is_unspecified(), |asked| asked == addr);
        if !fits(bound.ip()) {
            return Err("it is bound to another address");
        }
        if !self.is_of_this_network(socket.as_fd()) {
            return Err("it is in another network namespace");
        }
        let meeting = SockRef::from(meeting);
        let named = meeting.local_addr().ok().and_then(|name| name.as_abstract_namespace().map(<[u8]>::to_vec));
        if meeting.domain().ok() != Some(Domain::UNIX)
            || !meeting.is_listener().is_ok_and(|listens| listens)
            || named.as_deref() != Some(self.name)
        {
            return Err("its meeting point is not valid");
        }
        // O_NONBLOCK is shared by all instances, and another one may accept first: a blocking accept(2) would then
        // ignore all signals.
        if !meeting.nonblocking().is_ok_and(|mode| mode) {
            return Err("its meeting point would block");
        }
        Ok(())
    }

    /// Before Linux 5.14 a socket has no netns cookie; then this network namespace's socket table must contain it.
    fn is_of_this_network(&self, socket: BorrowedFd<'_>) -> bool {
        match (passing::network_of(socket), passing::network_of(self.socket.as_fd())) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            _ => {
                let inode = nix::sys::stat::fstat(socket).ok().map(|stat| stat.st_ino);
                let listed = match self.spec.protocol {
                    Protocol::Tcp => crate::port::holder::listening(self.spec.port),
                    Protocol::Udp => crate::port::holder::bound_udp(self.spec.port),
                };
                listed.unwrap_or_default().iter().any(|found| Some(found.inode) == inode)
            }
        }
    }
}

fn gone() -> Answer {
    Answer::Refused("it disconnected in the middle of the exchange".to_owned())
}

fn malformed() -> Answer {
    Answer::Refused("its message does not belong to this exchange".to_owned())
}
