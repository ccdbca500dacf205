//! Owns the list of sockets on a port, from inet_diag or else `/proc/net`, and which addresses exclude each other. Must
//! not know the processes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::port::spec::{Protocol, Spec};
use crate::sys::netlink::{self, Row};

/// The addresses that a socket serves, one per family; unspecified: all of that family.
pub type Reach = (Option<Ipv4Addr>, Option<Ipv6Addr>);

/// What a socket bound to `address` serves.
pub fn reach(address: IpAddr, v6_only: bool) -> Reach {
    match address {
        IpAddr::V4(v4) => (Some(v4), None),
        IpAddr::V6(v6) if v6.is_unspecified() && v6_only => (None, Some(v6)),
        IpAddr::V6(v6) if v6.is_unspecified() => (Some(Ipv4Addr::UNSPECIFIED), Some(v6)),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => (Some(v4), None),
            None => (None, Some(v6)),
        },
    }
}

/// What a spec means to serve; no address means all.
pub fn reach_of(spec: &Spec) -> Reach {
    reach(spec.addr.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), false)
}

/// True if only one of the two can have a port: they share an address, or one is a wildcard over the other's.
pub fn overlap(one: Reach, other: Reach) -> bool {
    let v4 = matches!((one.0, other.0), (Some(a), Some(b)) if a == b || a.is_unspecified() || b.is_unspecified());
    let v6 = matches!((one.1, other.1), (Some(a), Some(b)) if a == b || a.is_unspecified() || b.is_unspecified());
    v4 || v6
}

/// The sockets of `protocol` with the local port `port` (0: any) in `states` (a mask of `1 << state`), and why the list
/// is incomplete, if it is.
///
/// # Errors
/// Neither netlink nor `/proc/net` can be read.
pub fn list(protocol: Protocol, states: u32, port: u16) -> io::Result<(Vec<Row>, Option<&'static str>)> {
    match netlink::dump(protocol.into(), states, port) {
        Ok(rows) => Ok((rows, None)),
        Err(refused) => {
            let rows = from_proc(protocol, states, port).map_err(|_| refused)?;
            Ok((
                rows,
                Some(
                    "the kernel refuses socket diagnostics (seccomp or gVisor), so sockets that are bound without listening are not shown",
                ),
            ))
        }
    }
}

fn from_proc(protocol: Protocol, states: u32, port: u16) -> io::Result<Vec<Row>> {
    let name = protocol.name();
    let v4 = std::fs::read_to_string(format!("/proc/net/{name}"))?;
    // The file is missing if IPv6 is disabled.
    let v6 = std::fs::read_to_string(format!("/proc/net/{name}6")).unwrap_or_default();
    let rows = v4.lines().chain(v6.lines()).filter_map(parse);
    Ok(rows.filter(|row| states >> row.state.min(31) & 1 == 1 && (port == 0 || row.local_port == port)).collect())
}

/// A line of `/proc/net/{tcp,tcp6,udp,udp6}` (`tcp4_seq_show` in `net/ipv4/tcp_ipv4.c`). The heading and anything
/// unexpected: `None`.
pub(crate) fn parse(line: &str) -> Option<Row> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, local_port) = endpoint(fields.next()?)?;
    let (peer, peer_port) = endpoint(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let (_, receive_queue) = fields.next()?.split_once(':')?;
    let (_, when) = fields.next()?.split_once(':')?;
    let uid = fields.nth(1)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Row {
        state,
        local,
        local_port,
        peer,
        peer_port,
        // In ticks of USER_HZ, 100 per second on every platform that Rust supports.
        expires: Duration::from_millis(u64::from_str_radix(when, 16).ok()?.saturating_mul(10)),
        receive_queue: u32::from_str_radix(receive_queue, 16).ok()?,
        uid,
        inode,
        cookie: 0,
        v6_only: None,
    })
}

/// `0100007F:1F90`: words of the address in the machine's byte order, the port as a number.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?)
        }
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use super::{IpAddr, overlap, parse, reach};

    #[test]
    fn overlap_agrees_with_the_kernel() {
        // (holder, holder is IPv6 only, asked, asked is IPv6 only, do they exclude each other)
        let table = [
            ("0.0.0.0", false, "0.0.0.0", false, true),
            ("0.0.0.0", false, "127.0.0.1", false, true),
            ("0.0.0.0", false, "::", false, true),
            ("0.0.0.0", false, "::", true, false),
            ("127.0.0.1", false, "0.0.0.0", false, true),
            ("127.0.0.2", false, "127.0.0.1", false, false),
            ("127.0.0.2", false, "::", false, true),
            ("::", false, "0.0.0.0", false, true),
            ("::", false, "::1", false, true),
            ("::", true, "0.0.0.0", false, false),
            ("::", true, "::", false, true),
            ("::1", false, "0.0.0.0", false, false),
            ("::1", false, "::", false, true),
            ("::ffff:127.0.0.1", false, "127.0.0.1", false, true),
            ("::ffff:127.0.0.1", false, "0.0.0.0", false, true),
            ("::ffff:127.0.0.1", false, "::", true, false),
            ("::ffff:127.0.0.1", false, "::1", false, false),
        ];
        for (holder, holder_only, asked, asked_only, expected) in table {
            let parse = |text: &str| text.parse::<IpAddr>().unwrap();
            let (one, other) = (reach(parse(holder), holder_only), reach(parse(asked), asked_only));
            assert_eq!(overlap(one, other), expected, "{holder} (v6 only: {holder_only}) and {asked} ({asked_only})");
            assert_eq!(overlap(other, one), expected, "the other way round: {holder} and {asked}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_proc_net() {
        let heading =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(parse(heading), None);
        let listener = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000  1000        0 12345 1 0 100 0";
        let row = parse(listener).unwrap();
        assert_eq!((row.local, row.local_port, row.state), ("127.0.0.1".parse().unwrap(), 8080, 10));
        assert_eq!((row.uid, row.inode, row.receive_queue), (1000, 12345, 3));
        let leftover =
            "   1: 0100007F:1F90 0100007F:C000 06 00000000:00000000 03:0000176C 00000000     0        0 0 3 0";
        assert_eq!(parse(leftover).unwrap().expires.as_millis(), 59_960);
        let v6 =
            "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 9 1";
        assert_eq!(parse(v6).unwrap().local, "::1".parse::<IpAddr>().unwrap());
    }
}
