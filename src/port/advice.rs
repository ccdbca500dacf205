//! Owns the sentences about a port that cannot be had: why, and what the user can do. Must not know when they are printed.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::holder::{Holder, Look, State};
use super::range;
use super::spec::{Protocol, Spec};
use crate::config::{Fallback, Wait};
use crate::error::words;

/// `port 8080`, `port 127.0.0.1:8080`, `port 53/udp`, `port [::1]:80`.
pub fn label(spec: &Spec) -> String {
    let port = match spec.addr {
        Some(addr) => std::net::SocketAddr::new(addr, spec.port).to_string(),
        None => spec.port.to_string(),
    };
    match spec.protocol {
        Protocol::Tcp => format!("port {port}"),
        Protocol::Udp => format!("port {port}/udp"),
    }
}

/// `60s`, `1.5s`, `350ms`, rounded: for a reader, not for a parser.
pub fn human(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0..1000 => format!("{millis}ms"),
        1000..9950 => {
            let tenths = (millis + 50) / 100;
            if tenths.is_multiple_of(10) {
                format!("{}s", tenths / 10)
            } else {
                format!("{}.{}s", tenths / 10, tenths % 10)
            }
        }
        _ => format!("{}s", (millis + 500) / 1000),
    }
}

/// One line on an error that no waiting heals.
pub fn never(spec: &Spec, error: &io::Error) -> String {
    let what = label(spec);
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => refused(spec, &what),
        Some(libc::EADDRNOTAVAIL) => {
            let asked = spec.addr.map_or_else(|| "any address".to_owned(), |addr| addr.to_string());
            let has = addresses().join(", ");
            format!(
                "{what}: this host does not have the address {asked}; it has {has}: name one of these, or none for all of them"
            )
        }
        Some(libc::EMFILE) => {
            format!(
                "{what}: no more file descriptors, the limit is {}: raise it (docker run --ulimit nofile=…)",
                limit()
            )
        }
        Some(libc::ENFILE) => format!("{what}: the host has no more file descriptors (sysctl fs.file-max): free some"),
        Some(libc::EAFNOSUPPORT) => {
            format!("{what}: this host has no such address family: name an IPv4 address, or none")
        }
        Some(libc::EINVAL) => {
            format!("{what}: the kernel refuses this address; a link-local one needs an interface: name another")
        }
        _ => format!("{what}: cannot bind: {}", words(error)),
    }
}

fn refused(spec: &Spec, what: &str) -> String {
    let uid = nix::unistd::geteuid();
    let start = range::unprivileged_from();
    let capable = if may_bind_low() { "has" } else { "lacks" };
    let known = format!("uid {uid} {capable} CAP_NET_BIND_SERVICE, net.ipv4.ip_unprivileged_port_start is {start}");
    if spec.port < start && !may_bind_low() {
        format!(
            "{what}: permission denied: {known}: take a port from {start} up, or start with --cap-add NET_BIND_SERVICE as root, \
             or with --sysctl net.ipv4.ip_unprivileged_port_start=0"
        )
    } else {
        format!("{what}: permission denied, though {known}: a security module (SELinux, AppArmor, seccomp) forbids it")
    }
}

/// CapEff bit 10, as `/proc/thread-self/status` has it; in a user namespace that does not own the network it may be set and yet not count.
fn may_bind_low() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits >> 10 & 1 == 1)
}

fn addresses() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| address.ip().to_string());
        let v6 = address.as_sockaddr_in6().map(|address| address.ip().to_string());
        all.extend(v4.or(v6).filter(|text| !all.contains(text)));
    }
    if all.is_empty() { vec!["none that is up".to_owned()] } else { all }
}

/// The soft limit on descriptors. Asked by a syscall: where it is reached, no file in `/proc` can be opened any more.
fn limit() -> String {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    limit.map_or_else(|_| "unknown".to_owned(), |(soft, _)| soft.to_string())
}

/// Every line about one busy port when the wait is over: the port, each holder, what to do.
pub fn busy(spec: &Spec, look: &Look, wait: Wait, fallback: Fallback) -> Vec<String> {
    let what = label(spec);
    let waited = match wait {
        Wait::For(Duration::ZERO) => "and was not waited for (--wait 0s)".to_owned(),
        Wait::For(time) => format!("after {} (--wait)", human(time)),
        Wait::Forever => "still".to_owned(),
    };
    let mut lines = vec![format!("{what} is busy {waited}")];
    lines.extend(look.holders.iter().map(|holder| held_by(spec, holder)));
    if let Some(incomplete) = look.incomplete {
        lines.push(format!("{what}: {incomplete}"));
    } else if look.holders.is_empty() {
        lines.push(format!("{what}: no holder is visible; it may have let go just now: start again"));
    }
    match fallback {
        Fallback::Next(_) if spec.port == u16::MAX => {
            lines
                .push(format!("{what}: no port lies above it for --fallback next: --fallback any takes one elsewhere"));
        }
        Fallback::Next(count) => {
            let count = count.min(u16::MAX - spec.port);
            lines.push(format!("{what}: none of the next {count} ports could be had either: allow more with --fallback next:N, or --fallback any"));
        }
        Fallback::None | Fallback::Any => {}
    }
    lines.extend(advice(spec, look).into_iter().map(|advice| format!("{what}: {advice}")));
    lines
}

fn held_by(spec: &Spec, holder: &Holder) -> String {
    let since = holder.since.map(|since| format!(", since {}", super::holder::timestamp(since))).unwrap_or_default();
    format!("{} is held by {holder}{since}", label(spec))
}

/// What the user can do about a held port, a sentence each.
pub fn advice(spec: &Spec, look: &Look) -> Vec<String> {
    let mut advice = Vec::new();
    for group in crate::share::groups(spec) {
        advice.push(format!(
            "it is shared by the instances of {group} (--share): one with --share {group} (REBERTH_SHARE) joins them, and waits for nobody"
        ));
    }
    let has = |state: State| look.holders.iter().any(|holder| holder.state == state);
    if has(State::Client) {
        advice.push(format!(
            "a client connection was given this port since it lies in net.ipv4.ip_local_port_range: take a port outside, \
             or reserve it with sysctl net.ipv4.ip_local_reserved_ports={}",
            spec.port
        ));
    }
    if look.only_connections() && !has(State::Client) {
        let left = look.time_wait().and_then(|_| look.holders.iter().filter_map(Holder::seconds_left).max());
        advice.push(match left {
            Some(left) => format!(
                "this ends by itself in {left}s: wait longer (--wait 90s), and let the old server set SO_REUSEADDR, then it never blocks"
            ),
            None => "these connections end when their peers close: wait longer (--wait), and let the old server set SO_REUSEADDR, \
                     then they never block"
                .to_owned(),
        });
    }
    let silent = look.holders.iter().filter(|holder| holder.state.has_no_peer());
    let pids: BTreeSet<i32> = silent.filter_map(|holder| holder.pid).collect();
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    if !pids.is_empty() {
        advice.push(format!(
            "stop the holder (kill {}), or wait longer for it to end (--wait 120s, --wait forever)",
            pids.join(" ")
        ));
    } else if look.holders.iter().any(|holder| holder.state.has_no_peer()) {
        advice.push("stop the holder where it is visible (its container, its user, the host), or wait longer for it (--wait 120s, --wait forever)".to_owned());
    }
    if look.holders.iter().any(|holder| holder.reuse_port == Some(true)) {
        advice.push(
            "the holder has set SO_REUSEPORT: a program of its user that sets it too would share the port with it unnoticed, and each would \
             get a part of the clients; reberth waits until the port is free"
                .to_owned(),
        );
    }
    advice.push("or take another port: --fallback next, --fallback any, or --port".to_owned());
    if has(State::Listening) && spec.protocol == Protocol::Tcp {
        advice.push(
            "to take over without refused clients next time: --handover on, if the app takes a listening socket"
                .to_owned(),
        );
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::{Duration, human};

    #[test]
    fn durations_are_rounded_for_the_reader() {
        let table = [
            (0, "0ms"),
            (350, "350ms"),
            (1000, "1s"),
            (1449, "1.4s"),
            (1950, "2s"),
            (9_949, "9.9s"),
            (9_950, "10s"),
            (59_980, "60s"),
        ];
        for (millis, expected) in table {
            assert_eq!(human(Duration::from_millis(millis)), expected, "{millis}");
        }
    }
}
