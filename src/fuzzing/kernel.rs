//! Owns the checks of what comes from the kernel, from files and from the app's memory: netlink messages, files in `/proc`, the first
//! bytes of a program, the address of a bind. Must not know system calls.

use std::net::{IpAddr, SocketAddr};

use super::is_one_line;
use crate::app::launch::interpreter;
use crate::port::holder::processes::{container, name_in, one_line, started};
use crate::port::holder::sockets;
use crate::state::parse_stat;
use crate::sys::netlink::messages;
use crate::sys::notify::{parse_address, parse_flags};

/// One datagram of `NETLINK_SOCK_DIAG`.
pub fn netlink(data: &[u8]) {
    let mut seen = 0;
    messages(data, None, |_, row| {
        seen += 1;
        if let Some(row) = row {
            assert_eq!(row.local.is_ipv4(), row.peer.is_ipv4());
        }
    });
    assert!(seen <= data.len() / 16, "{seen} messages in {} bytes", data.len());
}

/// One file of `/proc`, parsed as each kind that reberth reads.
pub fn proc_files(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    if let Some((id, _)) = container(text) {
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id:?}");
    }
    let _ = started(text);
    assert!(
        parse_flags(data).is_none() || data.starts_with(b"flags:") || data.windows(7).any(|part| part == b"\nflags:")
    );
    let _ = parse_stat(data);
    let command = one_line(text);
    assert!(!command.contains(char::is_control) && command.chars().count() <= 4096, "{command:?}");
    for uid in [0, 33, u32::MAX] {
        assert!(name_in(text, uid).is_none_or(|name| !name.is_empty() && !name.contains(['\n', ':'])), "{text:?}");
    }
    for row in text.lines().filter_map(sockets::parse) {
        let reach = sockets::reach(row.local, row.v6_only == Some(true));
        assert!(sockets::overlap(reach, reach), "{row:?} excludes itself");
        let mapped = matches!(row.local, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        assert!(!mapped || reach.1.is_none(), "{row:?}");
    }
}

/// The address that an app passes to bind(2).
pub fn address(data: &[u8]) {
    let parsed = parse_address(data);
    // Bytes after the largest kind of address are ignored.
    assert_eq!(parsed, parse_address(data.get(..28).unwrap_or(data)));
    let Some(parsed) = parsed else { return };
    assert!(data.len() >= if parsed.is_ipv4() { 16 } else { 24 }, "{parsed} of {} bytes", data.len());
    let bytes = match &parsed {
        SocketAddr::V4(v4) => [&v4.port().to_be_bytes()[..], &v4.ip().octets()].concat(),
        SocketAddr::V6(v6) => [&v6.port().to_be_bytes()[..], &v6.flowinfo().to_ne_bytes(), &v6.ip().octets()].concat(),
    };
    assert!(data.get(2..).is_some_and(|rest| rest.starts_with(&bytes)), "{parsed} is not what stands there");
}

/// The first bytes of a program that could not be executed.
pub fn head(data: &[u8]) {
    if let Some(name) = interpreter(data) {
        assert!(!name.is_empty() && name.len() <= 3 * data.len() + 100, "{name:?}");
        // An error quotes it, and any user may have written the file.
        assert!(is_one_line(&crate::setting::value::one_line(&name)), "{name:?}");
    }
}
