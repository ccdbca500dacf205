//! Netlink refused, so that no event of a closed socket arrives; and netlink flooded with events.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::wait::{PATIENCE, holds_within};
use crate::harness::{Launch, Running, place};
use crate::{PROMPT, REBERTH, after, alone, assert_waits, holder, rounds, run_app, stop, waiter};

const NETLINK: &str = "16";

#[test]
fn without_netlink_everything_still_works_by_polling() {
    let count = rounds(2);
    for error in ["1", "13", "97"] {
        let refuse = format!("refuse={NETLINK}:{error}");
        // Control: netlink is refused, and nothing else.
        let mut control = after(&refuse, alone(&format!("socket={NETLINK} socket=17"))).start();
        control.expect(&format!("socket {NETLINK}: {error}"));
        assert!(!control.line().ends_with(&format!(": {error}")) || error == "1", "all families are refused");
        for _ in 0..count {
            let port = place::free_port();
            let text = port.to_string();
            let mut held = holder(port);
            let named = format!("pid {}", held.pid);
            let given_up = after(&refuse, run_app(&["--port", &text, "--wait", "0s"], "say=never")).start().finish();
            given_up.expect_code(124).expect_stderr(&named);
            let who = after(&refuse, Launch::new(REBERTH).args(["who", &text])).start().finish().expect_code(1);
            assert!(who.stdout.contains(&held.pid.to_string()), "{}", who.report());
            let flags = ["--port", &text, "--wait", "50s", "--backoff", "5ms..20ms"];
            let steps = format!("ready listen=0.0.0.0:{port} pause");
            let mut waiter = after(&refuse, run_app(&flags, &steps)).start();
            waiter.stderr_until("is busy, waiting");
            waiter.stderr_until(&named);
            held.signal(libc::SIGKILL);
            waiter.ready();
            waiter.stderr_until(&format!("the app is ready on port {port}"));
            let state = waiter.dir.path().to_owned();
            let asked = Launch::new(REBERTH).args(["healthcheck", "--state-dir"]).arg(state).arg("tcp");
            after(&refuse, asked).start().finish().expect_code(0);
            stop(waiter);
        }
    }
    println!(
        "netlink refused with EPERM, EACCES and EAFNOSUPPORT: {count} rounds each of give up, who, wait, come up, probe"
    );
}

/// The CPU time that a process has used.
fn used(running: &Running) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{}/schedstat", running.init)).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// A subscription to the events of all closed sockets: the control for a flood.
fn subscription() -> OwnedFd {
    // SAFETY: a zeroed sockaddr_nl is valid and has the size passed; this code owns the new descriptor.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 4);
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = 16;
        address.nl_groups = 0b0101;
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).unwrap();
        assert_eq!(libc::bind(fd, (&raw const address).cast(), size), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

/// How many messages have arrived, and whether the queue overflowed.
fn heard(subscription: &OwnedFd) -> usize {
    let socket = socket2::SockRef::from(subscription);
    let mut count = 0;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return count,
            Err(_) => {}
        }
    }
}

/// Opens and closes sockets as fast as one thread can until `over`, and counts them. Connections are made to this listener, while it
/// exists.
fn flood(to: Option<&Mutex<Option<TcpListener>>>, port: u16, over: &AtomicBool, count: &AtomicUsize) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    while !over.load(Ordering::Relaxed) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let Some(to) = to else {
            // On a held port: a bind that fails, and a close that is reported all the same.
            let _ = socket.bind(&address.into());
            count.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let listener = to.lock().unwrap();
        let Some(listener) = listener.as_ref() else { return };
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        socket.connect(&listener.local_addr().unwrap().into()).unwrap();
        // A reset from the server's side looks like a closed listener.
        let (accepted, _) = listener.accept().unwrap();
        socket2::SockRef::from(&accepted).set_linger(Some(Duration::ZERO)).unwrap();
        drop(accepted);
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_of_closed_sockets_costs_little_and_hides_nothing() {
    let time = Duration::from_millis(400) * u32::try_from(rounds(1)).unwrap();
    for kind in ["connections elsewhere", "resets on the port", "failed binds on the port"] {
        let port = place::free_port();
        let listen = |port| Mutex::new(Some(TcpListener::bind(("127.0.0.1", port)).unwrap()));
        let (held, elsewhere) = (listen(port), listen(0));
        let to = match kind {
            "connections elsewhere" => Some(&elsewhere),
            "resets on the port" => Some(&held),
            _ => None,
        };
        let mut waiter = waiter(port, &[], "ready pause");
        let subscription = subscription();
        let (over, closed, mut events) = (AtomicBool::new(false), AtomicUsize::new(0), 0);
        // One socket per millisecond is a flood; a busy machine takes longer to get there.
        let many = usize::try_from(time.as_millis()).unwrap();
        let (lasted, spent, took) = std::thread::scope(|scope| {
            scope.spawn(|| flood(to, port, &over, &closed));
            let (before, begun) = (used(&waiter), Instant::now());
            while begun.elapsed() < time || closed.load(Ordering::Relaxed) < many || events < many / 10 {
                if begun.elapsed() > time + PATIENCE || holds_within(Duration::from_millis(20), || waiter.has_ended()) {
                    over.store(true, Ordering::Relaxed);
                    panic!("{kind}: {closed:?} sockets, {events} events\n{}", waiter.report());
                }
                events += heard(&subscription);
            }
            let (spent, lasted) = (used(&waiter) - before, begun.elapsed());
            assert_waits(&mut waiter);
            let listener = held.lock().unwrap().take();
            let freed = Instant::now();
            drop(listener);
            waiter.ready();
            let took = freed.elapsed();
            over.store(true, Ordering::Relaxed);
            (lasted, spent, took)
        });
        stop(waiter);
        println!(
            "{kind} for {lasted:?}: {closed:?} sockets, {events} events told, the waiter used {spent:?}, app ready {took:?} after"
        );
        assert!(spent < lasted / 4, "the waiter used {spent:?} of {lasted:?}");
        assert!(took < PROMPT, "{took:?}");
    }
}
