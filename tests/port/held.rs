//! The sockets that answer an app's own bind, on a real kernel: each behaves as the app's own bind would, and the port remains claimed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::OwnedFd;

use reberth::port::claim::{Hold, Policy};
use reberth::port::held::{Held, Want};
use reberth::port::policy::Fallback;
use reberth::port::spec::Spec;
use socket2::{Domain, Socket, Type};

use crate::net::{Made, WITH_RA, WITHOUT_RA, at_once, bound, claim, connection, inside, listening, spec, until_closed};

const PORT: u16 = 20_000;
/// The port on which the same bind is made without reberth.
const CONTROL: u16 = 10_000;
const V6_ONLY: Made = Made { reuse_address: true, reuse_port: false, v6_only: true };

/// `0.0.0.0`, `::` (both families), `::|6` (IPv6 only).
fn want(text: &str) -> Want {
    let (ip, v6_only) = text.strip_suffix("|6").map_or((text, false), |ip| (ip, true));
    Want { ip: ip.parse().unwrap(), scope_id: 0, v6_only }
}

fn held(specs: &[Spec]) -> Held {
    Held::new(claim(specs, &Policy { hold: Hold::Bind, ..at_once() }).unwrap()).unwrap()
}

/// The app's side: the sockets it was given, as its own descriptors.
#[derive(Default)]
struct App {
    sockets: Vec<(u64, Socket)>,
}

impl App {
    fn has(&self, inode: u64) -> bool {
        self.sockets.iter().any(|(other, _)| *other == inode)
    }

    /// The app binds; returns the inode it gets, and how many clients that has reset.
    fn try_bind(&mut self, held: &mut Held, port: u16, want: &Want) -> std::io::Result<(u64, u32)> {
        let index = held.leads_to(port, want, &mut |inode| self.has(inode)).expect("no affair of ours");
        let given = held.socket_for(index, want, &mut |inode| self.has(inode))?;
        let (inode, reset) = (given.inode, given.reset);
        let own: OwnedFd = given.socket.try_clone_to_owned().unwrap();
        assert_eq!(nix::sys::stat::fstat(&own).unwrap().st_ino, inode);
        assert!(held.find(inode).is_some());
        self.sockets.push((inode, own.into()));
        Ok((inode, reset))
    }

    fn bind(&mut self, held: &mut Held, port: u16, text: &str) -> u64 {
        self.try_bind(held, port, &want(text)).unwrap_or_else(|error| panic!("{text}: {error}")).0
    }

    fn socket(&self, inode: u64) -> &Socket {
        &self.sockets.iter().find(|(other, _)| *other == inode).unwrap().1
    }

    /// Closes the app's descriptors of this inode.
    fn close(&mut self, inode: u64) {
        self.sockets.retain(|(other, _)| *other != inode);
    }
}

/// Connects to this host, and accepts on each of these listeners: which one got the connection, and how it sees the client.
fn arrives(listeners: &[&Socket], host: &str, port: u16) -> Vec<(usize, SocketAddr)> {
    let Ok(_client) = TcpStream::connect((host, port)) else { return Vec::new() };
    let mut got = Vec::new();
    for (position, listener) in listeners.iter().enumerate() {
        listener.set_nonblocking(true).unwrap();
        if let Ok((server, peer)) = listener.accept() {
            // No TIME_WAIT may be left behind.
            server.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            let mut peer = peer.as_socket().unwrap();
            peer.set_port(0);
            got.push((position, peer));
        }
        listener.set_nonblocking(false).unwrap();
    }
    got
}

/// How the listener sees a client from this host, if it gets the connection.
fn reaches(listener: &Socket, host: &str, port: u16) -> Option<SocketAddr> {
    arrives(&[listener], host, port).first().map(|(_, peer)| *peer)
}

/// No other process can listen on any of these addresses of the port.
fn assert_kept(port: u16, addresses: &[&str]) {
    for address in addresses {
        let made = if *address == "::" { V6_ONLY } else { WITH_RA };
        let taken = bound(address, port, made).and_then(|socket| socket.listen(1));
        let error = taken.expect_err(&format!("{address}:{port} can be taken"));
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{address}:{port}");
    }
}

const EVERYWHERE: &[&str] = &["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", "::ffff:127.0.0.1"];
const WANTED: &[&str] =
    &["0.0.0.0", "::", "::|6", "127.0.0.1", "127.0.0.2", "::1", "::1|6", "::ffff:127.0.0.1", "::ffff:0.0.0.0"];

fn assert_as_bound_by_itself(specs: &str, wanted: &str, port: u16, socket: &Socket) {
    let what = format!("{wanted} under {specs}");
    let control =
        listening(wanted.trim_end_matches("|6"), CONTROL, Made { v6_only: wanted.ends_with("|6"), ..WITH_RA });
    let mut expected = control.local_addr().unwrap().as_socket().unwrap();
    expected.set_port(port);
    assert_eq!(socket.local_addr().unwrap().as_socket(), Some(expected), "{what}");
    assert_eq!(socket.domain().unwrap(), control.domain().unwrap(), "{what}");
    if expected.is_ipv6() {
        assert_eq!(socket.only_v6().unwrap(), control.only_v6().unwrap(), "{what}");
    }
    assert!(socket.is_listener().unwrap() && !socket.nonblocking().unwrap(), "{what}");
    assert!(socket.reuse_address().unwrap() && !socket.reuse_port().unwrap() && socket.tcp_nodelay().unwrap());
    for host in ["127.0.0.1", "127.0.0.2", "::1"] {
        assert_eq!(reaches(socket, host, port), reaches(&control, host, CONTROL), "{what}: a client of {host}");
    }
}

#[test]
fn each_socket_is_what_a_bind_of_the_apps_own_would_have_been() {
    inside("held::each_socket_is_what_a_bind_of_the_apps_own_would_have_been", || {
        let mut port = PORT;
        for specs in ["", "0.0.0.0", "::"] {
            for wanted in WANTED.iter().filter(|wanted| specs != "0.0.0.0" || !wanted.starts_with("::1")) {
                port += 1;
                let (mut held, mut app) = (held(&[spec(specs, port)]), App::default());
                if specs == "0.0.0.0" && *wanted == "::|6" {
                    assert_eq!(held.leads_to(port, &want(wanted), &mut |_| false), None);
                    continue;
                }
                let inode = app.bind(&mut held, port, wanted);
                assert_as_bound_by_itself(specs, wanted, port, app.socket(inode));
                let ours = if specs == "0.0.0.0" { &EVERYWHERE[..3] } else { EVERYWHERE };
                assert_kept(port, ours);
                // A worker binds it again, and so does the app after it has closed it.
                assert_eq!(app.bind(&mut held, port, wanted), inode, "{wanted} under {specs}");
                app.close(inode);
                assert_eq!(app.bind(&mut held, port, wanted), inode, "{wanted} under {specs}");
                assert_eq!(held.inodes().collect::<Vec<_>>(), [inode]);
                assert_kept(port, ours);
            }
        }
    });
}

/// uvicorn and everything on asyncio; nginx with `listen P; listen [::]:P ipv6only=on`.
#[test]
fn an_app_has_a_socket_for_each_family() {
    inside("held::an_app_has_a_socket_for_each_family", || {
        for (specs, port) in [("", PORT), ("::", PORT + 1)] {
            for (first, second) in [("0.0.0.0", "::|6"), ("::|6", "0.0.0.0"), ("0.0.0.0", "::")] {
                let (mut held, mut app) = (held(&[spec(specs, port)]), App::default());
                let first = app.bind(&mut held, port, first);
                assert_kept(port, EVERYWHERE);
                let second = app.bind(&mut held, port, second);
                assert_ne!(first, second);
                assert_kept(port, EVERYWHERE);
                let both = [app.socket(first), app.socket(second)];
                let v6 = usize::from(both[1].domain().unwrap() == Domain::IPV6);
                let got =
                    |host| arrives(&both, host, port).into_iter().map(|(position, _)| position).collect::<Vec<_>>();
                assert_eq!((got("127.0.0.1"), got("::1")), (vec![1 - v6], vec![v6]), "{specs}");
            }
        }
    });
}

#[test]
fn a_socket_that_the_app_has_is_given_again_if_it_covers_the_request() {
    inside("held::a_socket_that_the_app_has_is_given_again_if_it_covers_the_request", || {
        for (port, first, second) in
            [(PORT, "0.0.0.0", "127.0.0.1"), (PORT + 1, "::", "0.0.0.0"), (PORT + 2, "::", "::1")]
        {
            let (mut held, mut app) = (held(&[spec("", port)]), App::default());
            let inode = app.bind(&mut held, port, first);
            assert_eq!(app.bind(&mut held, port, second), inode, "{second} after {first}");
            // Once it is closed it blocks nothing.
            app.close(inode);
            let other = app.bind(&mut held, port, second);
            assert_ne!(other, inode, "{second} after a closed {first}");
            assert_as_bound_by_itself("", second, port, app.socket(other));
            assert_kept(port, EVERYWHERE);
        }
    });
}

#[test]
fn what_the_app_has_and_only_one_can_have_is_in_use() {
    inside("held::what_the_app_has_and_only_one_can_have_is_in_use", || {
        let (mut held, mut app) = (held(&[spec("", PORT)]), App::default());
        let inode = app.bind(&mut held, PORT, "127.0.0.1");
        let error = app.try_bind(&mut held, PORT, &want("0.0.0.0")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
        assert!(reaches(app.socket(inode), "127.0.0.1", PORT).is_some());
        // An app that has tried whether the port is free, and closes the socket it tried with.
        app.close(inode);
        let wide = app.bind(&mut held, PORT, "0.0.0.0");
        assert!(reaches(app.socket(wide), "127.0.0.2", PORT).is_some());
        assert_kept(PORT, EVERYWHERE);
    });
}

fn client(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).unwrap()
}

#[test]
fn queued_clients_are_reset_only_if_room_must_be_made() {
    inside("held::queued_clients_are_reset_only_if_room_must_be_made", || {
        let (mut held, mut app) = (held(&[spec("0.0.0.0", PORT)]), App::default());
        let mut waiting = [client(PORT), client(PORT)];
        // No client is reset for an address that cannot be bound.
        let none = app.try_bind(&mut held, PORT, &want("192.0.2.1")).unwrap_err();
        assert_eq!(none.raw_os_error(), Some(libc::EADDRNOTAVAIL));
        let inode = app.bind(&mut held, PORT, "0.0.0.0");
        for waiting in &mut waiting {
            let (mut server, _) = app.socket(inode).accept().unwrap();
            server.write_all(b"x").unwrap();
            waiting.read_exact(&mut [0]).unwrap();
            server.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        // Between a close and the next bind clients queue, and a narrower bind resets them.
        app.close(inode);
        let mut waiting = [client(PORT), client(PORT), client(PORT)];
        let (narrow, reset) = app.try_bind(&mut held, PORT, &want("127.0.0.1")).unwrap();
        assert_eq!(reset, 3);
        for waiting in &mut waiting {
            assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        assert!(reaches(app.socket(narrow), "127.0.0.1", PORT).is_some());
        assert_eq!(TcpStream::connect(("127.0.0.2", PORT)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_kept(PORT, &EVERYWHERE[..3]);
    });
}

#[test]
fn what_made_room_in_vain_listens_again() {
    inside("held::what_made_room_in_vain_listens_again", || {
        let stranger = listening("127.0.0.2", PORT, WITH_RA);
        let (mut held, mut app) = (held(&[spec("127.0.0.1", PORT)]), App::default());
        let error = app.try_bind(&mut held, PORT, &want("0.0.0.0")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
        let waiting = client(PORT);
        let inode = app.bind(&mut held, PORT, "127.0.0.1");
        assert!(app.socket(inode).accept().is_ok());
        drop((stranger, waiting));
    });
}

#[test]
fn two_specs_share_a_port() {
    inside("held::two_specs_share_a_port", || {
        let specs = [spec("127.0.0.1", PORT), spec("::1", PORT), spec("127.0.0.2", PORT)];
        let (mut held, mut app) = (held(&specs), App::default());
        let [v4, v6, other] = ["127.0.0.1", "::1", "127.0.0.2"].map(|ip| app.bind(&mut held, PORT, ip));
        assert_eq!([v4, v6, other].map(|inode| held.find(inode)), [Some(0), Some(1), Some(2)]);
        for (inode, host) in [(v4, "127.0.0.1"), (v6, "::1"), (other, "127.0.0.2")] {
            assert!(reaches(app.socket(inode), host, PORT).is_some(), "{host}");
        }
        // One socket for all of IPv4 replaces two.
        [v4, other].into_iter().for_each(|inode| app.close(inode));
        let all = app.bind(&mut held, PORT, "0.0.0.0");
        assert!(["127.0.0.1", "127.0.0.2"].iter().all(|host| reaches(app.socket(all), host, PORT).is_some()));
        assert!(reaches(app.socket(v6), "::1", PORT).is_some());
        assert_eq!(app.bind(&mut held, PORT, "127.0.0.2"), all);
        // And a pair of explicit wildcards, which count as one port.
        let specs = [spec("::", PORT + 1), spec("0.0.0.0", PORT + 1)];
        let (mut held, mut app) = (self::held(&specs), App::default());
        let pair = [app.bind(&mut held, PORT + 1, "::|6"), app.bind(&mut held, PORT + 1, "0.0.0.0")];
        assert_eq!(pair.map(|inode| held.find(inode)), [Some(0), Some(1)]);
    });
}

#[test]
fn a_fallback_and_port_0_lead_to_the_port_taken() {
    inside("held::a_fallback_and_port_0_lead_to_the_port_taken", || {
        let _holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let policy = Policy { hold: Hold::Bind, fallback: Fallback::Next(9), ..at_once() };
        let claims = claim(&[spec("", PORT), spec("", 0), spec("0.0.0.0", 0)], &policy).unwrap();
        let ports: Vec<u16> = claims.iter().map(|claim| claim.port).collect();
        let (mut held, mut app) = (Held::new(claims).unwrap(), App::default());
        let of = |app: &App, inode: u64| app.socket(inode).local_addr().unwrap().as_socket().unwrap().port();
        let hard_coded = app.bind(&mut held, PORT, "0.0.0.0");
        assert_eq!((of(&app, hard_coded), held.find(hard_coded)), (PORT + 1, Some(0)));
        let [any, other] = [(); 2].map(|()| app.bind(&mut held, 0, "0.0.0.0"));
        assert_eq!([any, other].map(|inode| of(&app, inode)), [ports[1], ports[2]]);
        assert_eq!(held.leads_to(0, &want("0.0.0.0"), &mut |inode| app.has(inode)), None, "a third one is its own");
        app.close(other);
        assert_eq!(app.bind(&mut held, 0, "0.0.0.0"), other, "bound again after a close");
        // Not listening for a moment, and still claimed although the kernel had chosen the port.
        app.close(other);
        let narrow = app.bind(&mut held, 0, "127.0.0.1");
        assert_eq!(of(&app, narrow), ports[2]);
        assert_kept(ports[2], &EVERYWHERE[..3]);
    });
}

#[test]
fn after_a_shutdown_it_listens_again() {
    inside("held::after_a_shutdown_it_listens_again", || {
        let (mut held, mut app) = (held(&[spec("", PORT)]), App::default());
        let inode = app.bind(&mut held, PORT, "0.0.0.0");
        app.socket(inode).shutdown(Shutdown::Both).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", PORT)).is_err());
        held.listen_again(inode).unwrap();
        assert!(reaches(app.socket(inode), "127.0.0.1", PORT).is_some());
        // Even if the app binds again without any notice.
        app.socket(inode).shutdown(Shutdown::Both).unwrap();
        assert_eq!(app.bind(&mut held, PORT, "0.0.0.0"), inode);
        assert!(reaches(app.socket(inode), "127.0.0.1", PORT).is_some());
        // An app's own listen(2) may ask for a short queue.
        app.socket(inode).listen(0).unwrap();
        held.listen_again(inode).unwrap();
        let _clients: Vec<TcpStream> = (0..20).map(|_| client(PORT)).collect();
        // A socket that covers everything held needs no silent one beside it, which would block an app that binds without interception.
        let (mut all, mut other) = (self::held(&[spec("", PORT + 1)]), App::default());
        let wide = other.bind(&mut all, PORT + 1, "::");
        other.socket(wide).shutdown(Shutdown::Both).unwrap();
        other.socket(wide).listen(1).unwrap();
        assert_eq!(held.listen_again(1).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(held.find(1), None);
        assert_kept(PORT, EVERYWHERE);
    });
}

#[test]
fn what_is_released_is_the_apps_alone() {
    inside("held::what_is_released_is_the_apps_alone", || {
        let specs = [spec("", PORT), spec("", PORT + 1), crate::net::udp_spec(PORT + 2)];
        let (mut held, mut app) = (held(&specs), App::default());
        assert!(std::net::UdpSocket::bind(("0.0.0.0", PORT + 2)).is_ok(), "the app binds UDP by itself");
        assert_eq!(held.leads_to(PORT + 2, &want("0.0.0.0"), &mut |_| false), None);
        let inode = app.bind(&mut held, PORT, "0.0.0.0");
        held.release(0);
        assert_eq!(held.leads_to(PORT, &want("0.0.0.0"), &mut |_| false), None);
        assert_eq!((held.find(inode), held.inodes().count()), (None, 0));
        let gone = held.socket_for(0, &want("0.0.0.0"), &mut |_| false).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        assert!(reaches(app.socket(inode), "127.0.0.1", PORT).is_some());
        app.close(inode);
        // Nothing that reberth holds blocks the app's own bind.
        assert!(bound("::", PORT, WITH_RA).is_ok());
        assert!(bound("::", PORT + 1, WITH_RA).is_err());
        held.release_all();
        assert!(bound("::", PORT + 1, WITH_RA).is_ok());
    });
}

/// Connections outlive their listener as TIME_WAIT, which must not keep the next instance from the port.
#[test]
fn what_a_connection_leaves_behind_blocks_no_bind() {
    inside("held::what_a_connection_leaves_behind_blocks_no_bind", || {
        for (specs, port) in [("", PORT), ("0.0.0.0", PORT + 1)] {
            let (mut held, mut app) = (held(&[spec(specs, port)]), App::default());
            let inode = app.bind(&mut held, port, "0.0.0.0");
            let (client, server) = connection(app.socket(inode), port);
            drop(server);
            until_closed(&client);
            app.close(inode);
            held.release_all();
            assert!(bound("0.0.0.0", port, WITHOUT_RA).is_err(), "no TIME_WAIT is left");
            let (mut held, mut app) = (self::held(&[spec(specs, port)]), App::default());
            let inode = app.bind(&mut held, port, "0.0.0.0");
            assert!(reaches(app.socket(inode), "127.0.0.1", port).is_some());
        }
    });
}

#[test]
fn link_local_addresses_have_their_interface() {
    inside("held::link_local_addresses_have_their_interface", || {
        let ip = "fe80::1".parse().unwrap();
        add_to_loopback(ip);
        let (mut held, mut app) = (held(&[spec("", PORT)]), App::default());
        let at = |scope_id| Want { ip: ip.into(), scope_id, v6_only: false };
        for (scope_id, errno) in [(0, libc::EINVAL), (77, libc::ENODEV)] {
            let error = app.try_bind(&mut held, PORT, &at(scope_id)).unwrap_err();
            let address = SocketAddrV6::new(ip, CONTROL, 0, scope_id);
            let control = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap().bind(&address.into()).unwrap_err();
            assert_eq!((error.raw_os_error(), control.raw_os_error()), (Some(errno), Some(errno)), "{scope_id}");
        }
        let (inode, _) = app.try_bind(&mut held, PORT, &at(1)).unwrap();
        assert_eq!(app.try_bind(&mut held, PORT, &at(1)).unwrap().0, inode);
        assert!(TcpStream::connect(SocketAddrV6::new(ip, PORT, 0, 1)).is_ok());
        // On any other address a scope has no meaning.
        let one = app.try_bind(&mut held, PORT, &Want { scope_id: 77, ..want("::1") }).unwrap().0;
        assert_eq!(app.bind(&mut held, PORT, "::1"), one);
        assert_kept(PORT, EVERYWHERE);
    });
}

/// `struct in6_ifreq` of linux/ipv6.h.
#[repr(C)]
struct Request {
    address: [u8; 16],
    prefix: u32,
    interface: libc::c_int,
}

fn add_to_loopback(ip: std::net::Ipv6Addr) {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    let request = Request { address: ip.octets(), prefix: 64, interface: 1 };
    // SAFETY: the request is what SIOCSIFADDR reads for IPv6, and lives through the call.
    let result =
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFADDR as _, &raw const request) };
    assert_eq!(result, 0, "an address for loopback: {}", std::io::Error::last_os_error());
    // The kernel first asks the network whether the address is in use, unless told not to.
    crate::net::until("the address can be bound", || {
        let address = SocketAddrV6::new(ip, 0, 0, 1);
        Socket::new(Domain::IPV6, Type::STREAM, None).unwrap().bind(&address.into()).is_ok()
    });
}

#[test]
fn without_ipv6_a_bind_is_answered_as_by_the_kernel() {
    inside("held::without_ipv6_a_bind_is_answered_as_by_the_kernel", || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let (mut first, mut app) = (held(&[spec("", PORT)]), App::default());
        let none = app.try_bind(&mut first, PORT, &want("::1")).unwrap_err();
        assert_eq!(none.raw_os_error(), Some(libc::EADDRNOTAVAIL));
        let inode = app.bind(&mut first, PORT, "0.0.0.0");
        assert!(reaches(app.socket(inode), "127.0.0.1", PORT).is_some());
        assert_kept(PORT, &EVERYWHERE[..3]);
        // A kernel started with ipv6.disable=1.
        crate::claims::refuse_ipv6();
        let (mut held, mut app) = (held(&[spec("", PORT + 1)]), App::default());
        let none = app.try_bind(&mut held, PORT + 1, &want("::")).unwrap_err();
        assert_eq!(none.raw_os_error(), Some(libc::EAFNOSUPPORT));
        let inode = app.bind(&mut held, PORT + 1, "127.0.0.1");
        assert!(reaches(app.socket(inode), "127.0.0.1", PORT + 1).is_some());
        assert_kept(PORT + 1, &EVERYWHERE[..3]);
    });
}
