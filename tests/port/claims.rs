//! The policy of claiming several ports, falling back and giving up, against a real kernel.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use reberth::port::claim::{Hold, Policy, Stop};
use reberth::port::policy::Fallback;
use reberth::port::spec::Spec;

use crate::net::{
    Claimant, WITH_RA, WITHOUT_RA, at_once, bound, by_event, claim, inside, lines, listening, spec, udp_spec,
};

const PORT: u16 = 20_000;

fn is_free(port: u16) -> bool {
    bound("0.0.0.0", port, WITHOUT_RA).is_ok()
}

#[test]
fn all_ports_are_claimed_or_none() {
    inside("claims::all_ports_are_claimed_or_none", || {
        let _holder = listening("0.0.0.0", PORT + 1, WITHOUT_RA);
        let specs = [spec("", PORT), spec("", PORT + 1), spec("", PORT + 2)];
        let text = lines(claim(&specs, &at_once()));
        assert!(text.contains(&format!("port {} is busy", PORT + 1)), "{text}");
        assert!(is_free(PORT) && is_free(PORT + 2));
    });
}

#[test]
fn ports_keep_the_configured_order_and_are_claimed_in_a_fixed_one() {
    inside("claims::ports_keep_the_configured_order_and_are_claimed_in_a_fixed_one", || {
        let low = listening("0.0.0.0", PORT, WITHOUT_RA);
        let high = listening("0.0.0.0", PORT + 1, WITHOUT_RA);
        let specs = [spec("", PORT + 2), spec("", PORT + 1), spec("", PORT), spec("", 0)];
        let claimant = Claimant::start(&specs, by_event(Duration::from_secs(50)));
        assert_eq!(claimant.caller.waits_for(), PORT);
        assert!(is_free(PORT + 2), "a higher port is held while a lower one is waited for");
        drop(low);
        assert_eq!(claimant.caller.waits_for(), PORT + 1);
        assert!(!is_free(PORT), "the lower port is ours by now");
        drop(high);
        let claims = claimant.end().unwrap();
        let ports: Vec<u16> = claims.iter().map(|claim| claim.port).collect();
        assert_eq!(ports[..3], [PORT + 2, PORT + 1, PORT]);
        assert_eq!(claims.iter().map(|claim| claim.spec.port).collect::<Vec<_>>(), [PORT + 2, PORT + 1, PORT, 0]);
        assert!(ports[3] != 0 && !ports[..3].contains(&ports[3]));
    });
}

/// A bound socket that does not listen keeps no process from listening; and a port may be waited for very long.
#[test]
fn a_port_that_was_taken_while_another_was_waited_for_is_claimed_again() {
    inside("claims::a_port_that_was_taken_while_another_was_waited_for_is_claimed_again", || {
        let high = listening("0.0.0.0", PORT + 1, WITHOUT_RA);
        let specs = [spec("", PORT), spec("", PORT + 1)];
        let policy = Policy { hold: Hold::Probe, ..by_event(Duration::from_secs(50)) };
        let claimant = Claimant::start(&specs, policy);
        assert_eq!(claimant.caller.waits_for(), PORT + 1);
        let thief = listening("0.0.0.0", PORT, WITH_RA);
        drop(high);
        assert_eq!(claimant.caller.waits_for(), PORT);
        drop(thief);
        let ports: Vec<u16> = claimant.end().unwrap().iter().map(|claim| claim.port).collect();
        assert_eq!(ports, [PORT, PORT + 1]);
    });
}

#[test]
fn what_can_never_be_bound_fails_before_anything_is_waited_for() {
    inside("claims::what_can_never_be_bound_fails_before_anything_is_waited_for", || {
        let _holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let specs = [spec("", PORT), spec("192.0.2.1", PORT + 1)];
        let started = Instant::now();
        let text = lines(claim(&specs, &by_event(Duration::from_secs(50))));
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(text.contains("does not have the address 192.0.2.1") && text.contains("127.0.0.1"), "{text}");
    });
}

#[test]
fn a_missing_permission_is_reported_with_its_reasons() {
    inside("claims::a_missing_permission_is_reported_with_its_reasons", || {
        let drop_capabilities = || {
            let header = [0x2008_0522_u32, 0];
            let none = [0u32; 6];
            // SAFETY: version 3 of the header and two empty triples, as capset(2) wants them.
            assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }, 0);
        };
        drop_capabilities();
        let text = lines(claim(&[spec("", 80)], &by_event(Duration::from_secs(50))));
        for part in
            ["port 80: permission denied", "uid 0", "lacks CAP_NET_BIND_SERVICE", "ip_unprivileged_port_start is 1024"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    });
}

#[test]
fn a_lack_of_descriptors_is_reported_with_the_limit() {
    inside("claims::a_lack_of_descriptors_is_reported_with_the_limit", || {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let (mut ear, _caller) = crate::net::ear();
        let next = std::fs::File::open("/dev/null").unwrap();
        let limit = u64::try_from(next.as_raw_fd()).unwrap();
        drop(next);
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        let text = lines(reberth::port::blocking::claim(&[spec("", PORT)], &at_once(), &mut ear));
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        assert!(text.contains(&format!("the limit is {limit}")), "{text}");
    });
}

#[test]
fn without_listening_no_client_can_connect() {
    inside("claims::without_listening_no_client_can_connect", || {
        let policy = Policy { hold: Hold::Probe, ..at_once() };
        let claims = claim(&[spec("", PORT)], &policy).unwrap();
        assert!(std::net::TcpStream::connect(("127.0.0.1", PORT)).is_err());
        // An app that sets SO_REUSEADDR does not block its own entrypoint.
        let _app = listening("0.0.0.0", PORT, WITH_RA);
        drop(claims);
        let claims = claim(&[spec("", PORT + 1)], &at_once()).unwrap();
        let client = std::net::TcpStream::connect(("127.0.0.1", PORT + 1));
        assert!(client.is_ok() && std::net::TcpStream::connect(("::1", PORT + 1)).is_ok(), "{client:?}");
        drop(claims);
    });
}

#[test]
fn claimed_sockets_are_as_promised() {
    inside("claims::claimed_sockets_are_as_promised", || {
        std::fs::write("/proc/sys/net/ipv6/bindv6only", "1").unwrap();
        let claims = claim(&[spec("", PORT), udp_spec(PORT)], &at_once()).unwrap();
        let socket = socket2::SockRef::from(&claims[0].socket);
        assert!(!socket.only_v6().unwrap(), "dual-stack whatever bindv6only says");
        assert!(socket.reuse_address().unwrap() && socket.tcp_nodelay().unwrap() && !socket.reuse_port().unwrap());
        assert!(socket.is_listener().unwrap() && cloexec(&claims[0].socket) && !socket.nonblocking().unwrap());
        let udp = socket2::SockRef::from(&claims[1].socket);
        assert!(!udp.reuse_address().unwrap() && !udp.only_v6().unwrap());
    });
}

fn cloexec(fd: &std::os::fd::OwnedFd) -> bool {
    let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    nix::fcntl::FdFlag::from_bits_truncate(flags).contains(nix::fcntl::FdFlag::FD_CLOEXEC)
}

#[test]
fn ipv4_is_the_wildcard_where_there_is_no_ipv6() {
    inside("claims::ipv4_is_the_wildcard_where_there_is_no_ipv6", || {
        // An IPv4 address claims the same port beside an IPv6-only wildcard.
        let claims = claim(&[spec("::", PORT), spec("0.0.0.0", PORT)], &at_once()).unwrap();
        let only: Vec<bool> =
            claims.iter().map(|claim| socket2::SockRef::from(&claim.socket).only_v6().unwrap_or_default()).collect();
        assert_eq!(only, [true, false]);
        drop(claims);
        refuse_ipv6();
        let claims = claim(&[spec("", PORT)], &at_once()).unwrap();
        assert_eq!(claims[0].addr, "0.0.0.0".parse::<std::net::IpAddr>().unwrap());
    });
}

#[test]
fn a_wildcard_works_where_ipv6_is_switched_off() {
    inside("claims::a_wildcard_works_where_ipv6_is_switched_off", || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let claims = claim(&[spec("", PORT)], &at_once()).unwrap();
        assert!(std::net::TcpStream::connect(("127.0.0.1", PORT)).is_ok(), "{claims:?}");
        let text = lines(claim(&[spec("::1", PORT + 1)], &at_once()));
        assert!(text.contains("does not have the address ::1"), "{text}");
    });
}

/// The answer of a kernel started with `ipv6.disable=1`: EAFNOSUPPORT.
pub fn refuse_ipv6() {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(0x20, 0, 0, 0),
        step(0x15, 0, 3, u32::try_from(libc::SYS_socket).unwrap()),
        step(0x20, 0, 0, 16),
        step(0x15, 0, 1, libc::AF_INET6.cast_unsigned()),
        step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT.cast_unsigned()),
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 6, filter: steps.as_mut_ptr() };
    // SAFETY: the program outlives the calls, which copy it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

fn fallen(specs: &[Spec], fallback: Fallback) -> Result<Vec<u16>, Stop> {
    let claims = claim(specs, &Policy { fallback, ..at_once() })?;
    Ok(claims.iter().map(|claim| claim.port).collect())
}

#[test]
fn fallback_next_takes_the_next_port_that_is_free_and_not_named() {
    inside("claims::fallback_next_takes_the_next_port_that_is_free_and_not_named", || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", format!("{}", PORT + 3)).unwrap();
        let _holders = [listening("0.0.0.0", PORT, WITHOUT_RA), listening("127.0.0.1", PORT + 1, WITHOUT_RA)];
        let specs = [spec("", PORT), spec("", PORT + 2)];
        // +1 is busy on one address, +2 is named by another spec, +3 is reserved.
        assert_eq!(fallen(&specs, Fallback::Next(100)).unwrap(), [PORT + 4, PORT + 2]);
        let text = lines(fallen(&specs, Fallback::Next(3)).map(|_| vec![]));
        assert!(text.contains("none of the next 3 ports"), "{text}");
        // A port is named whatever its protocol: here +2 by a UDP spec.
        let specs = [spec("", PORT), udp_spec(PORT + 2)];
        assert_eq!(fallen(&specs, Fallback::Next(100)).unwrap(), [PORT + 4, PORT + 2]);
        // Two ports that fall back do not collide.
        let specs = [spec("", PORT), spec("", PORT + 1)];
        for hold in [Hold::Listen, Hold::Probe, Hold::Bind] {
            let claims = claim(&specs, &Policy { fallback: Fallback::Next(100), hold, ..at_once() }).unwrap();
            assert_eq!(claims.iter().map(|claim| claim.port).collect::<Vec<_>>(), [PORT + 2, PORT + 4]);
        }
    });
}

#[test]
fn fallback_ends_at_the_last_port() {
    inside("claims::fallback_ends_at_the_last_port", || {
        let _holders = [listening("0.0.0.0", 65_534, WITHOUT_RA), listening("0.0.0.0", 65_535, WITHOUT_RA)];
        for port in [65_534, 65_535] {
            let text = lines(fallen(&[spec("", port)], Fallback::Next(100)).map(|_| vec![]));
            assert!(text.contains(&format!("port {port} is busy")), "{text}");
            assert_eq!(text.contains("no port lies above it"), port == 65_535, "{text}");
        }
    });
}

#[test]
fn fallback_any_takes_no_port_that_another_spec_names() {
    inside("claims::fallback_any_takes_no_port_that_another_spec_names", || {
        // The kernel may choose between two, and another spec names one of them.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "30000 30001").unwrap();
        let _holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        for hold in [Hold::Listen, Hold::Probe, Hold::Bind] {
            let policy = Policy { fallback: Fallback::Any, hold, ..at_once() };
            let claims = claim(&[spec("", PORT), spec("", 30_000)], &policy).unwrap();
            assert_eq!(claims.iter().map(|claim| claim.port).collect::<Vec<_>>(), [30_001, 30_000]);
        }
    });
}

#[test]
fn any_port_waits_where_none_is_left() {
    inside("claims::any_port_waits_where_none_is_left", || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "30000 30000").unwrap();
        let ports =
            |claims: Vec<reberth::port::claim::Claim>| claims.iter().map(|claim| claim.port).collect::<Vec<_>>();
        assert_eq!(ports(claim(&[spec("", 0)], &at_once()).unwrap()), [30_000]);
        let holder = listening("0.0.0.0", 30_000, WITHOUT_RA);
        let text = lines(claim(&[spec("", 0)], &at_once()));
        assert!(text.contains("ip_local_port_range"), "{text}");
        // There is no event for a port without a number; only polling finds it.
        let tick = Duration::from_millis(5);
        let backoff = reberth::port::policy::Backoff { min: tick, max: tick };
        let claimant = Claimant::start(&[spec("", 0)], Policy { backoff, ..by_event(Duration::from_secs(50)) });
        claimant.caller.waits_for();
        drop(holder);
        assert_eq!(ports(claimant.end().unwrap()), [30_000]);
    });
}
