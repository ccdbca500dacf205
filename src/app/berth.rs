//! Owns what becomes of the app's own bind(2) and listen(2): which of them are about a port of ours, and what each is answered with. Must not
//! know how a port is claimed, or what follows from an app that listens.
//!
//! A call waits in the kernel until it is answered, for as long as the app has the filter on it, which is for life and in every descendant.
//! So whatever is unsure is let through, and whatever cannot be done for the app is left to it, with the port free: never is an app left
//! waiting, and never is it told that a port of ours is in use because we hold it.

use std::cell::LazyCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::tree::Tree;
use crate::error::words;
use crate::port::held::{Held, Want};
use crate::port::holder::{self, Listener, processes};
use crate::port::spec::{Protocol, Spec};
use crate::sys::notify::{self, Asked, Call, Kind, Pending, Socket};

/// So many calls are answered before signals are looked at again.
const AT_ONCE: usize = 64;
/// How long a bind that waits is left to the signal that is to interrupt it.
const LEAVE: Duration = Duration::from_millis(250);
/// So many sockets whose IPV6_V6ONLY was heard are remembered: between a socket's option and its bind lies next to nothing.
const REMEMBERED: usize = 256;
/// The longest address that bind(2) takes, `struct sockaddr_storage`. Bytes.
const LONGEST_ADDRESS: usize = 128;

/// The app's calls, and the sockets they are answered with.
pub struct Berth {
    listener: Option<notify::Listener>,
    specs: Vec<Spec>,
    stage: Stage,
    /// What IPV6_V6ONLY was set to on which socket, by inode.
    v6_only: VecDeque<(u64, bool)>,
    /// Whether [`Heard::Waits`] has been told: an interrupted bind comes again, and each worker brings its own.
    told: bool,
    /// Closed when descriptors have run out, so that one call more can be looked at.
    spare: Option<OwnedFd>,
}

enum Stage {
    /// The port is not ours yet: binds of it wait.
    Awaited(Vec<Bind>),
    Holding(Held),
    /// The app is to stop: binds that wait are left to the signal that interrupts them, until then.
    Leaving(Vec<u64>, Instant),
    /// The app's ports are its own affair.
    Released,
}

/// A bind that waits for the claim.
enum Bind {
    Read(Waiting),
    /// What it binds cannot be read, for this reason. Once the port is ours it is let go for it.
    Blind(u64, io::Error),
}

impl Bind {
    fn id(&self) -> u64 {
        match self {
            Self::Read(one) => one.asked.id,
            Self::Blind(id, _) => *id,
        }
    }
}

/// A bind, all of it known.
struct Waiting {
    asked: Asked,
    fd: i32,
    socket: Socket,
    port: u16,
    want: Want,
}

/// What the init hears of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The app listens on its port at this place; `None` where it cannot be told.
    Listens(u16, Option<Listener>),
    /// The app has come as far as its bind of this port, which is not ours yet, and waits there. Told once.
    Waits(u16),
    /// It listens somewhere, and not on a port of ours.
    Elsewhere,
    /// So many clients that had queued were reset for the sake of what the app binds.
    Reset(u32, SocketAddr),
    /// The app's calls cannot be answered any more, for this reason: it binds by itself from here on.
    Deaf(String),
}

/// Where a bind leads, by what is known of it without any socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Nothing of ours.
    Another,
    /// A TCP socket, on this port at this place.
    Port(u16, Want),
}

/// Judges a bind by its address, as read from the app's memory, and its socket. A pure function of both.
pub fn about(address: &[u8], socket: &Socket, v6_only: bool) -> About {
    let Some(place) = notify::parse_address(address) else { return About::Another };
    let (ip, scope_id) = match (place, socket.kind) {
        (SocketAddr::V4(place), Kind::Tcp4) => (IpAddr::V4(*place.ip()), 0),
        (SocketAddr::V6(place), Kind::Tcp6) => (IpAddr::V6(*place.ip()), place.scope_id()),
        _ => return About::Another,
    };
    About::Port(place.port(), Want { ip, scope_id, v6_only: v6_only && ip.is_ipv6() })
}

impl Berth {
    /// Answers with what `held` has; `None`: the ports of `specs` are still waited for, and so are binds of them.
    pub fn new(listener: notify::Listener, specs: Vec<Spec>, held: Option<Held>) -> Self {
        let spare = listener.as_fd().try_clone_to_owned().ok();
        let stage = held.map_or_else(|| Stage::Awaited(Vec::new()), Stage::Holding);
        Self { listener: Some(listener), specs, stage, v6_only: VecDeque::new(), told: false, spare }
    }

    /// Nothing is held, and every call is let through.
    pub fn is_released(&self) -> bool {
        matches!(self.stage, Stage::Leaving(..) | Stage::Released)
    }

    /// When [`Berth::hear`] is due, whoever calls or not.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Leaving(_, until) => Some(*until),
            _ => None,
        }
    }

    /// The descriptor to poll along; `None`: nobody is left who could call.
    pub fn calls(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Answers the calls that wait.
    pub fn hear(&mut self, now: Instant, tree: &Tree) -> Vec<Heard> {
        let mut heard = Vec::new();
        if self.deadline().is_some_and(|until| until <= now)
            && let Stage::Leaving(left, _) = std::mem::replace(&mut self.stage, Stage::Released)
        {
            left.iter().for_each(|id| self.let_through(*id));
        }
        for _ in 0..AT_ONCE {
            let Some(listener) = &self.listener else { break };
            match listener.pending() {
                Pending::Call => {}
                Pending::None => break,
                Pending::Over => {
                    self.listener = None;
                    break;
                }
            }
            match listener.receive() {
                Ok(Some(asked)) => self.answer(asked, tree, &mut heard),
                Ok(None) => {}
                Err(_) => self.listener = None,
            }
        }
        heard
    }

    /// The ports are ours: whoever waits gets them.
    pub fn claimed(&mut self, held: Held, tree: &Tree) -> Vec<Heard> {
        let mut heard = Vec::new();
        if let Stage::Awaited(waiting) = std::mem::replace(&mut self.stage, Stage::Holding(held)) {
            for bind in waiting {
                match bind {
                    Bind::Read(one) => self.give(&one, tree, &mut heard),
                    Bind::Blind(id, error) => self.unreadable(id, error, &mut heard),
                }
            }
        }
        heard
    }

    /// Lets go of all that is held: the app keeps what it has been given, and whatever it binds from here on is its own affair.
    pub fn release(&mut self) {
        if let Stage::Awaited(waiting) = std::mem::replace(&mut self.stage, Stage::Released) {
            waiting.iter().for_each(|bind| self.let_through(bind.id()));
        }
    }

    /// The same for an app that is being told to stop. A bind that waits is interrupted by the signal, so that the app's handler runs as it would
    /// in any call; an answer at the same moment would be faster, and say that the port is in use.
    pub fn leave(&mut self, now: Instant) {
        match std::mem::replace(&mut self.stage, Stage::Released) {
            Stage::Awaited(waiting) if !waiting.is_empty() => {
                self.stage = Stage::Leaving(waiting.iter().map(Bind::id).collect(), now + LEAVE);
            }
            Stage::Leaving(left, until) => self.stage = Stage::Leaving(left, until),
            _ => {}
        }
    }

    fn let_through(&self, id: u64) {
        if let Some(listener) = &self.listener {
            listener.let_through(id);
        }
    }

    fn is_valid(&self, id: u64) -> bool {
        self.listener.as_ref().is_some_and(|listener| listener.is_valid(id))
    }

    fn answer(&mut self, asked: Asked, tree: &Tree, heard: &mut Vec<Heard>) {
        if self.is_released() {
            return self.let_through(asked.id);
        }
        match asked.call {
            Call::V6Only { fd, value } => {
                let mut bytes = [0; 4];
                let read = notify::read_memory(asked.tid, value, &mut bytes);
                if let (Ok(4), Ok(inode)) = (read, notify::inode_of(asked.tid, fd)) {
                    self.v6_only.retain(|(known, _)| *known != inode);
                    self.v6_only.push_back((inode, i32::from_ne_bytes(bytes) != 0));
                    self.v6_only.drain(..self.v6_only.len().saturating_sub(REMEMBERED));
                }
                self.let_through(asked.id);
            }
            Call::Listen { fd } => self.listen(asked, fd, heard),
            Call::Listening { fd } => self.listening(&asked, fd, heard),
            Call::Bind { fd, address, length } => self.bind(asked, fd, (address, length), tree, heard),
        }
    }

    /// listen(2) of the app is answered so that the queue stays as long as it is, and tells that the app is up.
    fn listen(&mut self, asked: Asked, fd: i32, heard: &mut Vec<Heard>) {
        let inode = notify::inode_of(asked.tid, fd);
        let ours = match (&mut self.stage, inode) {
            (Stage::Holding(held), Ok(inode)) => held.find(inode).map(|index| (held, index, inode)),
            _ => None,
        };
        let Some((held, index, inode)) = ours else {
            self.let_through(asked.id);
            return heard.push(Heard::Elsewhere);
        };
        let errno =
            held.listen_again(inode).map_or_else(|error| error.raw_os_error().unwrap_or(libc::EADDRINUSE), |()| 0);
        let port = held.port(index).unwrap_or_default();
        if let Some(listener) = self.listener.as_ref().filter(|listener| listener.is_valid(asked.id)) {
            listener.answer(asked.id, errno);
            if errno == 0 {
                let there = holder::listening(port).unwrap_or_default();
                heard.push(Heard::Listens(port, there.into_iter().find(|found| found.inode == inode)));
            }
        }
    }

    /// Ours listens since the bind, and who is told so calls no listen(2) (gunicorn does not): the question is its event.
    fn listening(&mut self, asked: &Asked, fd: i32, heard: &mut Vec<Heard>) {
        if let Stage::Holding(held) = &mut self.stage
            && let Ok(inode) = notify::inode_of(asked.tid, fd)
            && let Some(port) = held.find(inode).and_then(|index| held.port(index))
        {
            let there = holder::listening(port).unwrap_or_default().into_iter().find(|found| found.inode == inode);
            heard.extend(there.map(|there| Heard::Listens(port, Some(there))));
        }
        self.let_through(asked.id);
    }

    fn bind(&mut self, asked: Asked, fd: i32, (address, length): (u64, usize), tree: &Tree, heard: &mut Vec<Heard>) {
        let mut buffer = [0; LONGEST_ADDRESS];
        let room = buffer.get_mut(..length.min(LONGEST_ADDRESS)).unwrap_or_default();
        let bytes = match self.with_spare(|| notify::read_memory(asked.tid, address, room)) {
            Ok(size) => buffer.get(..size).unwrap_or_default(),
            // What it points to is no memory; the kernel will tell it so.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => return self.let_through(asked.id),
            Err(error) => return self.unreadable(asked.id, error, heard),
        };
        // Most binds are of other ports and other families, and need no look at their socket.
        let port = notify::parse_address(bytes).map(|place| place.port());
        if port.is_none_or(|port| !self.may_be_ours(port)) {
            return self.let_through(asked.id);
        }
        let socket = match self.with_spare(|| notify::socket_of(asked.tid, fd)) {
            Ok(socket) => socket,
            // The kernel has its own words for these.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTSOCK | libc::EBADF | libc::EOPNOTSUPP)) => {
                return self.let_through(asked.id);
            }
            Err(error) => return self.unreadable(asked.id, error, heard),
        };
        let v6_only = socket.kind == Kind::Tcp6 && self.is_v6_only(&asked, fd, &socket);
        let About::Port(port, want) = about(bytes, &socket, v6_only) else { return self.let_through(asked.id) };
        if self.is_for_the_kernel(&asked, fd, &socket) {
            return self.let_through(asked.id);
        }
        let one = Waiting { asked, fd, socket, port, want };
        match &mut self.stage {
            Stage::Awaited(waiting) => {
                // One that a signal has interrupted comes again with another number, and its old one is void.
                let listener = self.listener.as_ref();
                waiting.retain(|old| listener.is_some_and(|listener| listener.is_valid(old.id())));
                waiting.push(Bind::Read(one));
                if !std::mem::replace(&mut self.told, true) {
                    heard.push(Heard::Waits(port));
                }
            }
            _ => self.give(&one, tree, heard),
        }
    }

    /// Whether a bind of `port` may lead to a port of ours; only a look at its socket tells for sure.
    fn may_be_ours(&self, port: u16) -> bool {
        let asked = |spec: &Spec| spec.protocol == Protocol::Tcp && spec.port == port;
        let taken = match &self.stage {
            Stage::Holding(held) => held.has_port(port),
            _ => false,
        };
        taken || self.specs.iter().any(asked)
    }

    /// Whether a bind of our port is no affair of ours: in a network of the app's own making the port is another one, and a socket that is
    /// bound already gets EINVAL. One that is ours may come again, see `sys/notify`.
    fn is_for_the_kernel(&self, asked: &Asked, fd: i32, socket: &Socket) -> bool {
        if matches!(&self.stage, Stage::Holding(held) if held.find(socket.inode).is_some()) {
            return false;
        }
        let bound = |copy: OwnedFd| SockRef::from(&copy).local_addr().ok()?.as_socket().map(|place| place.port() != 0);
        notify::is_elsewhere(asked.tid) || notify::copy_of(asked.tid, fd).ok().and_then(bound).unwrap_or(false)
    }

    /// IPV6_V6ONLY as it was set before; or as it is on the socket, where that can be read; or as the kernel sets it by itself.
    fn is_v6_only(&self, asked: &Asked, fd: i32, socket: &Socket) -> bool {
        if let Some((_, heard)) = self.v6_only.iter().find(|(inode, _)| *inode == socket.inode) {
            return *heard;
        }
        let read = notify::copy_of(asked.tid, fd).ok().and_then(|copy| notify::v6_only(copy.as_fd()));
        read.unwrap_or_else(|| {
            std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "1")
        })
    }

    /// Gives the app what it asks for in the place of its own socket.
    fn give(&mut self, one: &Waiting, tree: &Tree, heard: &mut Vec<Heard>) {
        let id = one.asked.id;
        // A walk through /proc, thread by thread: only where something stands in the way.
        let pids = LazyCell::new(|| tree.pids());
        let mut has = |inode: u64| {
            let wanted = std::collections::HashSet::from([inode]);
            let open =
                |pid: &i32| processes::sockets_of(*pid, &wanted, usize::MAX).is_ok_and(|(found, _)| !found.is_empty());
            pids.iter().any(open)
        };
        self.spare = None;
        let Stage::Holding(held) = &mut self.stage else { return self.let_through(id) };
        let Some(index) = held.leads_to(one.port, &one.want, &mut has) else { return self.let_through(id) };
        let before: Vec<u64> = held.inodes().collect();
        let given = held.socket_for(index, &one.want, &mut has);
        let listener = self.listener.as_ref();
        let outcome = given.map(|given| {
            if !before.contains(&given.inode)
                && let Ok(theirs) = notify::copy_of(one.asked.tid, one.fd)
            {
                notify::carry_over(theirs.as_fd(), given.socket);
            }
            // An app that makes its socket non-blocking after the bind, as asyncio does, asks for one that blocks. O_NONBLOCK is one for all who
            // have the socket: taken off, the next accept(2) of an app that serves on it would wait there, with its other clients in its hands.
            let served = || given.shared || before.contains(&given.inode) && has(given.inode);
            if one.socket.nonblocking || notify::is_nonblocking(given.socket) && !served() {
                notify::set_nonblocking(given.socket, one.socket.nonblocking);
            }
            let put = listener.map(|listener| listener.put(id, given.socket, one.fd, one.socket.cloexec));
            (put.unwrap_or(Ok(())), given.reset)
        });
        self.spare = self.calls().and_then(|calls| calls.try_clone_to_owned().ok());
        match outcome {
            Ok((Ok(()), reset)) => {
                self.answer_with(id, 0);
                if reset > 0 {
                    heard.push(Heard::Reset(reset, SocketAddr::new(one.want.ip, one.port)));
                }
            }
            // It was killed, or a signal interrupted it: then it asks again.
            Ok((Err(error), _)) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Ok((Err(error), _)) => self.unreadable(id, error, heard),
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => self.unreadable(id, error, heard),
                Some(errno) => self.answer_with(id, errno),
                None => self.let_through(id),
            },
        }
    }

    fn answer_with(&self, id: u64, errno: i32) {
        if let Some(listener) = &self.listener {
            listener.answer(id, errno);
        }
    }

    /// What the app asks for cannot be known or given. It binds by itself, and finds the port free.
    fn unreadable(&mut self, id: u64, error: io::Error, heard: &mut Vec<Heard>) {
        // Of one that is gone nothing can be read, and that says nothing.
        if !self.is_valid(id) {
            return;
        }
        if let Stage::Awaited(waiting) = &mut self.stage {
            return waiting.push(Bind::Blind(id, error));
        }
        self.release();
        self.let_through(id);
        let why = words(&error);
        heard.push(Heard::Deaf(match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => format!(
                "what the app binds cannot be read ({why}): it runs as another user than reberth, or is not dumpable; start the container \
                 as that user (USER, --user), or add CAP_SYS_PTRACE"
            ),
            Some(libc::EMFILE | libc::ENFILE) => {
                format!("what the app binds cannot be looked at ({why}): raise the limit of open files (ulimit -n)")
            }
            _ => format!("what the app binds cannot be answered ({why})"),
        }));
    }

    /// Does something that may need a descriptor, with the spare one where there is no other.
    fn with_spare<T>(&mut self, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match act() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && self.spare.is_some() => {
                self.spare = None;
                let again = act();
                self.spare = self.calls().and_then(|calls| calls.try_clone_to_owned().ok());
                again
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(kind: Kind) -> Socket {
        Socket { inode: 1, kind, nonblocking: false, cloexec: true }
    }

    fn v4(address: [u8; 4], port: u16) -> Vec<u8> {
        let family = libc::AF_INET as u16;
        [&family.to_ne_bytes()[..], &port.to_be_bytes(), &address, &[0; 8]].concat()
    }

    fn v6(address: &str, port: u16, scope: u32) -> Vec<u8> {
        let family = libc::AF_INET6 as u16;
        let ip: std::net::Ipv6Addr = address.parse().unwrap();
        [&family.to_ne_bytes()[..], &port.to_be_bytes(), &[0; 4], &ip.octets(), &scope.to_ne_bytes()].concat()
    }

    #[test]
    fn what_a_bind_is_about() {
        let want = |ip: &str, scope_id, v6_only| Want { ip: ip.parse().unwrap(), scope_id, v6_only };
        for (address, kind, v6_only, about_what) in [
            (v4([0; 4], 80), Kind::Tcp4, false, About::Port(80, want("0.0.0.0", 0, false))),
            (v4([0; 4], 80), Kind::Tcp4, true, About::Port(80, want("0.0.0.0", 0, false))),
            (v4([127, 0, 0, 1], 0), Kind::Tcp4, false, About::Port(0, want("127.0.0.1", 0, false))),
            (v6("::", 80, 0), Kind::Tcp6, false, About::Port(80, want("::", 0, false))),
            (v6("::", 80, 0), Kind::Tcp6, true, About::Port(80, want("::", 0, true))),
            (v6("fe80::1", 80, 3), Kind::Tcp6, false, About::Port(80, want("fe80::1", 3, false))),
            // A whole sockaddr_storage, whatever is behind the address.
            (
                [v4([10, 0, 0, 1], 80), vec![0xff; 112]].concat(),
                Kind::Tcp4,
                false,
                About::Port(80, want("10.0.0.1", 0, false)),
            ),
            // The kernel refuses these, and tells why better than we could.
            (v4([0; 4], 80), Kind::Tcp6, false, About::Another),
            (v6("::", 80, 0), Kind::Tcp4, false, About::Another),
            (v4([0; 4], 80), Kind::Other, false, About::Another),
            (v6("::", 80, 0)[..20].to_vec(), Kind::Tcp6, false, About::Another),
            (v4([0; 4], 80)[..8].to_vec(), Kind::Tcp4, false, About::Another),
            (vec![1, 0, b'/', b'a'], Kind::Tcp4, false, About::Another),
            (vec![], Kind::Tcp4, false, About::Another),
        ] {
            assert_eq!(about(&address, &socket(kind), v6_only), about_what, "{address:?} {kind:?}");
        }
    }
}
