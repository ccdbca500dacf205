//! Owns the messages about a port that cannot be claimed: why, and what the user can do. Must not know when they are
//! printed.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::holder::{Engine, Holder, Look, State, own_container};
use super::policy::{Fallback, Wait};
use super::range;
use super::spec::{Protocol, Spec};
use crate::error::words;
use crate::setting::{Source, table};
use crate::sys::process;

/// How advice names a setting that has its default. On a command line it is the flag. An image's ENTRYPOINT cannot be
/// given flags (`docker run IMAGE --wait 120s` is a COMMAND), so there it is the variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Voice {
    #[default]
    Flags,
    Variables,
    Both,
}

/// What is configured, as far as it affects the wording of advice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    pub voice: Voice,
    pub port: Source,
    pub wait: Source,
    pub fallback: Source,
    pub handover: Source,
    /// The sockets are handed over already.
    pub hands_over: bool,
    /// No other process writes to the terminal during the wait.
    pub alone: bool,
}

impl Given {
    /// What to type to change a setting. One that is set must be changed at its source: a variable does not override a
    /// flag.
    fn set(&self, flag: &str, value: &str) -> String {
        let source = match flag {
            "port" => self.port,
            "wait" => self.wait,
            "fallback" => self.fallback,
            "handover" => self.handover,
            _ => Source::Default,
        };
        let variable = if source == Source::Port {
            "PORT"
        } else {
            table::of_flag(flag, false).map_or("", |setting| setting.variable)
        };
        let by_flag = if value.is_empty() { format!("--{flag}") } else { format!("--{flag} {value}") };
        let by_variable = if value.is_empty() { variable.to_owned() } else { format!("{variable}={value}") };
        match (source, self.voice) {
            (Source::Flag, _) => by_flag,
            (Source::Variable | Source::Port, _) | (_, Voice::Variables) => by_variable,
            (_, Voice::Flags) => by_flag,
            (_, Voice::Both) => format!("{by_flag} or {by_variable}"),
        }
    }
}

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

/// One line for an error that waiting does not resolve.
pub fn never(spec: &Spec, error: &io::Error) -> String {
    let what = label(spec);
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => refused(spec, &what),
        Some(libc::EADDRNOTAVAIL) => {
            let asked = spec.addr.map_or_else(|| "any address".to_owned(), |addr| addr.to_string());
            let has = addresses().join(", ");
            format!(
                "{what}: this host does not have the address {asked}; it has {has}: name one of these, or leave the address out for all of them"
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
            format!("{what}: this host has no such address family: name an IPv4 address, or leave the address out")
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
    if spec.port >= start || may_bind_low() {
        return format!(
            "{what}: permission denied, though {known}: a security module (SELinux, AppArmor, seccomp) forbids it"
        );
    }
    let root = if uid.is_root() { "start" } else { "start as root (--user 0)" };
    let cure = if !process::is_contained() {
        "start as root, or give reberth's file the capability (setcap cap_net_bind_service=ep FILE) and let it hand the port over \
         (--handover bind, or on)"
            .to_owned()
    } else if range::is_the_hosts() {
        format!(
            "{root} with --cap-add NET_BIND_SERVICE, which a non-root uid does not get; on the host network the engine refuses --sysctl"
        )
    } else {
        "start with --sysctl net.ipv4.ip_unprivileged_port_start=0 (in a pod: securityContext.sysctls)".to_owned()
    };
    format!("{what}: permission denied: {known}: take a port from {start} up, or {cure}")
}

/// CapEff bit 10 of `/proc/thread-self/status`. In a user namespace that does not own the network namespace, it may be
/// set without effect.
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

/// The soft limit on file descriptors. Read with a system call: once the limit is reached, no file in `/proc` can be
/// opened.
fn limit() -> String {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    limit.map_or_else(|_| "unknown".to_owned(), |(soft, _)| soft.to_string())
}

/// All lines about one busy port after a timeout: the port, each holder, what to do.
pub fn busy(spec: &Spec, look: &Look, wait: Wait, fallback: Fallback, told: &Given) -> Vec<String> {
    let what = label(spec);
    let by = told.wait.place("wait", "REBERTH_WAIT");
    let waited = match (wait, told.wait) {
        (Wait::For(Duration::ZERO), Source::Flag) => format!("and was not waited for ({by} 0s)"),
        (Wait::For(Duration::ZERO), Source::Variable) => format!("and was not waited for ({by}=0s)"),
        (Wait::For(Duration::ZERO), Source::Profile) => format!("and was not waited for ({by} dev)"),
        (Wait::For(Duration::ZERO), Source::ProfileVariable) => format!("and was not waited for ({by}=dev)"),
        (Wait::For(Duration::ZERO), _) => "and was not waited for".to_owned(),
        (Wait::For(time), _) => format!("after {} ({by})", human(time)),
        (Wait::Forever, _) => "still".to_owned(),
    };
    let mut lines = vec![format!("{what} is busy {waited}")];
    lines.extend(look.holders.iter().map(|holder| held_by(spec, holder)));
    if let Some(incomplete) = look.incomplete {
        lines.push(format!("{what}: {incomplete}"));
    } else if look.holders.is_empty() {
        lines.push(format!("{what}: no holder is visible; it may have just released the port: start again"));
    }
    match fallback {
        Fallback::Next(_) if spec.port == u16::MAX => {
            lines.push(format!(
                "{what}: no port lies above it for --fallback next: {} takes any free port",
                told.set("fallback", "any")
            ));
        }
        Fallback::Next(count) => {
            let count = count.min(u16::MAX - spec.port);
            lines.push(format!(
                "{what}: none of the next {count} ports could be claimed either: allow more with {}, or any port with {}",
                told.set("fallback", "next:N"),
                told.set("fallback", "any")
            ));
        }
        Fallback::None | Fallback::Any => {}
    }
    lines.extend(advice(spec, look, told).into_iter().map(|advice| format!("{what}: {advice}")));
    lines
}

fn held_by(spec: &Spec, holder: &Holder) -> String {
    let since = holder.since.map(|since| format!(", since {}", super::holder::timestamp(since))).unwrap_or_default();
    format!("{} is held by {holder}{since}", label(spec))
}

/// What the user can do about a held port, one sentence each.
pub fn advice(spec: &Spec, look: &Look, told: &Given) -> Vec<String> {
    let mut advice = Vec::new();
    for group in crate::port::group::groups(spec) {
        advice.push(format!(
            "it is shared by the instances of {group} (--share): one with --share {group} (REBERTH_SHARE) joins them, and waits for nobody"
        ));
    }
    let has = |state: State| look.holders.iter().any(|holder| holder.state == state);
    if has(State::Client) {
        advice.push(format!(
            "a client connection was given this port because it lies in net.ipv4.ip_local_port_range: take a port outside, or \
             reserve it for the next start, which does not free it now: {}",
            range::reserve(spec.port)
        ));
    }
    if look.only_connections() && !has(State::Client) {
        advice.push(only_connections(look, told));
    }
    let silent: Vec<&Holder> = look.holders.iter().filter(|holder| holder.state.has_no_peer()).collect();
    if !silent.is_empty() {
        stop_them(spec, &silent, told, &mut advice);
    }
    if look.holders.iter().any(|holder| holder.reuse_port == Some(true)) {
        advice.push(
            "the holder has set SO_REUSEPORT: another program of the same user that sets it too would share the port unnoticed, and each would \
             get some of the clients; reberth waits until the port is free"
                .to_owned(),
        );
    }
    advice.push(format!(
        "or take another port: {}, {} or {}; clients configured with port {} (docker run -p, a Service, a probe) will not follow",
        told.set("fallback", "next"),
        told.set("fallback", "any"),
        told.set("port", ""),
        spec.port
    ));
    if has(State::Listening) && spec.protocol == Protocol::Tcp && !told.hands_over {
        advice.push(format!("to take over without refused clients next time: {}", told.set("handover", "bind")));
    }
    advice
}

/// No socket listens: the remaining connections expire by themselves.
fn only_connections(look: &Look, told: &Given) -> String {
    let left = look.time_wait().and_then(|_| look.holders.iter().filter_map(Holder::seconds_left).max());
    let again = "and make the old server set SO_REUSEADDR, which prevents this";
    match left {
        Some(0 | 1) => format!("this expires by itself within a second: start again, {again}"),
        Some(left) => {
            let enough = format!("{}s", (left + 10).max(75));
            format!("this expires by itself in {left}s: wait longer ({}), {again}", told.set("wait", &enough))
        }
        None => format!(
            "these connections end when their peers close: wait longer ({}), {again}",
            told.set("wait", "forever")
        ),
    }
}

/// How to stop the holders. A container's process is stopped through its engine: with a restart policy, a killed one is
/// back in a second.
fn stop_them(spec: &Spec, silent: &[&Holder], told: &Given, advice: &mut Vec<String>) {
    let longer = format!("or wait longer for it to exit ({}, or forever)", told.set("wait", "120s"));
    let ours = own_container();
    let suffix = if spec.protocol == Protocol::Udp { "/udp" } else { "" };
    let (mut pids, mut stops) = (BTreeSet::new(), BTreeSet::new());
    let (mut published, mut unseen) = (false, false);
    for holder in silent {
        match (holder.pid, &holder.container) {
            (None, _) => unseen = true,
            (Some(_), _) if holder.is_docker_proxy() => published = true,
            (Some(_), Some((id, engine))) if ours.as_ref() != Some(id) => {
                let id = id.get(..12).unwrap_or(id);
                stops.insert(match engine {
                    Engine::Docker => format!("docker stop {id}"),
                    Engine::Podman => format!("podman stop {id}"),
                    Engine::Cri => format!("crictl stop {id}; delete its pod, or the kubelet starts it again"),
                    Engine::Other => format!("container {id}"),
                });
            }
            (Some(pid), _) => {
                pids.insert(pid);
            }
        }
    }
    if published {
        advice.push(format!(
            "docker-proxy holds it for a container that publishes it: stop that container (docker ps --filter publish={}{suffix} names it); killing \
             docker-proxy would cut it off, and waiting does not help while it runs",
            spec.port
        ));
    }
    if !stops.is_empty() {
        let stops: Vec<String> = stops.into_iter().collect();
        advice.push(format!(
            "stop the holder's container ({}), because a restart policy would restart a killed one, {longer}",
            stops.join("; ")
        ));
    }
    if !pids.is_empty() {
        let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
        advice.push(format!("stop the holder (kill {}), {longer}", pids.join(" ")));
    }
    if unseen {
        advice.push(format!(
            "identify the holder where it is visible (on the host, as root: reberth who {}{suffix}) and stop it there, {longer}",
            spec.port
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::holder::Hidden;

    fn holder(pid: Option<i32>, command: &str, container: Option<Engine>) -> Holder {
        Holder {
            port: 53,
            protocol: Protocol::Udp,
            pid,
            command: pid.map(|_| command.to_owned()),
            uid: Some(0),
            user: None,
            container: container.map(|engine| ("0123456789abcdef".repeat(4), engine)),
            state: State::Bound,
            address: std::net::Ipv4Addr::UNSPECIFIED.into(),
            sockets: 1,
            since: None,
            left: None,
            hidden: pid.is_none().then_some(Hidden::Namespace),
            reuse_port: None,
        }
    }

    #[test]
    fn a_holder_is_stopped_by_what_started_it() {
        let spec: Spec = "53/udp".parse().unwrap();
        let proxy = "/usr/bin/docker-proxy -proto udp";
        for (holders, wanted) in [
            (vec![holder(Some(7), "app", None), holder(Some(9), "app", None)], "stop the holder (kill 7 9), or wait"),
            (vec![holder(Some(7), "app", Some(Engine::Docker))], "container (docker stop 0123456789ab), because"),
            (vec![holder(Some(7), "app", Some(Engine::Podman))], "container (podman stop 0123456789ab), because"),
            (vec![holder(Some(7), "app", Some(Engine::Cri))], "container (crictl stop 0123456789ab; delete its pod"),
            (vec![holder(Some(7), "app", Some(Engine::Other))], "container (container 0123456789ab), because"),
            (vec![holder(Some(7), proxy, None)], "stop that container (docker ps --filter publish=53/udp names it)"),
            (vec![holder(None, "", None)], "(on the host, as root: reberth who 53/udp)"),
        ] {
            let look = Look { holders, incomplete: None };
            let lines = advice(&spec, &look, &Given::default());
            assert_eq!(lines.iter().filter(|line| line.contains(wanted)).count(), 1, "{wanted}: {lines:?}");
            assert_eq!(lines.iter().any(|line| line.contains("(kill ")), wanted.contains("(kill "), "{lines:?}");
        }
    }

    #[test]
    fn a_setting_is_advised_where_it_can_be_changed() {
        for (source, voice, wanted) in [
            (Source::Default, Voice::Flags, "--wait 75s"),
            (Source::Default, Voice::Variables, "REBERTH_WAIT=75s"),
            (Source::Default, Voice::Both, "--wait 75s or REBERTH_WAIT=75s"),
            (Source::Flag, Voice::Variables, "--wait 75s"),
            (Source::Variable, Voice::Flags, "REBERTH_WAIT=75s"),
            (Source::ProfileVariable, Voice::Variables, "REBERTH_WAIT=75s"),
        ] {
            let given = Given { wait: source, voice, ..Given::default() };
            assert_eq!(given.set("wait", "75s"), wanted, "{source:?} {voice:?}");
        }
        let given = Given { port: Source::Port, ..Given::default() };
        assert_eq!(given.set("port", ""), "PORT");
    }

    #[test]
    fn the_advised_wait_outlasts_a_time_wait() {
        for (left, wanted) in
            [(0, "within a second: start again"), (59, "in 59s: wait longer (--wait 75s)"), (90, "--wait 100s")]
        {
            let wait =
                Holder { state: State::TimeWait, left: Some(Duration::from_secs(left)), ..holder(None, "", None) };
            let line = only_connections(&Look { holders: vec![wait], incomplete: None }, &Given::default());
            assert!(line.contains(wanted), "{line}");
        }
    }

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
