//! Which socket blocks which: the kernel's rules that claiming relies on, a row for each kind of holder.

use std::net::Shutdown;

use reberth::port::attempt::{Attempt, Tried};
use reberth::port::holder::{Depth, State, look};
use socket2::Socket;

use crate::net::{Made, WITH_RA, WITHOUT_RA, bound, connection, inside, listening, spec, udp, until_closed};

const V6_ONLY: Made = Made { reuse_address: true, reuse_port: false, v6_only: true };
const WITH_RP: Made = Made { reuse_address: false, reuse_port: true, v6_only: false };

/// What is left of a server after it has closed its listener.
#[derive(Clone, Copy)]
enum Left {
    TimeWait,
    Established,
    CloseWait,
    FinWait2,
}

fn left(port: u16, made: Made, left: Left) -> Vec<Socket> {
    let listener = listening("0.0.0.0", port, made);
    let (client, server) = connection(&listener, port);
    drop(listener);
    match left {
        Left::TimeWait => {
            drop(server);
            until_closed(&client);
            vec![]
        }
        Left::Established => vec![client, server],
        Left::CloseWait => {
            drop(client);
            until_closed(&server);
            vec![server]
        }
        Left::FinWait2 => {
            server.shutdown(Shutdown::Write).unwrap();
            until_closed(&client);
            vec![client, server]
        }
    }
}

/// A TIME_WAIT on the side of a client that had bound `port`.
fn client_time_wait(port: u16) -> Vec<Socket> {
    let listener = listening("127.0.0.1", 19_000, WITH_RA);
    let client = bound("127.0.0.1", port, WITH_RA).unwrap();
    client.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], 19_000)).into()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    until_closed(&server);
    drop(server);
    until_closed(&client);
    vec![]
}

/// An outgoing connection that the kernel gave `port`: it is the only one it may choose.
fn outgoing(port: u16) -> Vec<Socket> {
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{port} {port}")).unwrap();
    let listener = listening("127.0.0.1", 19_001, WITH_RA);
    let (client, server) = connection(&listener, 19_001);
    assert_eq!(client.local_addr().unwrap().as_socket().unwrap().port(), port);
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", before).unwrap();
    vec![client, server]
}

fn shut_down(port: u16) -> Vec<Socket> {
    let socket = listening("0.0.0.0", port, WITH_RA);
    socket.shutdown(Shutdown::Both).unwrap();
    vec![socket]
}

type Row = (&'static str, fn(u16) -> Vec<Socket>, &'static str, Option<State>);

/// The columns: `0.0.0.0`, the wildcard on both families, `[::]` for IPv6 only, `127.0.0.1`. `b` = busy.
/// The state is what a query for the wildcard must report if it is busy.
const TABLE: &[Row] = &[
    ("nobody", |_| vec![], "oooo", None),
    ("0.0.0.0 with RA", |p| vec![listening("0.0.0.0", p, WITH_RA)], "bbob", Some(State::Listening)),
    ("0.0.0.0 without RA", |p| vec![listening("0.0.0.0", p, WITHOUT_RA)], "bbob", Some(State::Listening)),
    ("127.0.0.1", |p| vec![listening("127.0.0.1", p, WITH_RA)], "bbob", Some(State::Listening)),
    ("127.0.0.2", |p| vec![listening("127.0.0.2", p, WITH_RA)], "bboo", Some(State::Listening)),
    ("[::] dual", |p| vec![listening("::", p, WITH_RA)], "bbbb", Some(State::Listening)),
    ("[::] v6-only", |p| vec![listening("::", p, V6_ONLY)], "obbo", Some(State::Listening)),
    ("[::1]", |p| vec![listening("::1", p, WITH_RA)], "obbo", Some(State::Listening)),
    ("::ffff:127.0.0.1", |p| vec![listening("::ffff:127.0.0.1", p, WITH_RA)], "bbob", Some(State::Listening)),
    ("0.0.0.0 with RP, same uid", |p| vec![listening("0.0.0.0", p, WITH_RP)], "bbob", Some(State::Listening)),
    ("bound with RA", |p| vec![bound("0.0.0.0", p, WITH_RA).unwrap()], "oooo", None),
    ("shut down, with RA", shut_down, "oooo", None),
    ("bound without RA", |p| vec![bound("0.0.0.0", p, WITHOUT_RA).unwrap()], "bbob", Some(State::Bound)),
    ("TIME_WAIT with RA", |p| left(p, WITH_RA, Left::TimeWait), "oooo", None),
    ("ESTABLISHED with RA", |p| left(p, WITH_RA, Left::Established), "oooo", None),
    ("CLOSE_WAIT with RA", |p| left(p, WITH_RA, Left::CloseWait), "oooo", None),
    ("FIN_WAIT2 with RA", |p| left(p, WITH_RA, Left::FinWait2), "oooo", None),
    ("TIME_WAIT without RA", |p| left(p, WITHOUT_RA, Left::TimeWait), "bbob", Some(State::TimeWait)),
    ("ESTABLISHED without RA", |p| left(p, WITHOUT_RA, Left::Established), "bbob", Some(State::Established)),
    ("CLOSE_WAIT without RA", |p| left(p, WITHOUT_RA, Left::CloseWait), "bbob", Some(State::CloseWait)),
    ("FIN_WAIT2 without RA", |p| left(p, WITHOUT_RA, Left::FinWait2), "bbob", Some(State::FinWait)),
    ("TIME_WAIT of a client", client_time_wait, "oooo", None),
    ("UDP", |p| vec![udp("0.0.0.0", p)], "oooo", None),
];

fn judge(what: &str, port: u16, expected: &str) {
    let columns = [("0.0.0.0", false), ("", false), ("::", true), ("127.0.0.1", false)];
    for ((address, v6_only), expected) in columns.into_iter().zip(expected.chars()) {
        let mut probe = Attempt::new(&spec(address, port), v6_only);
        let bind = probe.bind();
        assert_eq!(matches!(bind, Tried::Busy), expected == 'b', "{what}: bind on [{address}]:{port}: {bind:?}");
        assert!(!matches!(bind, Tried::Never(_)), "{what}: bind on [{address}]:{port}: {bind:?}");
        let listen = probe.listen();
        assert_eq!(matches!(listen, Tried::Ours), expected == 'o', "{what}: listen on [{address}]:{port}: {listen:?}");
    }
}

fn rows() {
    for ((what, hold, expected, state), port) in TABLE.iter().zip(20_000..) {
        let _sockets = hold(port);
        judge(what, port, expected);
        let found = look(&spec("", port), Depth::Sockets);
        if let Some(state) = state {
            assert!(found.holders.iter().any(|holder| holder.state == *state), "{what}: {found:?}");
        }
        if *what == "TIME_WAIT without RA" {
            let left = found.time_wait().expect("a timed wait").as_secs();
            assert!((50..=61).contains(&left), "{what}: {left} s left");
        }
    }
    // The kernel chooses such ports only inside its range.
    let port = 40_000;
    let _sockets = outgoing(port);
    judge("outgoing", port, "bbob");
    let found = look(&spec("", port), Depth::Sockets);
    assert_eq!(found.holders.iter().map(|holder| holder.state).collect::<Vec<_>>(), [State::Client], "{found:?}");
}

#[test]
fn each_kind_of_holder_blocks_whom_the_kernel_blocks() {
    inside("blocking::each_kind_of_holder_blocks_whom_the_kernel_blocks", rows);
}

/// Without this control, the rows above would pass on a kernel that refuses every second bind.
#[test]
fn reuse_port_would_have_shared() {
    inside("blocking::reuse_port_would_have_shared", || {
        let _holder = listening("0.0.0.0", 20_000, WITH_RP);
        listening("0.0.0.0", 20_000, WITH_RP);
    });
}
