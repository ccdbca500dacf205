//! How a port is held until the app's own bind: no other process can take it, and no client is accepted.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reberth::port::claim::{Claim, Hold, Policy};
use socket2::{Domain, SockRef, Socket, Type};

use crate::net::{
    Claimant, Made, Program, WITH_RA, WITHOUT_RA, at_once, bound, by_event, claim, clock, inside, leave_time_wait,
    lines, spec, udp_spec,
};

const PORT: u16 = 20_000;
const V6_ONLY: Made = Made { reuse_address: true, reuse_port: false, v6_only: true };
const WITH_RP: Made = Made { reuse_address: true, reuse_port: true, v6_only: false };

fn at_bind() -> Policy {
    Policy { hold: Hold::Bind, ..at_once() }
}

/// No other process can bind any address of the port, whatever options it sets, and no client is accepted.
fn assert_held_in_silence(port: u16) {
    for (address, made) in [
        ("0.0.0.0", WITHOUT_RA),
        ("0.0.0.0", WITH_RA),
        ("0.0.0.0", WITH_RP),
        ("127.0.0.1", WITH_RA),
        ("::", WITH_RA),
        ("::", V6_ONLY),
        ("::1", WITH_RA),
        ("::ffff:127.0.0.1", WITH_RA),
    ] {
        let error = bound(address, port, made).expect_err(address);
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{address}");
    }
    for host in ["127.0.0.1", "::1"] {
        let refused = TcpStream::connect((host, port)).expect_err(host);
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{host}");
    }
}

fn is_silent(claim: &Claim) -> bool {
    let socket = SockRef::from(&claim.socket);
    !socket.is_listener().unwrap() && !socket.reuse_address().unwrap() && !socket.reuse_port().unwrap()
}

#[test]
fn a_wildcard_is_held_in_silence() {
    inside("hold::a_wildcard_is_held_in_silence", || {
        leave_time_wait(PORT + 1, WITH_RA);
        let claims = claim(&[spec("", PORT), spec("", PORT + 1), spec("", 0)], &at_bind()).unwrap();
        for claim in &claims {
            assert!(is_silent(claim), "{claim:?}");
            assert_held_in_silence(claim.port);
        }
        assert_eq!(claims[0].addr, "::".parse::<std::net::IpAddr>().unwrap());
        let ports: Vec<u16> = claims.iter().map(|claim| claim.port).collect();
        drop(claims);
        for port in ports {
            assert!(bound("::", port, WITH_RA).is_ok(), "{port} is let go");
        }
    });
}

#[test]
fn an_address_listens_and_its_port_outlives_that() {
    inside("hold::an_address_listens_and_its_port_outlives_that", || {
        for (address, port) in [("0.0.0.0", PORT), ("127.0.0.1", PORT + 1), ("::1", PORT + 2), ("127.0.0.1", 0)] {
            let claims = claim(&[spec(address, port)], &at_bind()).unwrap();
            let (socket, port) = (SockRef::from(&claims[0].socket), claims[0].port);
            assert!(socket.is_listener().unwrap() && socket.reuse_address().unwrap(), "{address}");
            assert!(socket.tcp_nodelay().unwrap(), "{address}");
            // An app may shut it down. The kernel would then release a port that it has chosen itself.
            socket.shutdown(std::net::Shutdown::Both).unwrap();
            assert!(bound(address, port, WITHOUT_RA).is_err(), "{address}:{port} is lost");
        }
    });
}

#[test]
fn without_ipv6_the_wildcard_that_is_held_is_the_other_one() {
    inside("hold::without_ipv6_the_wildcard_that_is_held_is_the_other_one", || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let claims = claim(&[spec("", PORT)], &at_bind()).unwrap();
        assert!(is_silent(&claims[0]));
        assert!(bound("127.0.0.1", PORT, WITH_RA).is_err());
    });
}

#[test]
fn udp_is_bound_whatever_the_hold() {
    inside("hold::udp_is_bound_whatever_the_hold", || {
        let claims = claim(&[udp_spec(PORT), udp_spec(0)], &at_bind()).unwrap();
        assert!(claims.iter().all(|claim| claim.port != 0 && !SockRef::from(&claim.socket).reuse_address().unwrap()));
    });
}

/// The same rows as for a port that is probed: it is busy only if the app could not bind it.
#[test]
fn only_what_would_block_the_app_makes_a_port_busy() {
    inside("hold::only_what_would_block_the_app_makes_a_port_busy", || {
        let _silent = bound("0.0.0.0", PORT, WITH_RA).unwrap();
        assert!(claim(&[spec("", PORT)], &at_bind()).is_ok_and(|claims| is_silent(&claims[0])));
        let _blocks = bound("0.0.0.0", PORT + 1, WITHOUT_RA).unwrap();
        let text = lines(claim(&[spec("", PORT + 1)], &at_bind()));
        assert!(text.contains("bound to 0.0.0.0:20001, not listening"), "{text}");
        leave_time_wait(PORT + 2, WITHOUT_RA);
        assert!(lines(claim(&[spec("", PORT + 2)], &at_bind())).contains("TIME_WAIT"));
        // Another reberth that holds the port silently is a holder like any other, and its exit is an event.
        let first = claim(&[spec("", PORT + 3)], &at_bind()).unwrap();
        let policy = Policy { hold: Hold::Bind, ..by_event(Duration::from_secs(50)) };
        let claimant = Claimant::start(&[spec("", PORT + 3)], policy);
        assert_eq!(claimant.caller.waits_for(), PORT + 3);
        drop(first);
        let second = claimant.end().unwrap();
        assert!(second[0].waited < Duration::from_secs(5) && is_silent(&second[0]));
    });
}

const ROUNDS: u16 = 150;

/// Two programs race for a port, each round on another port from `first` up; counts the rounds in which neither gets it.
fn race(first: u16, (one, other): (&str, &str), left: impl Fn(u16)) -> u16 {
    let mut programs = [Program::start("race"), Program::start("race")];
    let mut neither = 0;
    for port in first..first + ROUNDS {
        left(port);
        let when = clock() + 300_000;
        for (program, (hold, address)) in
            programs.iter_mut().zip([one, other].map(|asked| asked.split_once(' ').unwrap()))
        {
            program.write(&format!("{hold} {address}{port} {when}"));
        }
        let has = programs.each_mut().map(|program| program.line() == "has it");
        assert!(!(has[0] && has[1]), "both have port {port}: {one}, {other}");
        neither += u16::from(!has[0] && !has[1]);
        programs.iter_mut().for_each(|program| program.write(""));
        programs.iter_mut().for_each(|program| assert_eq!(program.line(), "let go"));
    }
    neither
}

#[test]
fn of_two_that_hold_a_port_in_one_moment_one_has_it() {
    inside("hold::of_two_that_hold_a_port_in_one_moment_one_has_it", || {
        let times = std::env::var("REBERTH_TEST_ROUNDS").map_or(1, |times| times.parse().unwrap());
        for pair in [
            ("BIND ", "BIND "),
            ("BIND ", "LISTEN "),
            ("BIND 0.0.0.0:", "BIND "),
            ("BIND 127.0.0.1:", "BIND "),
            ("BIND 0.0.0.0:", "BIND [::]:"),
        ] {
            for _ in 0..times {
                let free = race(PORT, pair, |_| {});
                let after = race(PORT + 1000, pair, |port| leave_time_wait(port, WITH_RA));
                println!("{pair:?}: neither has it in {free} of {ROUNDS} rounds, {after} of {ROUNDS} after a server");
            }
        }
    });
}

/// To be sure that it is alone, it listens for a moment. A client that was accepted then would be reset.
#[test]
fn no_client_is_accepted_until_the_holder_is_decided() {
    inside("hold::no_client_is_accepted_until_the_holder_is_decided", || {
        leave_time_wait(PORT, WITH_RA);
        const CLIENTS: usize = 2000;
        let asked = Arc::new(AtomicUsize::new(0));
        let client = std::thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                let mut let_in = 0;
                while asked.fetch_add(1, Ordering::Relaxed) < CLIENTS {
                    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    let _ = socket.connect(&SocketAddr::from(([127, 0, 0, 1], PORT)).into());
                    let error = socket.take_error().unwrap().map(|error| error.kind());
                    let_in += u32::from(error == Some(ErrorKind::ConnectionReset) || socket.peer_addr().is_ok());
                }
                let_in
            }
        });
        while asked.load(Ordering::Relaxed) < CLIENTS {
            assert!(is_silent(&claim(&[spec("", PORT)], &at_bind()).unwrap()[0]));
        }
        assert_eq!(client.join().unwrap(), 0, "of {CLIENTS} clients");
    });
}
