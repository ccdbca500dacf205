//! Which calls are intercepted, and how they are read.

use std::os::fd::AsFd;

use reberth::sys::notify::{Call, Pending, can_copy, copy_of, inode_of, read_memory, socket_of, v6_only};

use crate::fixture::{App, Meeting};
use crate::harness::place::{free_port, unique};
use crate::supervisor::address;

/// The app's reply to a command whose call is not intercepted.
#[track_caller]
fn unheard(app: &mut App, command: &str) -> String {
    let said = app.talk.ask(command);
    assert_eq!(app.listener().pending(), Pending::None, "{command}");
    said
}

#[test]
fn binds_of_every_length_that_the_kernel_accepts_are_intercepted() {
    let mut app = App::start();
    app.talk.must("socket tcp4 5 -");
    app.talk.must("socket tcp6 6 -");
    let port = free_port();
    for (fd, target, lengths) in
        [(5, format!("127.0.0.1:{port}"), [16, 28, 110, 128]), (6, format!("[::1]:{port}"), [24, 28, 110, 128])]
    {
        for length in lengths {
            app.talk.tell(&format!("bind {fd} {target} {length}"));
            let call = app.call();
            let Call::Bind { fd: heard, length: told, .. } = call.call else { panic!("{call:?}") };
            assert_eq!((call.tid, heard, told), (app.pid, fd, length));
            assert_eq!(address(&call).unwrap().unwrap().to_string(), target);
            app.listener().answer(call.id, libc::EADDRINUSE);
            assert_eq!(app.talk.said(), libc::EADDRINUSE.to_string());
        }
    }
    for length in [2, 15, 129, 4096] {
        assert_eq!(unheard(&mut app, &format!("bind 5 127.0.0.1:{port} {length}")), libc::EINVAL.to_string());
    }
}

#[test]
fn other_sockets_and_addresses_are_distinguished() {
    let mut app = App::start();
    let name = format!("@{}-long-enough-to-be-heard", unique());
    app.talk.must("socket unix 5 -");
    app.talk.tell(&format!("bind 5 {name}"));
    let call = app.call();
    assert_eq!(address(&call).unwrap(), None);
    app.listener().let_through(call.id);
    assert_eq!(app.talk.said(), "0");
    app.talk.must("socket unix 6 -");
    assert_eq!(unheard(&mut app, "bind 6 @short"), "0");
    // An invalid descriptor and invalid memory: the kernel reports both.
    app.talk.tell("bind 99 127.0.0.1:0");
    let call = app.call();
    assert_eq!(socket_of(call.tid, 99).unwrap_err().raw_os_error(), Some(libc::EBADF));
    app.listener().let_through(call.id);
    assert_eq!(app.talk.said(), libc::EBADF.to_string());
    app.talk.tell("bind-at 5 8 16");
    let call = app.call();
    assert_eq!(call.call, Call::Bind { fd: 5, address: 8, length: 16 });
    assert_eq!(read_memory(call.tid, 8, &mut [0; 16]).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    app.listener().let_through(call.id);
    assert_eq!(app.talk.said(), libc::EFAULT.to_string());
}

/// IPV6_V6ONLY is read from the socket, and intercepted if it cannot be read.
#[test]
fn the_option_is_intercepted_if_it_cannot_be_read() {
    let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    for forbidden in [false, true] {
        let mut supervisor = App::unheard();
        if forbidden {
            supervisor.talk.must(&format!("forbid pidfd_getfd {}", libc::EPERM));
        }
        let meeting = Meeting::new();
        let said = supervisor.talk.ask(&format!("launch {} binds", meeting.name));
        assert!(said.starts_with("started"), "{said}");
        let mut app = meeting.meet();
        app.must("socket tcp6 5 -");
        for value in [1, 0] {
            app.tell(&format!("option 5 {level} {name} {value}"));
            if forbidden || !can_copy() {
                assert_eq!(supervisor.talk.ask("hear"), format!("v6only 5 {value}"));
            }
            assert_eq!(app.said(), "0");
        }
        // Other options are not intercepted: no answer is needed.
        app.must(&format!("option 5 {} {} 1", libc::SOL_SOCKET, libc::SO_REUSEADDR));
        app.must(&format!("option 5 {level} {} 1", libc::IPV6_RECVPKTINFO));
    }
}

#[test]
fn the_option_is_read_from_a_copy() {
    let mut app = App::start();
    app.talk.must("socket tcp6 5 -");
    for value in [1, 0] {
        app.talk.tell(&format!("option 5 {} {} {value}", libc::IPPROTO_IPV6, libc::IPV6_V6ONLY));
        if !can_copy() {
            app.listener().let_through(app.call().id);
        }
        assert_eq!(app.talk.said(), "0");
        app.talk.tell("bind 5 [::1]:0");
        let call = app.call();
        let read = copy_of(call.tid, 5).map(|copy| v6_only(copy.as_fd()).unwrap());
        assert_eq!(read.ok(), can_copy().then_some(value != 0));
        app.listener().answer(call.id, libc::EADDRINUSE);
        assert_eq!(app.talk.said(), libc::EADDRINUSE.to_string());
    }
}

#[test]
fn a_thread_is_read_like_its_program() {
    let mut app = App::start();
    let port = free_port();
    app.talk.tell(&format!("threads 1 {port}"));
    let call = app.call();
    assert_ne!(call.tid, app.pid);
    let Call::Bind { fd, .. } = call.call else { panic!("{call:?}") };
    assert_eq!(address(&call).unwrap().unwrap().port(), port);
    let inode = inode_of(call.tid, fd).unwrap();
    let copied = copy_of(call.tid, fd).map(|copy| reberth::sys::descriptor::inode(&copy).unwrap());
    assert_eq!(copied.ok(), can_copy().then_some(inode));
    app.listener().let_through(call.id);
    assert_eq!(app.talk.said(), format!("0:{inode}"));
}
