//! Owns what a healthcheck probes: the target from a trusted state file of `run`, else the one from the settings. Pure.
//! Must not know how a target is probed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::phase::{Probe, Ruling, rule};
use super::resolved::ResolvedTarget;
use super::settings::Subject;
use super::target::Target;
use crate::port::spec::{Protocol, Spec};
use crate::state::{Found, State};

/// What a healthcheck does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Ask {
        resolved: ResolvedTarget,
        /// Added to the reason: the state file is not trusted.
        note: Option<String>,
        /// The pid of the `run` whose app must answer, if instances share its port.
        own: Option<i32>,
    },
    /// The verdict is known without a probe.
    Decided { healthy: bool, about: String, reason: String },
    /// The target comes from the settings, and those are bad: unhealthy, with their errors on stderr.
    NeedsSettings { reason: String },
}

/// The primary port.
struct Place {
    addr: Option<IpAddr>,
    /// 0: unknown.
    port: u16,
}

/// Chooses the plan. Calls `found`, which reads the state file, only if the target is on the primary port: a full one needs no state.
pub fn decide(subject: &Subject, found: impl FnOnce() -> Found) -> Plan {
    match &subject.target {
        Some(target) if !target.needs_port() => return plan(Some(target), None, None, |_| String::new()),
        _ => {}
    }
    match found() {
        Found::Believed { state, pid, .. } => by_state(subject, &state, pid),
        Found::Dead { path, pid, why } => {
            let reason = format!("the run that wrote {} (pid {pid}) is gone: {why}", path.display());
            decided(false, "run", reason)
        }
        Found::NotBelieved { path, why } => by_settings(subject, Some(not_believed(&path, &why))),
        Found::Nothing => by_settings(subject, None),
    }
}

fn by_state(subject: &Subject, state: &State, pid: i32) -> Plan {
    let phase = state.phase.name();
    match rule(state.phase, subject.probe) {
        Ruling::Pass(why) => return decided(true, "run", format!("phase {phase}: {why}")),
        Ruling::Fail(why) => return decided(false, "run", format!("phase {phase}: {why}")),
        Ruling::Ask => {}
    }
    let from_run = pick(subject.probe, state.health.as_deref(), state.liveness.as_deref());
    let from_run: Option<Target> = match from_run.map(str::parse).transpose() {
        Ok(target) => target,
        Err(why) => return decided(false, "run", format!("its state file names a target that is not valid: {why}")),
    };
    let from_settings = pick(subject.probe, subject.health.as_ref(), subject.liveness.as_ref());
    let target = subject.target.as_ref().or(from_run.as_ref()).or(from_settings);
    let place = state.ports.iter().find(|port| port.protocol == Protocol::Tcp);
    let place = place.map(|port| Place { addr: probed_at(port.addr, &port.listens), port: port.port });
    // `run` is alive (with --exec, the app itself), and the phase says that the app runs.
    if place.is_none() && target.is_none() {
        return decided(
            true,
            "run",
            format!("phase {phase}: the app is running (run has pid {pid}), and there is no port or target to check"),
        );
    }
    match plan(target, place, None, |_| "run has not published its port yet".to_owned()) {
        Plan::Ask { resolved, note, .. } => {
            let own = (state.shared && target.is_none_or(Target::needs_port)).then_some(pid);
            Plan::Ask { resolved, note, own }
        }
        decided => decided,
    }
}

/// The address to probe on. The spec's address, if it has one. A wildcard means loopback, unless the app listens only on other addresses:
/// Next.js and others bind the address that HOSTNAME resolves to. `None`: 127.0.0.1, then `::1`.
fn probed_at(configured: Option<IpAddr>, listens: &[IpAddr]) -> Option<IpAddr> {
    let explicit = configured.filter(|addr| !addr.is_unspecified());
    let on_loopback =
        |addr: &IpAddr| addr.is_unspecified() || *addr == Ipv4Addr::LOCALHOST || *addr == Ipv6Addr::LOCALHOST;
    if explicit.is_some() || listens.iter().any(on_loopback) {
        return explicit;
    }
    // A link-local address (fe80::) is useless without its interface, so it comes last.
    let rank = |addr: &&IpAddr| (!addr.is_loopback(), matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local()));
    listens.iter().min_by_key(rank).copied()
}

fn by_settings(subject: &Subject, note: Option<String>) -> Plan {
    if let Some(first) = subject.deferred_errors.first() {
        return Plan::NeedsSettings { reason: with(first.clone(), note) };
    }
    let target =
        subject.target.as_ref().or_else(|| pick(subject.probe, subject.health.as_ref(), subject.liveness.as_ref()));
    let place = subject.ports.iter().find(|spec| spec.protocol == Protocol::Tcp);
    let place = place.map(|Spec { addr, port, .. }| Place { addr: *addr, port: *port });
    if place.is_none() && target.is_none() {
        let reason =
            "no run here, no port and no target: name one, or set --port or --health (REBERTH_PORT, REBERTH_HEALTH)";
        return decided(false, "nothing", with(reason.to_owned(), note));
    }
    let mut reason = "port 0 is any free port, and only the state file of a live run knows which";
    let mut place = place;
    // With a fallback the app may be on another port, and another program on this one.
    if subject.port_may_move {
        reason = "with a fallback (REBERTH_FALLBACK, REBERTH_PROFILE) only the state file knows the port";
        place = place.map(|place| Place { port: 0, ..place });
    }
    plan(target, place, note, |note| with(reason.to_owned(), note))
}

/// The plan for `target`, with the primary port at `place`. `unknown` gives the reason if that port is 0.
fn plan(
    target: Option<&Target>,
    place: Option<Place>,
    note: Option<String>,
    unknown: impl FnOnce(Option<String>) -> String,
) -> Plan {
    let on_primary = target.is_none_or(Target::needs_port);
    let (host, port) = match place {
        None if on_primary => {
            let reason =
                "it is on the primary port, and no tcp port is set; set --port (REBERTH_PORT), or name a full URL";
            return decided(false, &shown(target), with(reason.to_owned(), note));
        }
        Some(Place { port: 0, .. }) if on_primary => {
            return decided(false, &shown(target), unknown(note));
        }
        place => {
            let addr = place.as_ref().and_then(|place| place.addr).filter(|addr| !addr.is_unspecified());
            (addr.map_or("localhost".to_owned(), |addr| addr.to_string()), place.map_or(0, |place| place.port))
        }
    };
    let resolved = match ResolvedTarget::of(target, host, port) {
        Ok(resolved) => resolved,
        Err(why) => return decided(false, "target", with(format!("this is not a URL: {why}"), note)),
    };
    Plan::Ask { resolved, note, own: None }
}

/// The target of this probe. Liveness without a target uses readiness' target.
fn pick<T>(probe: Probe, health: Option<T>, liveness: Option<T>) -> Option<T> {
    match probe {
        Probe::Liveness => liveness.or(health),
        Probe::Readiness | Probe::Startup => health,
    }
}

fn shown(target: Option<&Target>) -> String {
    match target {
        None => "/".to_owned(),
        Some(target) => target.to_string(),
    }
}

fn decided(healthy: bool, about: &str, reason: String) -> Plan {
    Plan::Decided { healthy, about: about.to_owned(), reason }
}

fn not_believed(path: &Path, why: &str) -> String {
    format!("state file {} is not believed: {why}", path.display())
}

/// The reason, followed by the note.
pub fn with(reason: String, note: Option<String>) -> String {
    match note {
        Some(note) => format!("{reason}; {note}"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_probed_where_the_app_listens() {
        for (configured, listens, want) in [
            (None, &[][..], None),
            (None, &["0.0.0.0"], None),
            (None, &["::"], None),
            (None, &["127.0.0.1"], None),
            (None, &["::1"], None),
            (None, &["10.0.0.1", "127.0.0.1"], None),
            (None, &["10.0.0.1", "::"], None),
            (None, &["10.0.0.1", "::1"], None),
            (None, &["127.0.0.2"], Some("127.0.0.2")),
            (None, &["10.0.0.1", "127.0.0.2"], Some("127.0.0.2")),
            (None, &["172.17.0.2"], Some("172.17.0.2")),
            (Some("0.0.0.0"), &["172.17.0.2", "10.0.0.1"], Some("172.17.0.2")),
            (Some("::"), &["fd00::2"], Some("fd00::2")),
            (None, &["fe80::1", "fd00::2", "10.0.0.1"], Some("fd00::2")),
            (None, &["fe80::1"], Some("fe80::1")),
            (Some("::"), &["127.0.0.1"], None),
            (Some("0.0.0.0"), &["::1"], None),
            (Some("10.0.0.1"), &["127.0.0.1"], Some("10.0.0.1")),
            (Some("10.0.0.1"), &["10.0.0.2"], Some("10.0.0.1")),
        ] {
            let parse = |text: &str| text.parse::<IpAddr>().unwrap();
            let all: Vec<IpAddr> = listens.iter().map(|text| parse(text)).collect();
            assert_eq!(probed_at(configured.map(parse), &all), want.map(parse), "{configured:?} {listens:?}");
        }
    }
}
