//! Owns parsing a socket address from another process's memory. Must not know whose memory it was, or what the address
//! is for.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// `sizeof(struct sockaddr_in)` (`ip(7)`). The kernel requires all of it, with the padding.
const V4_SIZE: usize = 16;

/// `SIN6_LEN_RFC2133` of `linux/ipv6.h`, the minimum that `bind(2)` accepts for IPv6: the address without its scope id.
const V6_LEAST: usize = 24;

/// An IPv4 or IPv6 address in this machine's layout (`ip(7)`, `ipv6(7)`); `None` for anything that `bind(2)` would not
/// accept as one. Bytes behind it are ignored: many programs pass the length of a whole `struct sockaddr_storage`.
///
/// AF_UNSPEC with an all-zero address is 0.0.0.0, for IPv4 sockets only, as in `inet_bind` (`net/ipv4/af_inet.c`).
pub fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
    let port = u16::from_be_bytes(array(bytes, 2)?);
    match family {
        libc::AF_INET | libc::AF_UNSPEC if bytes.len() >= V4_SIZE => {
            let ip = Ipv4Addr::from(array::<4>(bytes, 4)?);
            (family == libc::AF_INET || ip.is_unspecified()).then(|| SocketAddrV4::new(ip, port).into())
        }
        libc::AF_INET6 if bytes.len() >= V6_LEAST => {
            let flow = u32::from_ne_bytes(array(bytes, 4)?);
            let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
            let scope = array(bytes, V6_LEAST).map_or(0, u32::from_ne_bytes);
            Some(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(family: i32, port: u16, ip: [u8; 4]) -> Vec<u8> {
        let mut bytes = u16::try_from(family).unwrap().to_ne_bytes().to_vec();
        bytes.extend(port.to_be_bytes());
        bytes.extend(ip);
        bytes.extend([0; 8]);
        bytes
    }

    fn v6(port: u16, ip: &str, scope: u32) -> Vec<u8> {
        let mut bytes = u16::try_from(libc::AF_INET6).unwrap().to_ne_bytes().to_vec();
        bytes.extend(port.to_be_bytes());
        bytes.extend(7_u32.to_ne_bytes());
        bytes.extend(ip.parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(scope.to_ne_bytes());
        bytes
    }

    #[test]
    fn addresses_are_read_as_bind_reads_them() {
        let storage = |mut bytes: Vec<u8>| {
            bytes.resize(128, 0xff);
            bytes
        };
        for (bytes, expected) in [
            (v4(libc::AF_INET, 8080, [127, 0, 0, 1]), Some("127.0.0.1:8080")),
            (storage(v4(libc::AF_INET, 65535, [0; 4])), Some("0.0.0.0:65535")),
            (v4(libc::AF_INET, 80, [1, 2, 3, 4])[..15].to_vec(), None),
            (v4(libc::AF_UNSPEC, 80, [0; 4]), Some("0.0.0.0:80")),
            (v4(libc::AF_UNSPEC, 80, [127, 0, 0, 1]), None),
            (v6(0, "::", 0), Some("[::]:0")),
            (storage(v6(443, "::1", 0)), Some("[::1]:443")),
            (v6(443, "fe80::1", 3), Some("[fe80::1%3]:443")),
            // Without a scope id, as in RFC 2133; and with half of one.
            (v6(443, "fe80::1", 3)[..24].to_vec(), Some("[fe80::1]:443")),
            (v6(443, "fe80::1", 3)[..26].to_vec(), Some("[fe80::1]:443")),
            (v6(443, "::1", 0)[..23].to_vec(), None),
            (b"\x01\x00/run/app.sock\0\0\0".to_vec(), None),
            (vec![2], None),
            (Vec::new(), None),
        ] {
            let parsed = parse_address(&bytes).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), expected, "{bytes:?}");
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn the_layout_is_the_c_librarys() {
        for text in ["10.1.2.3:8080", "[2001:db8::7]:443", "[fe80::1%9]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let laid_out = socket2::SockAddr::from(address);
            let length = usize::try_from(laid_out.len()).unwrap();
            // SAFETY: socket2 returns the start and length of its address, which outlives the slice.
            let bytes = unsafe { std::slice::from_raw_parts(laid_out.as_ptr().cast::<u8>(), length) };
            assert_eq!(parse_address(bytes), Some(address));
        }
    }
}
