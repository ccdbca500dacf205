//! Owns the answers to the app's bind(2) and listen(2): which calls concern a claimed port, and which socket the app gets. Must not know
//! how a port is claimed, or what follows when the app listens.
//!
//! An intercepted call blocks in the kernel until it is answered. The filter stays for the life of the app, and all its descendants inherit
//! it. So a call that is not understood is let through, and if reberth cannot supply a socket it releases the port and the app binds for
//! itself: no app is ever left waiting, or gets EADDRINUSE because reberth holds the port.

mod request;

use std::cell::LazyCell;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use tracing::warn;

use self::request::{BindTarget, Request, V6Only, classify, is_for_the_kernel};
use super::advice;
use super::fact::Fact;
use crate::app::tree::Tree;
use crate::error::words;
use crate::port::claim::Claim;
use crate::port::held::Held;
use crate::port::holder::{self, processes};
use crate::port::spec::{Protocol, Spec};
use crate::sys::notify::{self, Asked, Call, Kind, Pending};

/// The number of calls answered before signals are handled again.
const CALLS_PER_ROUND: usize = 64;
/// How long a waiting bind is left unanswered for the stop signal to interrupt it.
const INTERRUPT_TIME: Duration = Duration::from_millis(250);
/// The longest address that bind(2) accepts, `struct sockaddr_storage`. Bytes.
const LONGEST_ADDRESS: usize = 128;

/// The app's calls, and the sockets they are answered with.
pub struct Binds {
    listener: Option<notify::Listener>,
    specs: Vec<Spec>,
    stage: Stage,
    v6_only: V6Only,
    /// [`Fact::BindWaits`] has been reported: an interrupted bind is repeated, and each worker makes its own.
    wait_reported: bool,
    /// Closed when file descriptors run out, so that one more call can be inspected.
    spare: Option<OwnedFd>,
}

enum Stage {
    /// The port is not claimed yet: binds of it wait.
    PortAwaited(Vec<WaitingBind>),
    Holding(Held),
    /// The app is to stop: until this instant, waiting binds are left for the signal to interrupt.
    AppStopping(Vec<u64>, Instant),
    /// No socket is held, and every call is let through.
    Released,
}

/// A bind that waits for the port.
enum WaitingBind {
    Read(Request),
    /// Its address cannot be read, for this reason. It is let through once the port has been claimed and released.
    Unreadable(u64, io::Error),
}

impl WaitingBind {
    fn id(&self) -> u64 {
        match self {
            Self::Read(request) => request.asked.id,
            Self::Unreadable(id, _) => *id,
        }
    }
}

impl Binds {
    /// Answers with the sockets of `claims`; `None`: the ports of `specs` are still waited for, so binds of them wait too. `shared`: other
    /// instances have the same sockets.
    pub fn begin(listener: notify::Listener, specs: Vec<Spec>, claims: Option<Vec<Claim>>, shared: bool) -> Self {
        let spare = listener.as_fd().try_clone_to_owned().ok();
        let stage = match claims.map(|claims| hold(claims, shared)) {
            None => Stage::PortAwaited(Vec::new()),
            Some(Ok(held)) => Stage::Holding(held),
            Some(Err(error)) => {
                warn!("{}", advice::calls_lost(&words(&error)));
                Stage::Released
            }
        };
        Self { listener: Some(listener), specs, stage, v6_only: V6Only::default(), wait_reported: false, spare }
    }

    /// No socket is held, and every call is let through.
    pub fn is_released(&self) -> bool {
        matches!(self.stage, Stage::AppStopping(..) | Stage::Released)
    }

    /// When [`Binds::answer`] is due even without a call.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::AppStopping(_, until) => Some(*until),
            _ => None,
        }
    }

    /// Readable when a call is pending; `None`: no process with the filter is left.
    pub fn calls(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Answers the pending calls.
    pub fn answer(&mut self, now: Instant, tree: &Tree) -> Vec<Fact> {
        let mut facts = Vec::new();
        if self.deadline().is_some_and(|until| until <= now)
            && let Stage::AppStopping(left, _) = std::mem::replace(&mut self.stage, Stage::Released)
        {
            left.iter().for_each(|id| self.let_through(*id));
        }
        for _ in 0..CALLS_PER_ROUND {
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
                Ok(Some(asked)) => self.answer_one(asked, tree, &mut facts),
                Ok(None) => {}
                Err(_) => self.listener = None,
            }
        }
        facts
    }

    /// The ports are claimed: the waiting binds get them.
    pub fn port_claimed(&mut self, held: Held, tree: &Tree) -> Vec<Fact> {
        let mut facts = Vec::new();
        if let Stage::PortAwaited(waiting) = std::mem::replace(&mut self.stage, Stage::Holding(held)) {
            for bind in waiting {
                match bind {
                    WaitingBind::Read(request) => self.give(&request, tree, &mut facts),
                    WaitingBind::Unreadable(id, error) => self.unreadable(id, error, &mut facts),
                }
            }
        }
        facts
    }

    /// Releases everything held. The app keeps the sockets it has been given, and binds for itself from now on.
    pub fn release(&mut self) {
        if let Stage::PortAwaited(waiting) = std::mem::replace(&mut self.stage, Stage::Released) {
            waiting.iter().for_each(|bind| self.let_through(bind.id()));
        }
    }

    /// The same for an app that is sent its stop signal. A waiting bind is left for the signal to interrupt, so that the app's handler runs
    /// as in any interrupted call. An answer now would come first, and be EADDRINUSE.
    pub fn release_for_stop(&mut self, now: Instant) {
        match std::mem::replace(&mut self.stage, Stage::Released) {
            Stage::PortAwaited(waiting) if !waiting.is_empty() => {
                self.stage = Stage::AppStopping(waiting.iter().map(WaitingBind::id).collect(), now + INTERRUPT_TIME);
            }
            Stage::AppStopping(left, until) => self.stage = Stage::AppStopping(left, until),
            _ => {}
        }
    }

    fn let_through(&self, id: u64) {
        if let Some(listener) = &self.listener {
            listener.let_through(id);
        }
    }

    fn answer_with(&self, id: u64, errno: i32) {
        if let Some(listener) = &self.listener {
            listener.answer(id, errno);
        }
    }

    fn is_valid(&self, id: u64) -> bool {
        self.listener.as_ref().is_some_and(|listener| listener.is_valid(id))
    }

    fn answer_one(&mut self, asked: Asked, tree: &Tree, facts: &mut Vec<Fact>) {
        if self.is_released() {
            return self.let_through(asked.id);
        }
        match asked.call {
            Call::V6Only { fd, value } => {
                self.v6_only.remember(&asked, fd, value);
                self.let_through(asked.id);
            }
            Call::Listen { fd } => self.listen(asked, fd, facts),
            Call::Listening { fd } => self.is_listening(&asked, fd, facts),
            Call::Bind { fd, address, length } => self.bind(asked, fd, (address, length), tree, facts),
        }
    }

    /// Answers listen(2) in place of the kernel, so that the length of the queue does not change.
    fn listen(&mut self, asked: Asked, fd: i32, facts: &mut Vec<Fact>) {
        let inode = notify::inode_of(asked.tid, fd);
        let ours = match (&mut self.stage, inode) {
            (Stage::Holding(held), Ok(inode)) => held.find(inode).map(|index| (held, index, inode)),
            _ => None,
        };
        let Some((held, index, inode)) = ours else {
            self.let_through(asked.id);
            return facts.push(Fact::OtherListenCalled);
        };
        let errno =
            held.listen_again(inode).map_or_else(|error| error.raw_os_error().unwrap_or(libc::EADDRINUSE), |()| 0);
        let port = held.port(index).unwrap_or_default();
        if let Some(listener) = self.listener.as_ref().filter(|listener| listener.is_valid(asked.id)) {
            listener.answer(asked.id, errno);
            if errno == 0 {
                facts.push(Fact::ListenCalled { port, listener: listener_of(port, inode) });
            }
        }
    }

    /// A claimed socket listens from the bind on. An app that queries whether it does (gunicorn) then never calls listen(2): for such an
    /// app the query is the event.
    fn is_listening(&mut self, asked: &Asked, fd: i32, facts: &mut Vec<Fact>) {
        if let Stage::Holding(held) = &mut self.stage
            && let Ok(inode) = notify::inode_of(asked.tid, fd)
            && let Some(port) = held.find(inode).and_then(|index| held.port(index))
            && let Some(listener) = listener_of(port, inode)
        {
            facts.push(Fact::ListenCalled { port, listener: Some(listener) });
        }
        self.let_through(asked.id);
    }

    fn bind(&mut self, asked: Asked, fd: i32, (address, length): (u64, usize), tree: &Tree, facts: &mut Vec<Fact>) {
        let mut buffer = [0; LONGEST_ADDRESS];
        let room = buffer.get_mut(..length.min(LONGEST_ADDRESS)).unwrap_or_default();
        let bytes = match self.with_spare(|| notify::read_memory(asked.tid, address, room)) {
            Ok(size) => buffer.get(..size).unwrap_or_default(),
            // The address is not valid; the kernel reports that to the app.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => return self.let_through(asked.id),
            Err(error) => return self.unreadable(asked.id, error, facts),
        };
        // Most binds are of other ports and families: let them through without inspecting the socket.
        let port = notify::parse_address(bytes).map(|place| place.port());
        if port.is_none_or(|port| !self.may_be_ours(port)) {
            return self.let_through(asked.id);
        }
        let socket = match self.with_spare(|| notify::socket_of(asked.tid, fd)) {
            Ok(socket) => socket,
            // The kernel reports these errors to the app.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTSOCK | libc::EBADF | libc::EOPNOTSUPP)) => {
                return self.let_through(asked.id);
            }
            Err(error) => return self.unreadable(asked.id, error, facts),
        };
        let v6_only = socket.kind == Kind::Tcp6 && self.v6_only.of(&asked, fd, &socket);
        let BindTarget::Port(port, want) = classify(bytes, &socket, v6_only) else { return self.let_through(asked.id) };
        // An answered bind may be repeated, on the socket that was given (see `sys/notify`).
        let given = matches!(&self.stage, Stage::Holding(held) if held.find(socket.inode).is_some());
        if !given && is_for_the_kernel(&asked, fd) {
            return self.let_through(asked.id);
        }
        let request = Request { asked, fd, socket, port, want };
        match &mut self.stage {
            Stage::PortAwaited(waiting) => {
                // An interrupted bind is repeated under another id; its old id is no longer valid.
                let listener = self.listener.as_ref();
                waiting.retain(|old| listener.is_some_and(|listener| listener.is_valid(old.id())));
                waiting.push(WaitingBind::Read(request));
                if !std::mem::replace(&mut self.wait_reported, true) {
                    facts.push(Fact::BindWaits(port));
                }
            }
            _ => self.give(&request, tree, facts),
        }
    }

    /// Whether a bind of `port` may concern a claimed port; only its socket shows for sure.
    fn may_be_ours(&self, port: u16) -> bool {
        let asked = |spec: &Spec| spec.protocol == Protocol::Tcp && spec.port == port;
        let taken = match &self.stage {
            Stage::Holding(held) => held.has_port(port),
            _ => false,
        };
        taken || self.specs.iter().any(asked)
    }

    /// Replaces the app's socket with the one for the address it asks for.
    fn give(&mut self, request: &Request, tree: &Tree, facts: &mut Vec<Fact>) {
        let id = request.asked.id;
        // A walk through /proc, thread by thread: done only if another process may be in the way.
        let pids = LazyCell::new(|| tree.pids());
        let mut has = |inode: u64| {
            let wanted = HashSet::from([inode]);
            let open =
                |pid: &i32| processes::sockets_of(*pid, &wanted, usize::MAX).is_ok_and(|(found, _)| !found.is_empty());
            pids.iter().any(open)
        };
        self.spare = None;
        let Stage::Holding(held) = &mut self.stage else { return self.let_through(id) };
        let Some(index) = held.leads_to(request.port, &request.want, &mut has) else { return self.let_through(id) };
        let before: Vec<u64> = held.inodes().collect();
        let given = held.socket_for(index, &request.want, &mut has);
        let listener = self.listener.as_ref();
        let outcome = given.map(|given| {
            if !before.contains(&given.inode)
                && let Ok(theirs) = notify::copy_of(request.asked.tid, request.fd)
            {
                notify::carry_over(theirs.as_fd(), given.socket);
            }
            // An app that makes its socket non-blocking only after the bind, as asyncio does, binds a blocking one. But O_NONBLOCK belongs
            // to every process that has the socket: if it were cleared, the next accept(2) of an app that already serves on it would block.
            let served = || given.shared || before.contains(&given.inode) && has(given.inode);
            if request.socket.nonblocking || notify::is_nonblocking(given.socket) && !served() {
                notify::set_nonblocking(given.socket, request.socket.nonblocking);
            }
            let put = listener.map(|listener| listener.put(id, given.socket, request.fd, request.socket.cloexec));
            (put.unwrap_or(Ok(())), given.reset)
        });
        self.renew_spare();
        match outcome {
            Ok((Ok(()), reset)) => {
                self.answer_with(id, 0);
                if reset > 0 {
                    facts.push(Fact::ClientsReset(reset, SocketAddr::new(request.want.ip, request.port)));
                }
            }
            // The app was killed, or a signal interrupted the bind, which is then repeated.
            Ok((Err(error), _)) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Ok((Err(error), _)) => self.unreadable(id, error, facts),
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => self.unreadable(id, error, facts),
                Some(errno) => self.answer_with(id, errno),
                None => self.let_through(id),
            },
        }
    }

    /// The address cannot be read, or no socket can be given. The app binds for itself, and finds the port free.
    fn unreadable(&mut self, id: u64, error: io::Error, facts: &mut Vec<Fact>) {
        // Reading fails for an app that has exited, which proves nothing.
        if !self.is_valid(id) {
            return;
        }
        if let Stage::PortAwaited(waiting) = &mut self.stage {
            return waiting.push(WaitingBind::Unreadable(id, error));
        }
        self.release();
        self.let_through(id);
        facts.push(Fact::CallsLost(advice::bind_unreadable(&error)));
    }

    /// Runs an operation that may need a descriptor, with the spare one if there is no other.
    fn with_spare<T>(&mut self, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match act() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && self.spare.is_some() => {
                self.spare = None;
                let again = act();
                self.renew_spare();
                again
            }
            other => other,
        }
    }

    fn renew_spare(&mut self) {
        self.spare = self.calls().and_then(|calls| calls.try_clone_to_owned().ok());
    }
}

/// The sockets of `claims`, to answer binds with.
///
/// # Errors
/// The address of a socket cannot be queried.
pub fn hold(claims: Vec<Claim>, shared: bool) -> io::Result<Held> {
    let held = Held::new(claims)?;
    Ok(if shared { held.shared() } else { held })
}

/// The listener on `port` that is this socket.
fn listener_of(port: u16, inode: u64) -> Option<holder::Listener> {
    holder::listening(port).unwrap_or_default().into_iter().find(|found| found.inode == inode)
}
