//! How the filter is installed on the app, what the supervisor is left with, and the cases in which it cannot be installed. The supervisor
//! is a separate program here: it has one thread, and a profile.

use reberth::sys::notify::can_copy;

use crate::fixture::{App, Meeting, Talk};
use crate::harness::place::free_port;

/// A supervisor that has started an app: its report, and the app.
#[track_caller]
fn launched(supervisor: &mut App, notify: &str) -> (String, Talk) {
    let meeting = Meeting::new();
    let said = supervisor.talk.ask(&format!("launch {} {notify}", meeting.name));
    assert!(said.starts_with("started"), "{said}");
    (said, meeting.meet())
}

/// The supervisor has no children left: no half-started process remains.
#[track_caller]
fn refused(supervisor: &mut App, expected: &str) {
    let said = supervisor.talk.ask("launch unmet binds");
    assert_eq!(said, format!("refused {expected}; more []; less []"));
    assert_eq!(supervisor.talk.ask("children"), "none");
    let (said, mut app) = launched(supervisor, "no");
    assert_eq!(said, "started, no_new_privs false; more []; less []");
    app.must("socket tcp4 5 -");
    app.must("bind 5 127.0.0.1:0");
}

#[test]
fn the_listener_is_the_supervisors_and_not_the_apps() {
    let mut supervisor = App::unheard();
    let before = supervisor.talk.ask("fds");
    let (said, mut app) = launched(&mut supervisor, "binds");
    let listener = said.split('"').nth(1).unwrap_or_default();
    assert!(listener.ends_with(":anon_inode:seccomp-notify"), "{said}");
    assert!(said.ends_with(&format!("more [{listener:?}]; less []")), "{said}");
    let fds = app.ask("fds");
    assert!(!fds.contains("seccomp") && !fds.contains("anon_inode"), "{fds}");
    // Filters of a container that the tests may run in count too.
    let filters = |text: String| text.parse::<u32>().unwrap();
    let own = filters(supervisor.talk.ask("status Seccomp_filters"));
    assert_eq!(filters(app.ask("status Seccomp_filters")), own + 1);
    assert_eq!(supervisor.talk.ask("forget"), "0");
    assert_eq!(supervisor.talk.ask("fds"), before);
    app.must("socket tcp4 5 -");
    assert_eq!(app.ask("bind 5 127.0.0.1:0"), libc::ENOSYS.to_string());
}

#[test]
fn descriptors_that_are_inherited_stay_where_they_are() {
    let mut supervisor = App::unheard();
    // Like the sockets of a service manager: from 3 on, not closed on exec.
    supervisor.talk.must("socket tcp4 3 -");
    supervisor.talk.must("socket tcp6 4 -");
    supervisor.talk.must("socket tcp4 8 c");
    let sockets = [3, 4].map(|at| format!("{at}:socket:[{}]", supervisor.talk.ask(&format!("state {at}"))));
    let (said, mut app) = launched(&mut supervisor, "binds");
    assert!(said.contains("less []"), "{said}");
    let fds = app.ask("fds");
    assert!(sockets.iter().all(|socket| fds.contains(socket)), "{fds}");
    assert!(!fds.contains(" 8:"), "{fds}");
}

#[test]
fn an_exec_that_fails_leaves_nothing() {
    let mut supervisor = App::unheard();
    let said = supervisor.talk.ask("launch missing binds");
    assert_eq!(said, format!("failed {}; more []; less []", libc::ENOENT));
}

#[test]
fn privileges_are_given_up_only_if_the_kernel_requires_it() {
    // (the initial state of the supervisor, whether it reports having set it, the state of the app)
    for (first, ours, theirs) in
        [(None, "false", "0"), (Some("uid 65534"), "true", "1"), (Some("privileges"), "false", "1")]
    {
        let mut supervisor = App::unheard();
        if let Some(first) = first {
            supervisor.talk.must(first);
        }
        let own = supervisor.talk.ask("status NoNewPrivs");
        let (said, mut app) = launched(&mut supervisor, "binds");
        assert!(said.starts_with(&format!("started, no_new_privs {ours};")), "{first:?}: {said}");
        assert_eq!(app.ask("status NoNewPrivs"), theirs, "{first:?}");
        assert_eq!(supervisor.talk.ask("status NoNewPrivs"), own);
    }
}

#[test]
fn a_listener_of_an_outer_supervisor_is_reported() {
    let mut supervisor = App::start();
    // The supervisor is intercepted itself, and so would be what it starts without a filter: its binds are let through below.
    let said = supervisor.talk.ask("launch unmet binds");
    assert_eq!(said, format!("refused {}; more []; less []", libc::EBUSY));
    assert_eq!(supervisor.talk.ask("children"), "none");
    let (_, mut app) = launched(&mut supervisor, "no");
    app.must("socket tcp4 5 -");
    app.tell("bind 5 127.0.0.1:0");
    supervisor.listener().let_through(supervisor.call().id);
    assert_eq!(app.said(), "0");
}

#[test]
fn profiles_and_old_kernels_are_reported() {
    for (forbidden, expected) in [
        // A profile, and one that kills: the child dies, not the supervisor.
        (format!("seccomp {}", libc::EPERM), format!("{}", libc::EPERM)),
        (format!("seccomp {}", libc::EACCES), format!("{}", libc::EACCES)),
        ("seccomp kill".to_owned(), format!("{}", libc::EPERM)),
        // Before 5.0, without seccomp, gVisor.
        (format!("seccomp {}", libc::EINVAL), format!("{}", libc::EINVAL)),
        (format!("seccomp {}", libc::ENOSYS), format!("{}", libc::ENOSYS)),
        // Before 5.9. At this point the child already has the filter, and its listener is in the supervisor's table; when the child is
        // killed, the listener must go too.
        (format!("put {}", libc::EINVAL), format!("{}", libc::ENOSYS)),
        ("put kill".to_owned(), format!("{}", libc::EPERM)),
        // An emulator that turns this clone into a fork.
        (format!("shared-table {}", libc::EINVAL), format!("{}", libc::ENOSYS)),
    ] {
        let mut supervisor = App::unheard();
        supervisor.talk.must(&format!("forbid {forbidden}"));
        refused(&mut supervisor, &expected);
    }
}

#[test]
fn a_kernel_that_does_not_know_the_flag_is_asked_again_without_it() {
    let mut supervisor = App::unheard();
    supervisor.talk.must(&format!("forbid speculation {}", libc::EINVAL));
    let (_, mut app) = launched(&mut supervisor, "binds");
    app.must("socket tcp4 5 -");
    app.tell("bind 5 127.0.0.1:0");
    assert_eq!(supervisor.talk.ask("hear"), "bind Ok(Some(127.0.0.1:0)) Ok(Tcp4)");
    assert_eq!(app.said(), "0");
}

#[test]
fn a_supervisor_without_a_spare_descriptor_gets_an_error() {
    let mut supervisor = App::unheard();
    let before = supervisor.talk.ask("fds");
    let lowest = (0..).find(|fd| !before.split(' ').any(|one| one.starts_with(&format!("{fd}:")))).unwrap();
    // Inspecting its own descriptors needs one, and one is left.
    supervisor.talk.must("socket tcp4 50 -");
    supervisor.talk.must(&format!("limit {lowest}"));
    let said = supervisor.talk.ask("launch-blind unmet binds");
    assert_eq!(said, format!("refused {}", libc::EMFILE));
    assert_eq!(supervisor.talk.ask("children"), "none");
}

#[test]
fn memory_is_read_in_either_way_and_a_refusal_is_reported() {
    let readable = "bind Ok(Some(127.0.0.1:0)) Ok(Tcp4)";
    let denied = format!("bind Err({0}) Err({0})", libc::EACCES);
    for (supervisor_is, app_is, expected) in [
        ("uid 65534", "status Name", readable),
        // As under the default profile of Docker 20.10.
        ("forbid process_vm_readv 1", "status Name", readable),
        ("forbid process_vm_readv 38", "status Name", readable),
        // The app has made itself undumpable.
        ("uid 65534", "undumpable", &denied),
    ] {
        let mut supervisor = App::unheard();
        supervisor.talk.must(supervisor_is);
        let (_, mut app) = launched(&mut supervisor, "binds");
        app.ask(app_is);
        app.must("socket tcp4 5 -");
        app.tell("bind 5 127.0.0.1:0");
        assert_eq!(supervisor.talk.ask("hear"), expected, "{supervisor_is}, {app_is}");
        assert_eq!(app.said(), "0");
        // Where nothing is mapped, both ways report what the kernel will report to the app; memory that may not be read is not
        // distinguished.
        app.tell("bind-at 5 8 16");
        let said = supervisor.talk.ask("hear");
        let nowhere = if expected == readable { libc::EFAULT } else { libc::EACCES };
        assert!(said.starts_with(&format!("bind Err({nowhere})")), "{supervisor_is}, {app_is}: {said}");
        assert_eq!(app.said(), libc::EFAULT.to_string());
    }
}

#[test]
fn without_proc_memory_is_read_and_sockets_are_not() {
    let mut supervisor = App::unheard();
    let (_, mut app) = launched(&mut supervisor, "binds");
    supervisor.talk.must("hide-proc");
    app.must("socket tcp4 5 -");
    app.tell("bind 5 127.0.0.1:0");
    assert_eq!(supervisor.talk.ask("hear"), format!("bind Ok(Some(127.0.0.1:0)) Err({})", libc::ENOENT));
    assert_eq!(app.said(), "0");
}

#[test]
fn a_thread_is_copied_from_on_older_kernels_too() {
    let copied = if can_copy() { "Ok(true)" } else { "Err(PermissionDenied)" };
    for forbidden in [None, Some(format!("forbid thread-pidfd {}", libc::EINVAL))] {
        let mut supervisor = App::unheard();
        if let Some(forbidden) = &forbidden {
            supervisor.talk.must(forbidden);
        }
        let (_, mut app) = launched(&mut supervisor, "binds");
        app.tell(&format!("threads 1 {}", free_port()));
        assert_eq!(supervisor.talk.ask("hear-copy"), copied, "{forbidden:?}");
        let said = app.said();
        assert!(said.starts_with("0:"), "{said}");
    }
}
