//! Owns the messages about a starting app: what it does, and how to fix it. Must not know when they are logged.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::fact::Evidence;
use crate::error::words;
use crate::port::advice::{human, label};
use crate::port::holder::Listener;
use crate::port::spec::Spec;

/// How to make an app use the socket it is given.
const TAKE_IT: &str = "make it use the file descriptor ({fd}, LISTEN_FDS), or set --handover off";

/// Why an app does not serve its port, as far as can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unserved {
    /// It has not taken the socket it was given.
    NotTaken,
    /// /proc cannot be read.
    NoProc,
    /// It runs as these users, whose sockets cannot be inspected.
    Hidden(Vec<u32>),
    Nowhere,
    Elsewhere(Vec<Listener>),
}

pub fn ready(port: Option<u16>, took: Duration) -> String {
    let took = took.as_millis();
    match port {
        Some(port) => format!("the app is ready on port {port} after {took} ms"),
        None => format!("the app is ready after {took} ms"),
    }
}

pub fn serves_now(port: u16) -> String {
    format!("the app serves port {port} now: earlier warnings about it no longer apply")
}

/// Polling ends after this long.
pub fn looking_ended(after: Duration) -> String {
    format!("the app has not become ready in {} minutes: no longer checking for it", after.as_secs() / 60)
}

/// The app listens on a side port. `expected`: on another of its configured ports, not on the first.
pub fn elsewhere_so_far(found: &Listener, expected: bool, port: u16) -> String {
    let place = place(found);
    let first = if expected { format!(", and not on port {port}, its first port") } else { String::new() };
    format!("the app listens on {place} so far{first}; still waiting for it on port {port}")
}

/// The same, once it is unlikely that the app will still listen on the port.
pub fn elsewhere(found: &Listener, expected: bool, port: u16, evidence: Evidence) -> String {
    let place = place(found);
    if expected {
        return format!(
            "the app listens on {place}, and not on port {port}, its first port: it is not ready until it does"
        );
    }
    let loopback =
        if found.addr.is_loopback() { ", and on loopback only: unreachable from outside the container" } else { "" };
    let ignored =
        if evidence.is_of_given_socket() { " and ignores the socket it was given (LISTEN_FDS, {fd})" } else { "" };
    format!(
        "the app listens on {place}, not on port {port} as configured{ignored}{loopback}; make it take PORT from its environment, \
         or write {{port}} into its arguments, and bind 0.0.0.0"
    )
}

pub fn nowhere_so_far(age: Duration, port: u16) -> String {
    format!("the app is not listening on any port yet, after {}; still waiting for it on port {port}", human(age))
}

pub fn nowhere(age: Duration, port: u16) -> String {
    format!(
        "the app is still not listening on any port after {}; it was given port {port} (PORT, {{port}}): check its own log",
        human(age)
    )
}

pub fn closed(port: u16) -> String {
    format!("the app has closed the socket it was given for port {port}: clients are refused; {TAKE_IT}")
}

pub fn queue(clients: u32, port: u16) -> String {
    format!(
        "{clients} clients wait on port {port} and the app accepts none of them: it is still starting, or ignores the socket it was \
         given; {TAKE_IT}"
    )
}

pub fn not_taken(port: u16) -> String {
    format!("the app has not taken the socket it was given for port {port}: clients wait until it does; {TAKE_IT}")
}

/// What is wrong with the address the app listens on, if anything is.
pub fn wrong_address(primary: &Spec, here: &[Listener]) -> Option<String> {
    let everywhere = primary.addr.is_none_or(|addr| addr.is_unspecified());
    if everywhere && here.iter().all(|found| found.addr.is_loopback()) {
        Some(format!(
            "the app listens on loopback only ({}): unreachable from outside the container; make it bind 0.0.0.0",
            show(here)
        ))
    } else if everywhere && here.iter().all(|found| !found.addr.is_unspecified()) {
        Some(format!(
            "the app listens on {} only, not on all addresses: connections to other addresses, 127.0.0.1 included, are refused; make it bind \
             0.0.0.0 (HOST or HOSTNAME, if it reads its address from there)",
            show(here)
        ))
    } else if !everywhere && !here.iter().any(|found| found.answers(primary)) {
        Some(format!(
            "the app listens on {}, not on {} as configured; make it bind {{addr}}, or {{host}} and {{port}}, from its arguments",
            show(here),
            label(primary)
        ))
    } else {
        None
    }
}

pub fn bind_waits(port: u16) -> String {
    format!("the app waits in its bind for port {port}: its startup will not delay the takeover")
}

pub fn clients_reset(clients: u32, place: SocketAddr) -> String {
    format!(
        "{clients} clients that had queued were cut off: the app binds {place}, which is not the address in --port; name that address in \
         --port"
    )
}

pub fn calls_lost(why: &str) -> String {
    format!("--handover bind (REBERTH_HANDOVER) has ended: {why}; continuing as with --handover off")
}

/// Why a bind of the app cannot be answered, and how to fix it.
pub fn bind_unreadable(error: &io::Error) -> String {
    let why = words(error);
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!(
            "the app's bind cannot be read ({why}): the app runs as another user than reberth, or is not dumpable; start the container \
             as that user (USER, --user), or add CAP_SYS_PTRACE"
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            format!("the app's bind cannot be inspected ({why}): raise the limit of open files (ulimit -n)")
        }
        _ => format!("the app's bind cannot be answered ({why})"),
    }
}

/// For the diagnosis of an app that was not ready in time.
pub fn unserved(why: &Unserved, port: u16) -> String {
    match why {
        Unserved::NotTaken => {
            format!("it was given the socket for port {port} (LISTEN_FDS, {{fd}}) and has not taken it")
        }
        Unserved::NoProc => format!(
            "no process listens on port {port}, which the app was given (PORT, {{port}}); where it listens cannot be seen without /proc"
        ),
        Unserved::Hidden(users) => format!(
            "it was given port {port} (PORT, {{port}}); where it listens cannot be seen, because it runs as another user (uid {})",
            users.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        ),
        Unserved::Nowhere => format!("it is not listening on any port; it was given port {port} (PORT, {{port}})"),
        Unserved::Elsewhere(listeners) => format!(
            "it was given port {port} and listens on {} instead: make it take PORT from its environment or {{port}} from its arguments",
            show(listeners)
        ),
    }
}

/// The addresses of these listeners, without duplicates.
pub fn addresses(listeners: &[Listener]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for found in listeners {
        if !addresses.contains(&found.addr) {
            addresses.push(found.addr);
        }
    }
    addresses
}

/// `127.0.0.1:80, [::1]:80`
fn show(listeners: &[Listener]) -> String {
    listeners.iter().map(|found| place(found).to_string()).collect::<Vec<_>>().join(", ")
}

fn place(found: &Listener) -> SocketAddr {
    SocketAddr::new(found.addr, found.port)
}
