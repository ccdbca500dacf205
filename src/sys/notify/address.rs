//! Owns the reading of what a program's memory has where it says that an address is. Must not know whose memory it was, nor what it is for.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// `sizeof(struct sockaddr_in)` (`ip(7)`). The kernel wants the whole of it, padding too.
const V4_SIZE: usize = 16;

/// `SIN6_LEN_RFC2133` of `linux/ipv6.h`, the least that `bind(2)` takes for IPv6: the address without its zone.
const V6_LEAST: usize = 24;

/// An IPv4 or IPv6 address in the layout of this machine (`ip(7)`, `ipv6(7)`); `None` for whatever `bind(2)` would not take as one.
/// What stands behind it does not count: many a program passes the length of a whole `struct sockaddr_storage`.
///
/// AF_UNSPEC with an address of zero is 0.0.0.0, as `inet_bind` of `net/ipv4/af_inet.c` has it; for IPv4 sockets alone.
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
            // Without its zone, as RFC 2133 had it; and with half of one.
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
    fn it_is_the_layout_of_the_c_library() {
        for text in ["10.1.2.3:8080", "[2001:db8::7]:443", "[fe80::1%9]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let laid_out = socket2::SockAddr::from(address);
            let length = usize::try_from(laid_out.len()).unwrap();
            // SAFETY: socket2 says where its address is and how long, and it outlives the slice.
            let bytes = unsafe { std::slice::from_raw_parts(laid_out.as_ptr().cast::<u8>(), length) };
            assert_eq!(parse_address(bytes), Some(address));
        }
    }
}
