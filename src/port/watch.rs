//! Owns the event sources of a wait: destroyed sockets, the end of known holders, and the pauses of the clock under them. Must not know
//! who sleeps on them, or what is done when one of them speaks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags};

use crate::port::policy::Backoff;
use crate::port::spec::Protocol;
use crate::sys::descriptor::wait_readable;
use crate::sys::{netlink, pidfd};

/// More holders than this are not followed one by one; netlink hears them anyway.
const FOLLOWED: usize = 16;
/// A backoff of zero would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(1);
/// Nobody means more, and the clock can still be added to.
const LONGEST: Duration = Duration::from_secs(86_400);

impl From<Protocol> for netlink::Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

/// One socket on a watched port is gone: closed by everybody who had it, or its last holder ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub port: u16,
    /// Owner of the socket.
    pub uid: u32,
    /// The kernel's name for the socket (`SO_COOKIE`): tells one's own from others'.
    pub cookie: u64,
}

/// What a subscription has heard since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    pub events: Vec<Event>,
    /// The kernel's queue ran over, so there were more events than these.
    pub lost: bool,
}

/// A subscription to the end of sockets on some ports. While one is open, every TCP socket that closes on the machine costs the
/// kernel some microseconds more: open it late and drop it early.
///
/// The kernel tells a little late (some 0.1 ms, or an RCU grace period): a socket closed just before `open` may still be heard.
#[derive(Debug)]
pub struct Destroyed {
    socket: netlink::Destroyed,
    ports: Vec<u16>,
    /// Sockets with a peer count too.
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

    /// The same, but the kernel tells of every socket on the machine until [`Destroyed::narrow`] is called, and the others are sorted out
    /// here: compiling the filter is most of what a subscription costs, and an app that ends at once never needs it.
    ///
    /// # Errors
    /// As [`Destroyed::open`].
    pub fn open_wide(ports: &[(u16, Protocol)]) -> io::Result<Self> {
        Self::subscribe(ports, None)
    }

    /// Lets the kernel sort out what is not on these ports. A kernel that will not leaves it to [`Destroyed::drain`].
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

    /// Whether sockets with a peer count. True when this is new.
    fn count_peers(&mut self, peers: bool) -> bool {
        let changed = peers != self.peers && self.socket.filter(&self.ports, peers).is_ok();
        if changed {
            self.peers = peers;
        }
        changed
    }

    /// Everything heard so far, without waiting.
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

/// Everything one wait listens to.
#[derive(Debug)]
pub struct Watch {
    port: u16,
    events: Option<Destroyed>,
    /// Connected UDP sockets hold a port just as unconnected ones do.
    udp: bool,
    holders: Vec<OwnedFd>,
}

impl Watch {
    /// Subscribes to `port`. Netlink may be refused: then the clock is the only net, and `hears` says so.
    pub fn open(port: u16, protocol: Protocol) -> Self {
        let udp = protocol == Protocol::Udp;
        // Port 0 is no port anybody could free.
        let events = (port != 0).then(|| Destroyed::subscribe(&[(port, protocol)], Some(udp))).and_then(|events| {
            events.inspect_err(|error| tracing::debug!(port, %error, "no socket events from the kernel")).ok()
        });
        Self { port, events, udp, holders: Vec::new() }
    }

    /// True while the kernel tells about closed sockets.
    pub fn hears(&self) -> bool {
        self.events.is_some()
    }

    /// Listens to the end of these holders as well; replaces earlier ones.
    pub fn follow(&mut self, pids: impl IntoIterator<Item = i32>) {
        self.holders = pids.into_iter().take(FOLLOWED).filter_map(|pid| pidfd::open(pid).ok()).collect();
    }

    /// Whether the end of a mere connection counts. Not while somebody listens: a busy server ends thousands a second.
    /// True when this is new.
    pub fn count_connections(&mut self, peers: bool) -> bool {
        let peers = peers || self.udp;
        self.events.as_mut().is_some_and(|events| events.count_peers(peers))
    }

    /// What becomes readable when something has happened on the port; [`Watch::hear`] takes it.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().map(AsFd::as_fd).chain(self.holders.iter().map(AsFd::as_fd))
    }

    /// Takes what has happened on the port since the last call, without waiting. True: something has, so a try is due after this.
    pub fn hear(&mut self) -> bool {
        // A holder that has ended meanwhile stays readable, and is heard next time.
        self.drain() || self.forget_ended()
    }

    /// One that ended stays readable for ever: it has said all it can.
    fn forget_ended(&mut self) -> bool {
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
                tracing::debug!(port = self.port, %error, "socket events broke; going by the clock");
                self.events = None;
                true
            }
        }
    }
}

/// The pauses between tries that no event asked for.
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

    /// With events the pause is the longest one: a net under them. Without, it doubles from `min` to `max` with full jitter, a
    /// random part of the whole, so that instances that started together do not try together.
    pub fn next(&mut self, hears: bool) -> Duration {
        let longest = self.backoff.max.clamp(SHORTEST, LONGEST);
        if hears {
            return longest;
        }
        let whole = self.next.min(longest);
        self.next = whole.saturating_mul(2);
        let part = self.random() % u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(part).max(SHORTEST)
    }

    /// Marsaglia's xorshift64: apart from each other is all that instances need to be.
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
    fn with_events_the_pause_is_the_net() {
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
    fn a_backoff_of_zero_is_no_busy_loop() {
        let mut pauses = Pauses::new(backoff(0, 0));
        assert_eq!((pauses.next(true), pauses.next(false)), (Duration::from_millis(1), Duration::from_millis(1)));
    }
}
