//! Signals, exits and closes while a call is pending: nothing hangs, and one socket is replaced by one.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};

use reberth::sys::descriptor::inode_at;
use reberth::sys::notify::{Call, Pending, inode_of, socket_of};

use crate::fixture::App;
use crate::harness::until;

fn ours() -> (TcpListener, String, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, inode) = (listener.local_addr().unwrap().to_string(), inode_at(listener.as_raw_fd()).unwrap());
    (listener, address, inode)
}

#[track_caller]
fn is_gone(result: io::Result<impl std::fmt::Debug>) {
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotFound);
}

/// A signal aborts the call, before the socket is put in place or after that.
#[test]
fn a_signal_leaves_one_socket() {
    for (restart, put) in [(true, false), (true, true), (false, false), (false, true)] {
        let (held, address, inode) = ours();
        let mut app = App::start();
        app.talk.must(&format!("catch {} {}", libc::SIGALRM, if restart { "restart" } else { "plain" }));
        app.talk.must("socket tcp4 5 n");
        app.talk.tell(&format!("bind 5 {address}"));
        let first = app.call();
        let theirs = socket_of(first.tid, 5).unwrap();
        if put {
            app.listener().put(first.id, held.as_fd(), 5, false).unwrap();
        }
        app.signal(libc::SIGALRM);
        until("the signal takes the call away", || !app.listener().is_valid(first.id));
        is_gone(app.listener().put(first.id, held.as_fd(), 5, false));
        app.listener().answer(first.id, libc::EACCES);
        app.listener().let_through(first.id);
        if !restart {
            assert_eq!(app.talk.said(), libc::EINTR.to_string());
            app.talk.tell(&format!("bind 5 {address}"));
        }
        let second = app.call();
        assert_ne!(second.id, first.id);
        let now = socket_of(second.tid, 5).unwrap();
        if put {
            // It is the claimed socket already, and distinguished from the app's own.
            assert_eq!(now.inode, inode);
            app.listener().answer(second.id, 0);
        } else {
            assert_eq!(now, theirs);
            app.give(&second, &held, 5, &now).unwrap();
        }
        assert_eq!(app.talk.said(), "0");
        let sockets = app.talk.ask("fds");
        assert_eq!(sockets.matches("socket:").count(), 1, "{sockets}");
        assert!(sockets.contains(&format!("5:socket:[{inode}]")), "{sockets}");
    }
}

/// Hundreds of signals, at any moment of the exchange.
#[test]
fn a_storm_of_signals_leaves_one_socket_each_time() {
    for flag in ["restart", "plain"] {
        let (held, address, inode) = ours();
        let port = address.rsplit(':').next().unwrap();
        let mut app = App::start();
        app.talk.must(&format!("catch {} {flag}", libc::SIGALRM));
        app.talk.must("timer 150");
        let mut vanished = 0;
        until("signals take calls away while they are answered", || {
            app.talk.tell(&format!("repeat 500 {port}"));
            // An answer that collides with a signal is lost, so calls cannot be counted: the app reports when it is done.
            while let Some(call) = app.call_or_reply() {
                let Call::Bind { fd, .. } = call.call else { panic!("{call:?}") };
                match socket_of(call.tid, fd).unwrap() {
                    read if read.inode == inode => app.listener().answer(call.id, 0),
                    read => {
                        if let Err(error) = app.give(&call, &held, fd, &read) {
                            assert_eq!(error.kind(), io::ErrorKind::NotFound);
                            vanished += 1;
                        }
                    }
                }
            }
            let said = app.talk.said();
            assert!(said.starts_with("500 bound, 0 left"), "{said}");
            vanished >= 10
        });
    }
}

#[test]
fn an_app_killed_while_it_waits_blocks_no_other_process() {
    let (held, address, _) = ours();
    let mut app = App::start();
    app.talk.must("socket tcp4 5 -");
    app.talk.tell(&format!("bind 5 {address}"));
    let call = app.call();
    let theirs = socket_of(call.tid, 5).unwrap();
    app.kill();
    assert!(!app.listener().is_valid(call.id));
    is_gone(app.give(&call, &held, 5, &theirs));
    app.listener().answer(call.id, 0);
    is_gone(inode_of(call.tid, 5));
    crate::fixture::readable("the listener says that it is over", app.listener());
    assert_eq!(app.listener().pending(), Pending::Over);
}

#[test]
fn the_listener_ends_with_the_last_process() {
    let mut app = App::start();
    assert_eq!(app.listener().pending(), Pending::None);
    let (_held, address, _) = ours();
    app.talk.must("socket tcp4 5 -");
    app.talk.tell(&format!("fork bind 5 {address}"));
    let call = app.call();
    app.kill();
    // Its child is still waiting.
    assert!(app.listener().is_valid(call.id));
    assert_eq!(app.listener().pending(), Pending::None);
    app.listener().answer(call.id, libc::EACCES);
    until("the child ends too", || app.listener().pending() == Pending::Over);
}

#[test]
fn without_a_listener_the_calls_are_unknown_to_the_kernel() {
    let (_held, address, _) = ours();
    let mut app = App::start();
    app.talk.must("socket tcp4 5 -");
    app.talk.tell(&format!("bind 5 {address}"));
    let _waits = app.call();
    app.listener = None;
    assert_eq!(app.talk.said(), libc::ENOSYS.to_string());
    assert_eq!(app.talk.ask(&format!("bind 5 {address}")), libc::ENOSYS.to_string());
    assert_eq!(app.talk.ask("listen 5 1"), libc::ENOSYS.to_string());
}
