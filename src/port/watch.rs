//! Owns the event sources of a wait: destroyed sockets, the exit of known holders, and the delays of the polling
//! fallback. Must not know who sleeps on them, or what an event leads to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags};

use crate::port::policy::Backoff;
use crate::port::spec::Protocol;
use crate::sys::descriptor::wait_readable;
use crate::sys::{netlink, pidfd};

/// With more holders than this, the rest is not followed by pidfd; netlink reports them anyway.
const FOLLOWED: usize = 16;
/// A backoff of zero would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(1);
/// Longer than any useful delay, and short enough to be added to a time.
const LONGEST: Duration = Duration::from_secs(86_400);

impl From<Protocol> for netlink::Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

/// A socket on a watched port was destroyed: its last descriptor was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub port: u16,
    /// Owner of the socket.
    pub uid: u32,
    /// The socket's `SO_COOKIE`: distinguishes our sockets from others.
    pub cookie: u64,
}

/// What a subscription has received since the last call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    pub events: Vec<Event>,
    /// The kernel's queue overflowed, so there were more events.
    pub lost: bool,
}

/// A subscription to the destruction of sockets on some ports. While one is open, every TCP socket that closes on the
/// machine costs the kernel some microseconds more: open it late and drop it early.
///
/// The kernel reports with a delay (some 0.1 ms, or an RCU grace period): a socket closed just before `open` may still
/// be reported.
#[derive(Debug)]
pub struct Destroyed {
    socket: netlink::Destroyed,
    ports: Vec<u16>,
    /// Includes sockets with a peer.
    peers: bool,
}

impl Destroyed {
    /// Subscribes to sockets without a peer (listening, bound) on `ports`.
    ///
    /// # Errors
    /// Netlink is refused: seccomp, gVisor, a kernel without `sock_diag`.
    pub fn open(ports: &[(u16, Protocol)]) -> io::Result<Self> {
        Self::subscribe(ports, Some(false))
    }

    /// The same, but the kernel reports every socket on the machine until [`Destroyed::narrow`] is called; the others
    /// are dropped here. Compiling the filter is most of the cost of a subscription, and an app that exits immediately
    /// never needs it.
    ///
    /// # Errors
    /// As [`Destroyed::open`].
    pub fn open_wide(ports: &[(u16, Protocol)]) -> io::Result<Self> {
        Self::subscribe(ports, None)
    }

    /// Makes the kernel filter by port. If it refuses, [`Destroyed::drain`] does.
    pub fn narrow(&self) {
        let _ = self.socket.filter(&self.ports, self.peers);
    }

    fn subscribe(ports: &[(u16, Protocol)], filter: Option<bool>) -> io::Result<Self> {
        let mut transports: Vec<netlink::Transport> = Vec::new();
        for (_, protocol) in ports {
            let transport = (*protocol).into();
            if !transports.contains(&transport) {
                transports.push(transport);
            }
        }
        let ports: Vec<u16> = ports.iter().map(|(port, _)| *port).collect();
        let socket = netlink::Destroyed::open(&transports, filter.map(|peers| (ports.as_slice(), peers)))?;
        Ok(Self { socket, ports, peers: filter.unwrap_or_default() })
    }

    /// Sets whether sockets with a peer are included. True if that changed.
    fn count_peers(&mut self, peers: bool) -> bool {
        let changed = peers != self.peers && self.socket.filter(&self.ports, peers).is_ok();
        if changed {
            self.peers = peers;
        }
        changed
    }

    /// Everything received so far, without blocking.
    ///
    /// # Errors
    /// The subscription is broken: drop it.
    pub fn drain(&self) -> io::Result<Drained> {
        let received = self.socket.drain()?;
        let counts = |row: &netlink::Row| self.ports.contains(&row.local_port) && (self.peers || row.peer_port == 0);
        let ours = received.rows.into_iter().filter(counts);
        let events = ours.map(|row| Event { port: row.local_port, uid: row.uid, cookie: row.cookie }).collect();
        Ok(Drained { events, lost: received.lost })
    }
}

impl AsFd for Destroyed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The event sources of one wait.
#[derive(Debug)]
pub struct Watch {
    port: u16,
    events: Option<Destroyed>,
    /// A connected UDP socket holds a port just as an unconnected one does.
    udp: bool,
    holders: Vec<OwnedFd>,
}

impl Watch {
    /// Subscribes to `port`. If netlink is refused, polling is all there is, and [`Watch::is_subscribed`] is false.
    pub fn open(port: u16, protocol: Protocol) -> Self {
        let udp = protocol == Protocol::Udp;
        // Port 0 cannot be released by any process.
        let events = (port != 0).then(|| Destroyed::subscribe(&[(port, protocol)], Some(udp))).and_then(|events| {
            events.inspect_err(|error| tracing::debug!(port, %error, "no socket events from the kernel")).ok()
        });
        Self { port, events, udp, holders: Vec::new() }
    }

    /// True while the kernel reports closed sockets.
    pub fn is_subscribed(&self) -> bool {
        self.events.is_some()
    }

    /// Also watches for the exit of these holders; replaces earlier ones.
    pub fn follow(&mut self, pids: impl IntoIterator<Item = i32>) {
        self.holders = pids.into_iter().take(FOLLOWED).filter_map(|pid| pidfd::open(pid).ok()).collect();
    }

    /// Sets whether closed connections are events. Not while a process listens: a busy server closes thousands per
    /// second. True if that changed.
    pub fn count_connections(&mut self, peers: bool) -> bool {
        let peers = peers || self.udp;
        self.events.as_mut().is_some_and(|events| events.count_peers(peers))
    }

    /// Readable if something has happened on the port; [`Watch::take_events`] consumes it.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().map(AsFd::as_fd).chain(self.holders.iter().map(AsFd::as_fd))
    }

    /// Consumes what has happened on the port since the last call, without blocking. True: something has, so a try is
    /// due.
    pub fn take_events(&mut self) -> bool {
        // The pidfd of a holder that has exited meanwhile stays readable until the next call.
        self.drain() || self.drop_exited()
    }

    /// A pidfd stays readable after the exit, so it is dropped.
    fn drop_exited(&mut self) -> bool {
        if self.holders.is_empty() {
            return false;
        }
        let mut polled: Vec<PollFd<'_>> =
            self.holders.iter().map(|holder| PollFd::new(holder.as_fd(), PollFlags::POLLIN)).collect();
        let mut ended = wait_readable(&mut polled, Some(Instant::now())).into_iter();
        let before = self.holders.len();
        self.holders.retain(|_| !ended.next().unwrap_or_default());
        self.holders.len() < before
    }

    fn drain(&mut self) -> bool {
        let Some(events) = &self.events else { return false };
        match events.drain() {
            Ok(drained) => drained.lost || !drained.events.is_empty(),
            Err(error) => {
                tracing::debug!(port = self.port, %error, "the subscription to socket events failed; polling instead");
                self.events = None;
                true
            }
        }
    }
}

/// The delays between tries without an event.
#[derive(Debug)]
pub struct Pauses {
    backoff: Backoff,
    next: Duration,
    random: u64,
}

impl Pauses {
    #[allow(clippy::disallowed_methods, reason = "a start unlike others is all that is wanted of the clock")]
    pub fn new(backoff: Backoff) -> Self {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        let random = (u64::from(clock) << 32) | u64::from(std::process::id()) | 1;
        Self { backoff, next: backoff.min.max(SHORTEST), random }
    }

    /// With events, the longest delay: polling is only the fallback. Without, it doubles from `min` to `max` with full
    /// jitter, a random part of the whole, so that instances started together do not try together.
    pub fn next(&mut self, subscribed: bool) -> Duration {
        let longest = self.backoff.max.clamp(SHORTEST, LONGEST);
        if subscribed {
            return longest;
        }
        let whole = self.next.min(longest);
        self.next = whole.saturating_mul(2);
        let part = self.random() % u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(part).max(SHORTEST)
    }

    /// Marsaglia's xorshift64: good enough for spreading instances.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Pauses};
    use crate::port::policy::Backoff;

    fn backoff(min: u64, max: u64) -> Backoff {
        Backoff { min: Duration::from_millis(min), max: Duration::from_millis(max) }
    }

    #[test]
    fn with_events_the_pause_is_the_longest() {
        let mut pauses = Pauses::new(backoff(10, 1000));
        for _ in 0..10 {
            assert_eq!(pauses.next(true), Duration::from_secs(1));
        }
    }

    #[test]
    fn without_events_the_pause_doubles_and_never_leaves_its_range() {
        let mut pauses = Pauses::new(backoff(10, 1000));
        for whole in [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000] {
            let pause = pauses.next(false);
            assert!(
                pause >= Duration::from_millis(1) && pause <= Duration::from_millis(whole),
                "{pause:?} of {whole} ms"
            );
        }
        let late: Vec<_> = (0..50).map(|_| pauses.next(false)).collect();
        assert!(late.iter().any(|pause| *pause < Duration::from_millis(500)), "no jitter downwards: {late:?}");
        assert!(late.iter().any(|pause| *pause > Duration::from_millis(500)), "no jitter upwards: {late:?}");
    }

    #[test]
    fn a_backoff_of_zero_does_not_spin() {
        let mut pauses = Pauses::new(backoff(0, 0));
        assert_eq!((pauses.next(true), pauses.next(false)), (Duration::from_millis(1), Duration::from_millis(1)));
    }
}
