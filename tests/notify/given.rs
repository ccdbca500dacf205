//! What the app has after it was given a socket in its own bind.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use reberth::sys::descriptor::inode_at;
use reberth::sys::notify::{Asked, Call, Kind, inode_of, socket_of};

use crate::fixture::App;
use crate::supervisor::address;

/// A listening socket, with its inode.
fn ours(address: &str) -> (TcpListener, u64) {
    numbered(TcpListener::bind(address).unwrap())
}

fn numbered(listener: TcpListener) -> (TcpListener, u64) {
    let inode = inode_at(listener.as_raw_fd()).unwrap();
    (listener, inode)
}

/// The descriptor and the address of a bind.
#[track_caller]
fn bind(asked: &Asked) -> (i32, SocketAddr) {
    let Call::Bind { fd, .. } = asked.call else { panic!("{asked:?} is no bind") };
    (fd, address(asked).unwrap().unwrap())
}

#[test]
fn number_flags_and_family_are_the_apps_own() {
    for (kind, at) in [("tcp4", "127.0.0.1:0"), ("tcp6", "[::1]:0")] {
        let (held, inode) = ours(at);
        let address = held.local_addr().unwrap();
        for flags in ["", "n", "c", "nc"] {
            let mut app = App::start();
            app.talk.must(&format!("socket {kind} 77 {flags}-"));
            let before = app.talk.ask("fds");
            app.talk.tell(&format!("bind 77 {address}"));
            let call = app.call();
            assert_eq!(bind(&call), (77, address));
            let socket = socket_of(call.tid, 77).unwrap();
            assert_eq!(socket.kind, if kind == "tcp6" { Kind::Tcp6 } else { Kind::Tcp4 });
            assert_eq!((socket.nonblocking, socket.cloexec), (flags.contains('n'), flags.contains('c')));
            assert!(app.listener().is_valid(call.id));
            app.give(&call, &held, 77, &socket).unwrap();
            assert_eq!(app.talk.said(), "0");
            assert_eq!(app.talk.ask("state 77"), format!("{inode} {flags}").trim_end());
            // One socket replaces the other, and nothing else changes.
            let after = before.replace(&format!("77:socket:[{}]", socket.inode), &format!("77:socket:[{inode}]"));
            assert_ne!(before, after);
            assert_eq!(app.talk.ask("fds"), after);
            assert!(!app.listener().is_valid(call.id));
        }
    }
}

#[test]
fn the_app_accepts_clients_queued_before_its_bind() {
    let (held, inode) = ours("127.0.0.1:0");
    let address = held.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let mut app = App::start();
    app.talk.must("socket tcp4 5 -");
    app.talk.tell(&format!("bind 5 {address}"));
    let call = app.call();
    let socket = socket_of(call.tid, 5).unwrap();
    app.give(&call, &held, 5, &socket).unwrap();
    assert_eq!(app.talk.said(), "0");
    app.talk.tell("listen 5 7");
    let call = app.call();
    assert_eq!(call.call, Call::Listen { fd: 5 });
    assert_eq!(inode_of(call.tid, 5).unwrap(), inode);
    app.listener().answer(call.id, 0);
    assert_eq!(app.talk.said(), "0");
    app.talk.must("greet 5");
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    // Released here: the socket belongs to the app now, and is closed with it.
    drop(held);
    TcpStream::connect(address).unwrap();
    app.kill();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_socket_may_be_put_again_and_is_still_one() {
    let (held, inode) = ours("127.0.0.1:0");
    let address = held.local_addr().unwrap();
    let mut app = App::start();
    app.talk.must("socket tcp4 9 c");
    app.talk.tell(&format!("bind 9 {address}"));
    let call = app.call();
    for _ in 0..100 {
        app.listener().put(call.id, held.as_fd(), 9, true).unwrap();
    }
    app.listener().answer(call.id, 0);
    assert_eq!(app.talk.said(), "0");
    assert_eq!(app.talk.ask("fds").matches(&format!("[{inode}]")).count(), 1);
    // A number beyond the app's limit: it still waits, and gets whatever answer is sent.
    app.talk.must("socket tcp4 10 -");
    app.talk.tell(&format!("bind 10 {address}"));
    let call = app.call();
    let far = app.listener().put(call.id, held.as_fd(), i32::MAX, true).unwrap_err();
    assert_eq!(far.raw_os_error(), Some(libc::EBADF));
    assert!(app.listener().put(call.id, held.as_fd(), -1, true).is_err());
    app.listener().answer(call.id, libc::EADDRNOTAVAIL);
    assert_eq!(app.talk.said(), libc::EADDRNOTAVAIL.to_string());
}

#[test]
fn a_call_let_through_acts_as_without_interception() {
    let (held, _) = ours("127.0.0.1:0");
    let address = held.local_addr().unwrap();
    let mut app = App::start();
    app.talk.must("socket tcp4 5 -");
    for (target, expected) in [(address.to_string(), libc::EADDRINUSE), ("127.0.0.1:0".to_owned(), 0)] {
        app.talk.tell(&format!("bind 5 {target}"));
        app.listener().let_through(app.call().id);
        assert_eq!(app.talk.said(), expected.to_string(), "{target}");
    }
    app.talk.tell("listen 5 1");
    app.listener().let_through(app.call().id);
    assert_eq!(app.talk.said(), "0");
}

#[test]
fn threads_bind_in_parallel_and_each_gets_its_own() {
    const COUNT: u16 = 8;
    let mut app = App::start();
    let (held, first) = row_of_ports(COUNT);
    app.talk.tell(&format!("threads {COUNT} {first}"));
    // All of them are pending before the first is answered.
    let mut calls: Vec<Asked> = (0..COUNT).map(|_| app.call()).collect();
    calls.sort_by_key(|call| bind(call).1.port());
    let mut tids: Vec<i32> = calls.iter().map(|call| call.tid).collect();
    tids.sort_unstable();
    tids.dedup();
    assert!(tids.len() == usize::from(COUNT) && !tids.contains(&app.pid), "{tids:?}");
    for (call, (socket, _)) in calls.iter().zip(&held).rev() {
        let (fd, address) = bind(call);
        assert_eq!(address, socket.local_addr().unwrap());
        let like = socket_of(call.tid, fd).unwrap();
        app.give(call, socket, fd, &like).unwrap();
    }
    let expected: Vec<String> = held.iter().map(|(_, inode)| format!("0:{inode}")).collect();
    assert_eq!(app.talk.said(), expected.join(" "));
}

/// This many sockets on consecutive ports, and the first port.
fn row_of_ports(count: u16) -> (Vec<(TcpListener, u64)>, u16) {
    for _ in 0..100 {
        let first = crate::harness::place::free_port();
        let all: Result<Vec<_>, _> =
            (first..first + count).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        if let Ok(all) = all {
            return (all.into_iter().map(numbered).collect(), first);
        }
    }
    panic!("no {count} free ports in a row");
}

#[test]
fn children_and_their_programs_are_intercepted_too() {
    let (held, inode) = ours("127.0.0.1:0");
    let address = held.local_addr().unwrap();
    let mut app = App::start();
    app.talk.must("socket tcp4 5 c");
    for _ in 0..3 {
        app.talk.tell(&format!("fork bind 5 {address}"));
        let call = app.call();
        assert_ne!(call.tid, app.pid);
        let socket = socket_of(call.tid, 5).unwrap();
        assert_ne!(socket.inode, inode);
        app.give(&call, &held, 5, &socket).unwrap();
        assert_eq!(app.talk.said(), format!("child {}: 0", call.tid));
    }
    // Its parent still has its own socket.
    assert_ne!(app.talk.ask("state 5"), format!("{inode} c"));
    let meeting = crate::fixture::Meeting::new();
    app.talk.tell(&format!("exec {}", meeting.name));
    app.talk = meeting.meet();
    app.talk.must("socket tcp4 5 -");
    app.talk.tell(&format!("bind 5 {address}"));
    let call = app.call();
    let socket = socket_of(call.tid, 5).unwrap();
    app.give(&call, &held, 5, &socket).unwrap();
    assert_eq!(app.talk.said(), "0");
    assert_eq!(app.talk.ask("state 5"), inode.to_string());
}

#[test]
fn a_thousand_binds_in_a_row() {
    let (held, _) = ours("127.0.0.1:0");
    let mut app = App::start();
    app.talk.tell(&format!("repeat 1000 {}", held.local_addr().unwrap().port()));
    for _ in 0..1000 {
        let call = app.call();
        let (fd, address) = bind(&call);
        assert_eq!(address, held.local_addr().unwrap());
        let socket = socket_of(call.tid, fd).unwrap();
        assert!(app.listener().is_valid(call.id));
        app.give(&call, &held, fd, &socket).unwrap();
    }
    let said = app.talk.said();
    assert!(said.starts_with("1000 bound, 0 left, 0 interrupted"), "{said}");
}
