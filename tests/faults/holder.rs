//! The holder of the port, terminated in every possible way, and followed by another one before reberth can look.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::wait::holds_within;
use crate::harness::{look, place, running, until};
use crate::{PROMPT, alone, assert_waits, holder, median, rounds, stop, waiter};

#[test]
fn however_the_holder_exits_the_port_is_claimed() {
    const FROZEN: Duration = Duration::from_millis(50);
    for signals in [
        &[libc::SIGKILL][..],
        &[libc::SIGTERM],
        &[libc::SIGSTOP, libc::SIGKILL],
        &[libc::SIGSTOP, libc::SIGTERM, libc::SIGCONT],
    ] {
        let mut times = Vec::new();
        for _ in 0..rounds(4) {
            let port = place::free_port();
            let mut holder = holder(port);
            let mut waiter = waiter(port, &[], "ready pause");
            let (last, before) = signals.split_last().unwrap();
            for &signal in before {
                holder.signal(signal);
                until("the holder is frozen", || look::stat(holder.pid).is_some_and(|stat| stat.state == 'T'));
                // The holder no longer answers, but it holds the port, and clients can still connect.
                assert!(!holds_within(FROZEN, || !waiter.stdout().is_empty()), "{}", waiter.report());
                assert_waits(&mut waiter);
                TcpStream::connect(("127.0.0.1", port)).unwrap();
            }
            let freed = Instant::now();
            holder.signal(*last);
            waiter.ready();
            times.push(freed.elapsed());
            assert!(freed.elapsed() < PROMPT, "{}", waiter.report());
            stop(waiter);
        }
        println!("holder ended by {signals:?}: {} rounds, app ready {:?} after (median)", times.len(), median(times));
    }
}

#[test]
fn a_listener_that_a_child_still_has_is_waited_for() {
    let count = rounds(4);
    for _ in 0..count {
        let port = place::free_port();
        let mut holder = alone(&format!("listen=0.0.0.0:{port} fork ready=child: pause end ready pause")).start();
        let child = holder.ready_as("child:");
        let mut waiter = waiter(port, &[], "ready pause");
        holder.signal(libc::SIGKILL);
        until("the holder is gone", || !look::alive(holder.pid));
        assert!(!holds_within(Duration::from_millis(50), || !waiter.stdout().is_empty()), "{}", waiter.report());
        assert_waits(&mut waiter);
        running::kill(child, libc::SIGKILL);
        waiter.ready();
        stop(waiter);
    }
    println!("listener inherited by a child: {count} rounds, none claimed before the child's end");
}

/// A socket on the port, bound and not yet listening.
fn bound(port: u16, share: bool) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(share).unwrap();
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into()).unwrap();
    socket
}

#[test]
fn a_holder_replaced_without_a_gap_is_waited_for() {
    let changes = rounds(100);
    let port = place::free_port();
    let mut held = bound(port, true);
    held.listen(16).unwrap();
    let mut waiter = waiter(port, &[], "ready pause");
    for _ in 0..changes {
        // They share the port for a moment, so the kernel reports a closed listener while there is always one.
        let next = bound(port, true);
        next.listen(16).unwrap();
        held = next;
        assert_waits(&mut waiter);
    }
    assert!(!holds_within(Duration::from_millis(50), || !waiter.stdout().is_empty()), "{}", waiter.report());
    let freed = Instant::now();
    drop(held);
    waiter.ready();
    assert!(freed.elapsed() < PROMPT, "{}", waiter.report());
    stop(waiter);
    println!("holder replaced without a gap: {changes} times, one claim, at the end");
}

#[test]
fn of_two_that_want_the_port_in_one_moment_one_has_it() {
    let (mut ours, mut theirs) = (0, 0);
    for round in 0..rounds(15) {
        let port = place::free_port();
        let (held, rival) = (bound(port, false), bound(port, false));
        held.listen(16).unwrap();
        let mut waiter = waiter(port, &["--handover", "on"], "ready pause");
        // Without intervention reberth may win every race on a busy machine. A reberth that is stopped at that moment is certainly late.
        let still = round % 5 == 0;
        if still {
            running::kill(waiter.init, libc::SIGSTOP);
            until("it stands still", || look::stat(waiter.init).is_some_and(|stat| stat.state == 'T'));
        }
        let first = {
            // A fork of another test must not keep the socket open.
            let _alone = place::forking();
            drop(held);
            rival.listen(16).is_ok()
        };
        if still {
            assert!(first, "a stopped reberth took the port");
            running::kill(waiter.init, libc::SIGCONT);
        }
        if first {
            theirs += 1;
            assert!(!holds_within(Duration::from_millis(20), || !waiter.stdout().is_empty()), "{}", waiter.report());
            assert_waits(&mut waiter);
            drop(rival);
        } else {
            ours += 1;
        }
        waiter.ready();
        stop(waiter);
    }
    println!("two in one moment: the rival was first {theirs} times and was waited for, reberth {ours} times");
}
