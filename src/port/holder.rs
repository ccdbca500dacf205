//! Owns finding the holder of a port: sockets matched to processes, with less detail if less can be read. Must not know
//! what follows.

mod found;
mod listeners;
pub mod processes;
pub mod sockets;
mod words;

pub use found::{Hidden, Holder, Look, State};
pub use listeners::{Listener, accept_queue, bound_udp, can_see_programs, had_by, hidden_users, listeners, listening};
pub use processes::{Engine, own_container};
pub use words::{short, timestamp};

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::port::attempt::binds_with_reuse_port;
use crate::port::spec::{Protocol, Spec};
use crate::sys::netlink::{self, Row};

/// How detailed a look is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The kernel's list of sockets only: microseconds.
    Sockets,
    /// Processes too: milliseconds, once per message; with very many of them, [`look_while`] can be stopped.
    Programs,
}

/// The reason if even "any port" is busy.
const EXHAUSTED: &str = "every port the kernel may choose is taken: widen net.ipv4.ip_local_port_range";

/// The holders of the port of `spec`, at its address or at one that excludes it.
pub fn look(spec: &Spec, depth: Depth) -> Look {
    look_while(spec, depth, &mut || true)
}

/// The same, but processes are searched only while `go_on` returns true; it is called about once per millisecond until
/// then.
pub fn look_while(spec: &Spec, depth: Depth, go_on: &mut dyn FnMut() -> bool) -> Look {
    if spec.port == 0 {
        return Look { incomplete: Some(EXHAUSTED), ..Look::default() };
    }
    // The list of listeners costs the same however many connections the machine has, and usually suffices: a listener's
    // connections are closed with it.
    let listeners = match spec.protocol {
        Protocol::Tcp => rows(spec, netlink::LISTEN).ok().filter(|(rows, _)| !rows.is_empty()),
        Protocol::Udp => None,
    };
    // A bound socket that does not listen blocks the port as well, whatever connections exist.
    let others = || {
        let (mut all, incomplete) = rows(spec, netlink::ALL)?;
        if spec.protocol == Protocol::Tcp {
            all.extend(rows(spec, netlink::BOUND)?.0);
        }
        Ok::<_, io::Error>((all, incomplete))
    };
    match listeners.map_or_else(others, Ok) {
        Ok((rows, incomplete)) => {
            let mut look = Look { incomplete, ..identify(rows, spec.protocol, depth, go_on) };
            if depth == Depth::Programs {
                probe_by_binding(spec, &mut look.holders);
            }
            look
        }
        Err(_) => Look { incomplete: Some("neither netlink nor /proc/net can be read here"), ..Look::default() },
    }
}

/// A listener that we may not inspect has set SO_REUSEPORT if another socket with it can be bound: the kernel allows
/// that among sockets of the same user that have all set it (`inet_csk_bind_conflict`). A socket that does not listen
/// gets no client.
fn probe_by_binding(spec: &Spec, holders: &mut [Holder]) {
    let unknown = |holder: &Holder| holder.state == State::Listening && holder.reuse_port.is_none();
    let others = holders.iter().any(|holder| holder.reuse_port == Some(false));
    if !others && holders.iter().any(unknown) && binds_with_reuse_port(spec) {
        holders.iter_mut().filter(|holder| unknown(holder)).for_each(|holder| holder.reuse_port = Some(true));
    }
}

fn rows(spec: &Spec, states: u32) -> io::Result<(Vec<Row>, Option<&'static str>)> {
    let asked = sockets::reach_of(spec);
    let (mut rows, incomplete) = sockets::list(spec.protocol, states, spec.port)?;
    rows.retain(|row| sockets::overlap(asked, sockets::reach(row.local, row.v6_only == Some(true))));
    Ok((rows, incomplete))
}

/// Every listener in this network namespace: TCP, and UDP sockets without a peer.
///
/// # Errors
/// Neither netlink nor `/proc/net` can be read.
pub fn everybody() -> io::Result<Look> {
    let (tcp, incomplete) = sockets::list(Protocol::Tcp, netlink::LISTEN, 0)?;
    let (udp, _) = sockets::list(Protocol::Udp, 1 << 7, 0)?;
    let mut all = identify(tcp, Protocol::Tcp, Depth::Programs, &mut || true);
    all.holders.extend(identify(udp, Protocol::Udp, Depth::Programs, &mut || true).holders);
    all.holders.sort_by_key(|holder| (holder.port, holder.protocol, holder.address, holder.pid));
    Ok(Look { incomplete, ..all })
}

fn identify(rows: Vec<Row>, protocol: Protocol, depth: Depth, go_on: &mut dyn FnMut() -> bool) -> Look {
    let mut seen: Vec<(State, Row)> =
        rows.into_iter().filter_map(|row| Some((State::of(&row, protocol)?, row))).collect();
    mark_clients(&mut seen);
    let holders = match depth {
        Depth::Sockets => group(seen, protocol, &processes::Search::default()),
        Depth::Programs => {
            let inodes: HashSet<u64> = seen.iter().map(|(_, row)| row.inode).filter(|inode| *inode != 0).collect();
            let mut holders = group(seen, protocol, &processes::search(&inodes, go_on));
            describe(&mut holders);
            holders
        }
    };
    Look { holders, incomplete: None }
}

/// A connection on a port without a listener is a client's if its peer port does not look like a client's.
fn mark_clients(seen: &mut [(State, Row)]) {
    let range = crate::port::range::local();
    let mut servers: Option<HashSet<u16>> = None;
    for (state, row) in seen {
        let connected = matches!(state, State::Established | State::CloseWait | State::FinWait);
        if !connected || !range.contains(&row.local_port) {
            continue;
        }
        // Both ports are in the kernel's range, but a local server may still listen on one.
        let listens = || listening(0).unwrap_or_default().into_iter().map(|listener| listener.port).collect();
        if !range.contains(&row.peer_port) || servers.get_or_insert_with(listens).contains(&row.peer_port) {
            *state = State::Client;
        }
    }
}

/// What merges sockets into one holder: state, port, pid, uid, and for sockets without a peer the address.
type Same = (State, u16, Option<i32>, Option<u32>, Option<IpAddr>);

fn group(seen: Vec<(State, Row)>, protocol: Protocol, search: &processes::Search) -> Vec<Holder> {
    let own = nix::unistd::geteuid().as_raw();
    let mut groups: BTreeMap<Same, Holder> = BTreeMap::new();
    for (state, row) in seen {
        let pids =
            search.pids.get(&row.inode).map_or_else(|| vec![None], |pids| pids.iter().copied().map(Some).collect());
        for pid in pids {
            let uid = (row.inode != 0).then_some(row.uid);
            // Connections of one process are one holder, whatever their address; listeners are one each.
            let apart = state.has_no_peer().then_some(row.local);
            let new = || Holder {
                port: row.local_port,
                protocol,
                pid,
                command: None,
                uid,
                user: None,
                container: None,
                state,
                address: row.local,
                sockets: 0,
                since: None,
                left: None,
                hidden: Hidden::why(pid, &row, state, search, own),
                reuse_port: None,
            };
            let holder = groups.entry((state, row.local_port, pid, uid, apart)).or_insert_with(new);
            let left = timed(state, &row);
            holder.left = if holder.sockets == 0 {
                left
            } else {
                holder.left.and_then(|before| left.map(|left| before.max(left)))
            };
            holder.sockets += 1;
            // One of them suffices: all are of the same process.
            if state.has_no_peer()
                && holder.reuse_port != Some(true)
                && let Some(pid) = pid
            {
                holder.reuse_port = processes::shares(pid, row.inode).or(holder.reuse_port);
            }
        }
    }
    groups.into_values().collect()
}

/// How long the kernel keeps a socket that no process has open. Other states depend on their peers.
fn timed(state: State, row: &Row) -> Option<Duration> {
    let orphaned = row.state == FIN_WAIT_2 && row.inode == 0 && !row.expires.is_zero();
    (state == State::TimeWait || orphaned).then_some(row.expires)
}

/// `TCP_FIN_WAIT2` of `net/tcp_states.h`.
const FIN_WAIT_2: u8 = 5;

fn describe(holders: &mut [Holder]) {
    let mut facts: HashMap<i32, processes::Facts> = HashMap::new();
    for holder in holders {
        if let Some(pid) = holder.pid {
            let known = facts.entry(pid).or_insert_with(|| processes::facts(pid)).clone();
            holder.command = known.command;
            holder.uid = known.uid.or(holder.uid);
            holder.container = known.container;
            holder.since = known.since;
        }
        holder.user = holder.uid.and_then(processes::user);
    }
}
