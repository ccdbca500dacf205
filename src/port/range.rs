//! Owns the kernel's settings about port numbers, read on every call. Must not know what they are for.

use std::fs;
use std::ops::RangeInclusive;

/// The default first port of `ip_local_port_range`.
const DEFAULT_FIRST: u16 = 32_768;

fn read(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()
}

/// `ip_local_port_range`: the ports that the kernel uses for outgoing connections; the default if it cannot be read.
pub fn local() -> RangeInclusive<u16> {
    let text = read("ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().filter_map(|number| number.parse().ok());
    let (low, high) = (numbers.next().unwrap_or(DEFAULT_FIRST), numbers.next().unwrap_or(60999));
    low..=high
}

/// True if the kernel may use this port for an outgoing connection. Below the kernel's default range this is false
/// without reading the setting, which is rarely changed: it would cost a file read at each start.
pub fn may_be_taken(port: u16) -> bool {
    port >= DEFAULT_FIRST && local().contains(&port) && !reserved().iter().any(|range| range.contains(&port))
}

/// `ip_local_reserved_ports`: ports that an administrator keeps from outgoing connections.
pub fn reserved() -> Vec<RangeInclusive<u16>> {
    ranges(&read("ip_local_reserved_ports").unwrap_or_default())
}

/// The command that reserves this port. It includes the existing list, because the sysctl replaces the whole list.
pub fn reserve(port: u16) -> String {
    let list = read("ip_local_reserved_ports").unwrap_or_default();
    let list = list.trim();
    let comma = if list.is_empty() { "" } else { "," };
    format!("sysctl -w net.ipv4.ip_local_reserved_ports={list}{comma}{port}")
}

/// Whether this is the host network, not a container's: only the initial network namespace has all of `net.core`
/// (`netns_core_table` in net/core/sysctl_net_core.c).
pub fn is_the_hosts() -> bool {
    fs::exists("/proc/sys/net/core/netdev_budget").unwrap_or(false)
}

/// `ip_unprivileged_port_start`: below it, a bind needs CAP_NET_BIND_SERVICE.
pub fn unprivileged_from() -> u16 {
    read("ip_unprivileged_port_start").and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// `8080,9148-9150`
fn ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    let parts = text.trim().split(',').filter_map(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some(low.trim().parse().ok()?..=high.trim().parse().ok()?)
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn reserved_ports_as_the_kernel_writes_them() {
        assert_eq!(ranges("8080,9148-9150\n"), [8080..=8080, 9148..=9150]);
        assert_eq!(ranges("\n"), []);
    }
}
