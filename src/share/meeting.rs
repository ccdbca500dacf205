//! Owns the giver's side: one meeting point for one port, and the askers who are at it. Never waits: whoever drives it polls. Must not know what
//! a port's socket is used for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::message::{About, Bad, Container, Message, Nonce, Refusal, SIZE, Side};
use super::{Group, PATIENCE};
use crate::port::group::place;
use crate::port::spec::{Protocol, Spec};
use crate::sys::passing;

/// So many askers are heard at once; the others wait in the queue of the meeting point.
const MOST: usize = 16;

/// A meeting point.
#[derive(Debug)]
pub struct Meeting {
    socket: OwnedFd,
    spec: Spec,
    since: u64,
    askers: Vec<Asker>,
    /// It is of no use any more: somebody has shut it down.
    over: bool,
    /// Nobody can be let in before then: descriptors, or memory, have run out.
    full_until: Option<Instant>,
}

/// Whoever comes while descriptors have run out stays in the queue so long. Polled meanwhile, it would be a loop without a pause.
const FULL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Asker {
    socket: OwnedFd,
    uid: u32,
    until: Instant,
    /// Set once it has said hello: its number, ours, its container.
    met: Option<(Nonce, Nonce, Container)>,
}

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Met {
    /// Another instance has the socket now.
    Gave { uid: u32, container: Container },
    /// Somebody asked and gets nothing.
    Refused { uid: u32, why: Refusal },
}

impl Meeting {
    /// Waits at the place of the group for this port.
    ///
    /// # Errors
    /// EADDRINUSE: somebody is there already.
    pub fn open(group: &Group, spec: &Spec) -> io::Result<Self> {
        passing::listen_at(&place(&group.name, spec)).map(|socket| Self::adopt(socket, spec))
    }

    /// Waits there together with whoever has given us the socket.
    #[allow(clippy::disallowed_methods, reason = "the time of day that people are told")]
    pub fn adopt(socket: OwnedFd, spec: &Spec) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { socket, spec: spec.clone(), since, askers: Vec::new(), over: false, full_until: None }
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// True once nobody can come here any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What to poll for reading.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let open = !self.over && self.full_until.is_none() && self.askers.len() < MOST;
        let waiting = open.then(|| self.socket.as_fd());
        waiting.into_iter().chain(self.askers.iter().map(|asker| asker.socket.as_fd()))
    }

    /// When the first asker has used up its time, or whoever waits can be let in again.
    pub fn deadline(&self) -> Option<Instant> {
        self.askers.iter().map(|asker| asker.until).chain(self.full_until).min()
    }

    /// Hears whoever is there, and gives them `give`, the socket of the port; `None`: there is nothing to give.
    pub fn step(&mut self, now: Instant, group: &Group, give: Option<BorrowedFd<'_>>, own: Container) -> Vec<Met> {
        self.full_until = self.full_until.filter(|until| now < *until);
        while !self.over && self.full_until.is_none() && self.askers.len() < MOST {
            match passing::accept(self.socket.as_fd()) {
                Ok(Some(socket)) => {
                    if let Ok(uid) = passing::peer_uid(socket.as_fd()) {
                        self.askers.push(Asker { socket, uid, until: now + PATIENCE, met: None });
                    }
                }
                Ok(None) => break,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => self.full_until = Some(now + FULL),
                    _ => self.over = true,
                },
            }
        }
        let mut met = Vec::new();
        let (spec, meeting, since) = (&self.spec, self.socket.as_fd(), self.since);
        self.askers.retain_mut(|asker| {
            let house = House { group, spec, give, meeting, since, own };
            let (stays, event) = asker.step(&house);
            met.extend(event);
            stays && now < asker.until
        });
        met
    }
}

/// What an asker is answered from.
struct House<'a> {
    group: &'a Group,
    spec: &'a Spec,
    give: Option<BorrowedFd<'a>>,
    meeting: BorrowedFd<'a>,
    since: u64,
    own: Container,
}

impl Asker {
    /// Whether it stays, and what has come of it.
    fn step(&mut self, house: &House<'_>) -> (bool, Option<Met>) {
        let mut buffer = [0; SIZE + 1];
        // Descriptors that it sends are closed with what is dropped here.
        let message = match passing::receive(self.socket.as_fd(), &mut buffer) {
            Ok(None) => return (true, None),
            Ok(Some((0, _))) | Err(_) => return (false, None),
            Ok(Some((size, _))) => Message::parse(buffer.get(..size).unwrap_or_default()),
        };
        match (message, self.met) {
            (Ok(Message::Hello { nonce, port, udp, secret, container }), None) => {
                let here = port == house.spec.port && udp == (house.spec.protocol == Protocol::Udp);
                let refusal = match (&house.group.secret, secret) {
                    _ if !here => Some(Refusal::Empty),
                    (Some(_), false) => Some(Refusal::Secret),
                    (None, true) => Some(Refusal::NoSecret),
                    (None, false) if self.uid != nix::unistd::geteuid().as_raw() => Some(Refusal::Uid),
                    _ if house.give.is_none() => Some(Refusal::Empty),
                    _ => None,
                };
                if let Some(why) = refusal {
                    return self.refuse(why);
                }
                let Ok(own) = passing::random() else { return self.refuse(Refusal::Busy) };
                self.met = Some((nonce, own, container));
                (self.say(&Message::Challenge { nonce: own }, &[]), None)
            }
            (Ok(Message::Prove { proof }), Some((asker, giver, container))) => {
                let about = About { name: &house.group.name, spec: house.spec, asker: &asker, giver: &giver };
                let secret = house.group.secret.as_ref();
                if !about.proves(&proof, secret, Side::Asker) {
                    return self.refuse(Refusal::Secret);
                }
                let Some(give) = house.give else { return self.refuse(Refusal::Empty) };
                let grant = Message::Grant {
                    proof: about.proof(secret, Side::Giver),
                    since: house.since,
                    container: house.own,
                };
                let gave = self.say(&grant, &[give.as_raw_fd(), house.meeting.as_raw_fd()]);
                (false, gave.then_some(Met::Gave { uid: self.uid, container }))
            }
            (Err(Bad::Version), _) => self.refuse(Refusal::Version),
            _ => (false, None),
        }
    }

    fn refuse(&self, why: Refusal) -> (bool, Option<Met>) {
        self.say(&Message::Refused(why), &[]);
        (false, Some(Met::Refused { uid: self.uid, why }))
    }

    fn say(&self, message: &Message, fds: &[i32]) -> bool {
        passing::send(self.socket.as_fd(), &message.bytes(), fds).is_ok()
    }
}
