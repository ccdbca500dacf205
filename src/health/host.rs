//! Owns how a host is written: brackets and zones of IPv6 addresses, and the names for this host. Must not know what runs there.

use std::net::IpAddr;

/// Adds `[…]` around an IPv6 address. A zone that starts with `25` gets an encoded `%`, or it would be read back as an encoded zone.
pub fn bracketed(host: &str) -> String {
    match host.split_once('%') {
        _ if !host.contains(':') => host.to_owned(),
        Some((address, zone)) if zone.starts_with("25") => format!("[{address}%25{zone}]"),
        _ => format!("[{host}]"),
    }
}

/// An IPv6 address without its zone. Any other host is returned unchanged.
pub fn without_zone(host: &str) -> &str {
    match host.split_once('%') {
        Some((address, _)) if host.contains(':') => address,
        _ => host,
    }
}

/// The zone after an address' `%`, read as browsers and curl do: `25` completes an encoded `%`, unless nothing follows it.
pub fn plain_zone(text: &str) -> &str {
    text.strip_prefix("25").filter(|zone| !zone.is_empty()).unwrap_or(text)
}

/// Whether a host means this host, in any address family: `localhost`, `0.0.0.0`, `::`.
pub fn is_here(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}
