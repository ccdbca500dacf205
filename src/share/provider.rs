//! Owns the provider's side: one meeting point for one port, and the requesters connected to it. Never blocks: the
//! caller polls. Must not know what the port's socket is used for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::message::{About, Bad, Container, Message, Nonce, Refusal, SIZE, Side};
use super::{Group, PATIENCE};
use crate::port::group::place;
use crate::port::spec::{Protocol, Spec};
use crate::sys::passing;

/// How many requesters are served in parallel; the others stay in the backlog of the meeting point.
const MAX_REQUESTERS: usize = 16;

/// A meeting point.
#[derive(Debug)]
pub struct Meeting {
    socket: OwnedFd,
    spec: Spec,
    since: u64,
    requesters: Vec<Requester>,
    /// Another process has shut the socket down: the meeting point is unusable.
    closed: bool,
    /// Accepts no connection until then, because file descriptors or memory have run out.
    suspended_until: Option<Instant>,
}

/// How long accepting is suspended when file descriptors have run out. Polling the backlog meanwhile would be a busy
/// loop.
const SUSPENDED: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Requester {
    socket: OwnedFd,
    uid: u32,
    until: Instant,
    /// Set after its hello: its nonce, ours, its container.
    met: Option<(Nonce, Nonce, Container)>,
}

/// What a step has led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Met {
    /// Another instance has the socket now.
    Gave { uid: u32, container: Container },
    /// A requester was refused.
    Refused { uid: u32, why: Refusal },
}

impl Meeting {
    /// Listens at the group's meeting point for this port.
    ///
    /// # Errors
    /// EADDRINUSE: the meeting point exists already.
    pub fn open(group: &Group, spec: &Spec) -> io::Result<Self> {
        passing::listen_at(&place(&group.name, spec)).map(|socket| Self::adopt(socket, spec))
    }

    /// Listens there too, with the socket that another instance has provided.
    #[allow(clippy::disallowed_methods, reason = "the time of day that people are told")]
    pub fn adopt(socket: OwnedFd, spec: &Spec) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { socket, spec: spec.clone(), since, requesters: Vec::new(), closed: false, suspended_until: None }
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// True once no requester can connect any more.
    pub fn is_over(&self) -> bool {
        self.closed
    }

    /// The descriptors to poll for reading.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let open = !self.closed && self.suspended_until.is_none() && self.requesters.len() < MAX_REQUESTERS;
        let waiting = open.then(|| self.socket.as_fd());
        waiting.into_iter().chain(self.requesters.iter().map(|requester| requester.socket.as_fd()))
    }

    /// When the first requester times out, or accepting resumes.
    pub fn deadline(&self) -> Option<Instant> {
        self.requesters.iter().map(|requester| requester.until).chain(self.suspended_until).min()
    }

    /// Serves all requesters, with `give`, the socket of the port; `None`: there is nothing to give.
    pub fn step(&mut self, now: Instant, group: &Group, give: Option<BorrowedFd<'_>>, own: Container) -> Vec<Met> {
        self.suspended_until = self.suspended_until.filter(|until| now < *until);
        while !self.closed && self.suspended_until.is_none() && self.requesters.len() < MAX_REQUESTERS {
            match passing::accept(self.socket.as_fd()) {
                Ok(Some(socket)) => {
                    if let Ok(uid) = passing::peer_uid(socket.as_fd()) {
                        self.requesters.push(Requester { socket, uid, until: now + PATIENCE, met: None });
                    }
                }
                Ok(None) => break,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => self.suspended_until = Some(now + SUSPENDED),
                    _ => self.closed = true,
                },
            }
        }
        let mut met = Vec::new();
        let (spec, meeting, since) = (&self.spec, self.socket.as_fd(), self.since);
        self.requesters.retain_mut(|requester| {
            let context = Context { group, spec, give, meeting, since, own };
            let (stays, event) = requester.step(&context);
            met.extend(event);
            stays && now < requester.until
        });
        met
    }
}

/// What a requester is answered from.
struct Context<'a> {
    group: &'a Group,
    spec: &'a Spec,
    give: Option<BorrowedFd<'a>>,
    meeting: BorrowedFd<'a>,
    since: u64,
    own: Container,
}

impl Requester {
    /// Whether the connection stays open, and what the step has led to.
    fn step(&mut self, context: &Context<'_>) -> (bool, Option<Met>) {
        let mut buffer = [0; SIZE + 1];
        // Descriptors that the requester sends are closed when this is dropped.
        let message = match passing::receive(self.socket.as_fd(), &mut buffer) {
            Ok(None) => return (true, None),
            Ok(Some((0, _))) | Err(_) => return (false, None),
            Ok(Some((size, _))) => Message::parse(buffer.get(..size).unwrap_or_default()),
        };
        match (message, self.met) {
            (Ok(Message::Hello { nonce, port, udp, secret, container }), None) => {
                let here = port == context.spec.port && udp == (context.spec.protocol == Protocol::Udp);
                let refusal = match (&context.group.secret, secret) {
                    _ if !here => Some(Refusal::Empty),
                    (Some(_), false) => Some(Refusal::Secret),
                    (None, true) => Some(Refusal::NoSecret),
                    (None, false) if self.uid != nix::unistd::geteuid().as_raw() => Some(Refusal::Uid),
                    _ if context.give.is_none() => Some(Refusal::Empty),
                    _ => None,
                };
                if let Some(why) = refusal {
                    return self.refuse(why);
                }
                let Ok(own) = passing::random() else { return self.refuse(Refusal::Busy) };
                self.met = Some((nonce, own, container));
                (self.send(&Message::Challenge { nonce: own }, &[]), None)
            }
            (Ok(Message::Prove { proof }), Some((requester, provider, container))) => {
                let about =
                    About { name: &context.group.name, spec: context.spec, requester: &requester, provider: &provider };
                let secret = context.group.secret.as_ref();
                if !about.proves(&proof, secret, Side::Requester) {
                    return self.refuse(Refusal::Secret);
                }
                let Some(give) = context.give else { return self.refuse(Refusal::Empty) };
                let grant = Message::Grant {
                    proof: about.proof(secret, Side::Provider),
                    since: context.since,
                    container: context.own,
                };
                let gave = self.send(&grant, &[give.as_raw_fd(), context.meeting.as_raw_fd()]);
                (false, gave.then_some(Met::Gave { uid: self.uid, container }))
            }
            (Err(Bad::Version), _) => self.refuse(Refusal::Version),
            _ => (false, None),
        }
    }

    fn refuse(&self, why: Refusal) -> (bool, Option<Met>) {
        self.send(&Message::Refused(why), &[]);
        (false, Some(Met::Refused { uid: self.uid, why }))
    }

    fn send(&self, message: &Message, fds: &[i32]) -> bool {
        passing::send(self.socket.as_fd(), &message.bytes(), fds).is_ok()
    }
}
