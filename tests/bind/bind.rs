//! The app's own bind.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::harness::place::free_port;
use crate::harness::wait::holds_within;
use crate::harness::{look, until};
use crate::{both, bound, greeted, python, state, stop};

#[test]
fn the_app_gets_the_socket_under_its_own_number_and_mode() {
    both(|mode| {
        for (blocks, cloexec) in [(true, true), (false, true), (true, false), (false, false)] {
            let port = free_port();
            let script = format!(
                "s = made(block={b})\nos.set_inheritable(s.fileno(), {i})\nbefore = s.fileno(), s.getblocking(), s.get_inheritable(), s.family\n\
                 s.bind(('0.0.0.0', {port})); s.listen(1)\n\
                 say(before == (s.fileno(), s.getblocking(), s.get_inheritable(), s.family), s.getsockname())\nsignal.pause()",
                b = if blocks { "True" } else { "False" },
                i = if cloexec { "False" } else { "True" },
            );
            let mut running = mode(bound(&["--port", &port.to_string()], &script)).start();
            running.expect(&format!("True ('0.0.0.0', {port})"));
            running.stderr_until(&format!("is ready on port {port}"));
            until("the state says so", || state(&running).contains("\"ready\""));
            stop(running);
        }
    });
}

/// The blocking mode belongs to every process that has the socket: a worker that binds it again must not make the accept(2) of another one
/// block. Once no process has it any more, the mode is the requested one again.
#[test]
fn a_second_bind_leaves_the_mode_of_a_socket_that_serves() {
    let port = free_port();
    let script = format!(
        "s = S(V4, '0.0.0.0', {port}, block=False)\nt = S(V4, '0.0.0.0', {port})\nsay(os.get_blocking(s.fileno()))\n\
         s.close(); t.close()\ns = S(V4, '0.0.0.0', {port})\nsay(os.get_blocking(s.fileno()))\nsignal.pause()"
    );
    let mut running = bound(&["--port", &port.to_string()], &script).start();
    running.expect("False");
    running.expect("True");
    stop(running);
}

/// The address family is the app's choice, and so is how it sees its clients.
#[test]
fn an_ipv4_app_sees_ipv4_clients_and_an_ipv6_app_both() {
    for (spec, app, clients) in [
        ("", "S(V4, '0.0.0.0', P)", &[("127.0.0.1", Some("127.0.0.1")), ("::1", None)][..]),
        ("0.0.0.0:", "S(V4, '0.0.0.0', P)", &[("127.0.0.1", Some("127.0.0.1")), ("::1", None)]),
        ("[::]:", "S(V4, '0.0.0.0', P)", &[("127.0.0.1", Some("127.0.0.1")), ("::1", None)]),
        ("", "S(V6, '::', P, v6only=0)", &[("127.0.0.1", Some("::ffff:127.0.0.1")), ("::1", Some("::1"))]),
        ("[::]:", "S(V6, '::', P)", &[("127.0.0.1", Some("::ffff:127.0.0.1")), ("::1", Some("::1"))]),
        ("", "S(V6, '::', P, v6only=1)", &[("127.0.0.1", None), ("::1", Some("::1"))]),
        ("", "S(V6, '::1', P)", &[("127.0.0.1", None), ("::1", Some("::1"))]),
        ("", "S(V4, '127.0.0.1', P)", &[("127.0.0.1", Some("127.0.0.1")), ("127.0.0.2", None), ("::1", None)]),
        ("0.0.0.0:", "S(V4, '127.0.0.2', P)", &[("127.0.0.1", None), ("127.0.0.2", Some("127.0.0.1"))]),
    ] {
        let port = free_port();
        let script = format!("s = {}\nsay('up')\ngreet(s)", app.replace('P', &port.to_string()));
        let mut running = bound(&["--port", &format!("{spec}{port}")], &script).start();
        running.expect("up");
        for (address, want) in clients {
            assert_eq!(greeted(address, port).as_deref(), *want, "{spec} {app} {address}\n{}", running.report());
        }
        if app.contains("127.0.0.1") {
            running.stderr_until("on loopback only");
        }
        stop(running);
    }
}

#[test]
fn clients_queue_from_the_claim_on_where_the_address_is_named() {
    both(|mode| {
        for (spec, app) in
            [("0.0.0.0:", "S(V4, '0.0.0.0', P)"), ("[::]:", "S(V6, '::', P)"), ("127.0.0.1:", "S(V4, '127.0.0.1', P)")]
        {
            let port = free_port();
            let script =
                format!("say('started'); sys.stdin.readline()\ns = {}\ngreet(s)", app.replace('P', &port.to_string()));
            let mut running = mode(bound(&["--port", &format!("{spec}{port}")], &script)).start();
            running.expect("started");
            let early = TcpStream::connect(("127.0.0.1", port)).expect("it queues");
            running.write("\n");
            let text = crate::harness::running::read_to_end(early.into());
            assert!(text.contains("127.0.0.1"), "{text}");
            stop(running);
        }
    });
}

/// Two queues would mean resetting one of them: a bare port waits for the app's bind, and no other process can take it.
#[test]
fn a_bare_port_is_held_and_refuses_until_the_bind() {
    both(|mode| {
        let port = free_port();
        let script = format!("say('started'); sys.stdin.readline()\ns = S(V4, '0.0.0.0', {port})\nsay('up'); greet(s)");
        let mut running = mode(bound(&["--port", &port.to_string()], &script)).start();
        running.expect("started");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        for address in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
            // std sets SO_REUSEADDR.
            assert!(TcpListener::bind((address, port)).is_err(), "{address} was to be had");
        }
        running.write("\n");
        running.expect("up");
        assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
        assert!(TcpListener::bind(("::", port)).is_err(), "the other family is still ours");
        stop(running);
        TcpListener::bind(("::", port)).expect("free again");
    });
}

#[test]
fn other_binds_are_left_untouched() {
    let (port, other) = (free_port(), free_port());
    let script = format!(
        "u = socket.socket(V4, socket.SOCK_DGRAM); u.bind(('127.0.0.1', {port}))\n\
         x = socket.socket(socket.AF_UNIX); x.bind('\\0a-rather-long-abstract-name-{port}')\n\
         o = S(V4, '127.0.0.1', {other}); say(o.getsockname()[1])\n\
         z = S(V4, '127.0.0.1', 0); say(z.getsockname()[1] != {port})\n\
         n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); n.bind((0, 0))\n\
         try: S(V4, '192.0.2.1', {port})\nexcept OSError as e: say(errno.errorcode[e.errno])\n\
         try: made(V6).bind(('::1', {port}, 0, 0)); say('v6')\nexcept OSError as e: say(errno.errorcode[e.errno])\n\
         s = S(V4, '0.0.0.0', {port}); say('up')\ngreet(s)"
    );
    let mut running = bound(&["--port", &port.to_string()], &script).start();
    running.expect(&other.to_string());
    running.expect("True");
    running.expect("EADDRNOTAVAIL");
    running.expect("v6");
    running.expect("up");
    assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
    stop(running);
}

/// In a network namespace that the app creates, that number is another port; and a bound socket cannot be bound again.
#[test]
fn another_network_and_a_bound_socket_are_left_to_the_kernel() {
    let (port, other) = (free_port(), free_port());
    let script = format!(
        "b = S(V4, '127.0.0.1', {other})\n\
         try: b.bind(('0.0.0.0', {port})); say('bound twice')\nexcept OSError as e: say(errno.errorcode[e.errno])\n\
         if os.fork() == 0:\n import ctypes; assert ctypes.CDLL(None).unshare(0x50000000) == 0\n \
         n = S(V4, '0.0.0.0', {port}); say(n.getsockname(), len(open('/proc/self/net/tcp').readlines())); os._exit(0)\n\
         os.wait()\ns = S(V4, '0.0.0.0', {port}); say('up'); greet(s)"
    );
    let mut running = bound(&["--port", &format!("0.0.0.0:{port}")], &script).start();
    running.expect("EINVAL");
    // The socket is in the table of its own namespace: a header and a line.
    running.expect(&format!("('0.0.0.0', {port}) 2"));
    running.expect("up");
    assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
    stop(running);
}

#[test]
fn workers_threads_and_repeated_binds_never_get_address_in_use() {
    both(|mode| {
        let port = free_port();
        let script = format!(
            "def one(i):\n for _ in range(40):\n  s = S(V4, '0.0.0.0', {port}); s.close()\n\
             all = [threading.Thread(target=one, args=(i,)) for i in range(4)]\n[t.start() for t in all]; [t.join() for t in all]\n\
             kids = []\nfor i in range(6):\n pid = os.fork()\n if pid == 0:\n  s = S(V4, '0.0.0.0', {port}); say('worker'); greet(s)\n kids.append(pid)\n\
             signal.signal(signal.SIGTERM, lambda *a: ([os.kill(k, 9) for k in kids], os._exit(0)))\nsignal.pause()"
        );
        let mut running = mode(bound(&["--port", &port.to_string()], &script)).start();
        for _ in 0..6 {
            running.expect("worker");
        }
        assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
        running.signal(15);
        running.finish().expect_code(0);
    });
}

/// A hard-coded port follows the fallback, and so does port 0.
#[test]
fn a_bind_of_the_configured_port_gets_the_port_taken() {
    let port = free_port();
    let _holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let script = format!("s = S(V4, '0.0.0.0', {port}); say(s.getsockname()[1], os.environ['PORT']); greet(s)");
    let mut running = bound(&["--port", &port.to_string(), "--wait", "0s", "--fallback", "next"], &script).start();
    let line = running.line();
    let (bound_to, told) = line.split_once(' ').unwrap();
    assert_eq!(bound_to, told);
    assert_ne!(bound_to, port.to_string());
    assert_eq!(greeted("127.0.0.1", bound_to.parse().unwrap()).as_deref(), Some("127.0.0.1"));
    stop(running);
    for asked in ["0", "int(os.environ['PORT'])"] {
        let script = format!("s = S(V4, '0.0.0.0', {asked}); say(s.getsockname()[1], os.environ['PORT']); greet(s)");
        let mut running = bound(&["--port", "0"], &script).start();
        let line = running.line();
        let (bound_to, told) = line.split_once(' ').unwrap();
        assert_eq!(bound_to, told, "{asked}");
        stop(running);
    }
}

#[test]
fn between_a_close_and_the_next_bind_clients_queue_and_after_term_they_are_refused() {
    both(|mode| {
        for drain in ["0s", "300ms"] {
            let port = free_port();
            let script = format!(
                "signal.signal(signal.SIGTERM, lambda *a: say('term'))\n\
                 s = S(V4, '0.0.0.0', {port}); hello(s); s.close(); say('closed'); sys.stdin.readline()\n\
                 s = S(V4, '0.0.0.0', {port}); hello(s); say('again')\n\
                 for line in sys.stdin:\n s.close(); say('drained')"
            );
            let mut running = mode(bound(&["--port", &port.to_string(), "--drain", drain], &script)).start();
            running.stderr_until("is ready");
            assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
            running.expect("closed");
            let queued = TcpStream::connect(("127.0.0.1", port)).expect("it queues");
            running.write("\n");
            assert!(crate::harness::running::read_to_end(queued.into()).contains("127.0.0.1"));
            running.expect("again");
            running.signal(15);
            running.expect("term");
            running.write("close\n");
            running.expect("drained");
            until("clients are refused", || TcpStream::connect(("127.0.0.1", port)).is_err());
            running.close_stdin();
            running.finish().expect_code(0);
        }
    });
}

/// The event is the app's own listen(2): there is no polling, and no wake-up while it runs.
#[test]
fn an_app_under_bind_costs_no_wake_up() {
    let port = free_port();
    let script = format!(
        "s = made(); s.bind(('0.0.0.0', {port})); say('bound'); sys.stdin.readline()\ns.listen(1); say('up'); greet(s)"
    );
    let mut running = bound(&["--port", &port.to_string()], &script).start();
    running.expect("bound");
    let pid = running.init;
    let switches = || look::status(pid, "voluntary_ctxt_switches").unwrap();
    // After the wake-ups that every run has in its first second.
    until("it sleeps", || {
        let before = switches();
        !holds_within(Duration::from_millis(1200), || switches() != before)
    });
    assert!(!running.stderr().contains("is ready"), "{}", running.report());
    running.write("\n");
    running.expect("up");
    running.stderr_until("is ready on port");
    stop(running);
}

/// gunicorn queries SO_ACCEPTCONN and does not call listen(2) if the socket listens already, as the given one does.
#[test]
fn an_app_that_queries_whether_it_listens_is_ready_by_the_answer() {
    for spec in ["", "0.0.0.0:"] {
        let port = free_port();
        let script = format!(
            "A = lambda: s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)\ns = made(); say('before', A())\n\
             s.bind(('0.0.0.0', {port})); say('bound'); sys.stdin.readline()\n\
             listens = A()\nif not listens: s.listen(1)\nsay('listens', listens); greet(s)"
        );
        let mut running = bound(&["--port", &format!("{spec}{port}"), "--start-timeout", "20s"], &script).start();
        running.expect("before 0");
        running.expect("bound");
        assert!(!state(&running).contains("\"ready\""), "{}", running.report());
        running.write("\n");
        running.expect("listens 1");
        running.stderr_until(&format!("is ready on port {port}"));
        assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
        stop(running);
    }
}

#[test]
fn an_app_or_an_init_killed_in_the_bind_leaves_no_process_hanging() {
    // The port is busy, so the bind waits.
    let port = free_port();
    let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let script = format!("say('ready', os.getpid())\nS(V4, '0.0.0.0', {port})");
    let mut running = python(&["--prewarm", "--port", &port.to_string()], &script).start();
    let app: i32 = running.line_after("ready ").parse().unwrap();
    until("it waits in its bind", || {
        std::fs::read_to_string(format!("/proc/{app}/syscall"))
            .is_ok_and(|text| text.starts_with(&libc::SYS_bind.to_string()))
    });
    crate::harness::running::kill(app, 9);
    running.finish().expect_code(137);
    let mut running = python(&["--prewarm", "--port", &port.to_string()], &script).start();
    let app: i32 = running.line_after("ready ").parse().unwrap();
    running.signal(9);
    running.finish();
    until("the app is gone with it", || !look::alive(app));
    drop(holder);
}

/// A process that has changed its user cannot be read. It gets its port all the same, with one warning.
#[test]
fn an_app_that_cannot_be_read_binds_by_itself() {
    let port = free_port();
    // Not dumpable, as after a change of user: /proc and process_vm_readv are denied without CAP_SYS_PTRACE.
    let script = format!(
        "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\ns = S(V4, '0.0.0.0', {port}); say('up'); t = S(V4, '0.0.0.0', 0); greet(s)"
    );
    let mut launch = bound(&["--port", &port.to_string()], &script);
    if nix::unistd::geteuid().is_root() {
        launch = launch.uid(65534);
        launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
    }
    let mut running = launch.start();
    running.expect("up");
    running.stderr_until("cannot be read");
    running.stderr_until("is ready on port");
    assert_eq!(running.stderr().matches("has ended").count(), 1, "{}", running.report());
    assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
    stop(running);
}

/// There is already another listener, as with a seccomp profile that notifies: a warning, and then as with `off`.
#[test]
fn if_binds_cannot_be_intercepted_it_continues_as_with_off() {
    let port = free_port();
    let script = format!("s = S(V4, '0.0.0.0', {port}); say('up'); greet(s)");
    let inner = bound(&["--port", &port.to_string()], &script);
    // A filter whose listener is never read, on a call that is never made (uselib).
    let outer = "import ctypes, os, struct, sys\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.prctl(38, 1, 0, 0, 0)\n\
                 code = b''.join(struct.pack('HBBI', *op) for op in [(0x20, 0, 0, 0), (0x15, 0, 1, 134), (6, 0, 0, 0x7fc00000), (6, 0, 0, 0x7fff0000)])\n\
                 class Prog(ctypes.Structure): _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_char_p)]\n\
                 fd = libc.syscall(317, 1, 8, ctypes.byref(Prog(4, code)))\nassert fd >= 0, ctypes.get_errno()\n\
                 os.set_inheritable(fd, True)\nos.execvp(sys.argv[1], sys.argv[1:])";
    let mut launch = crate::harness::Launch::new("python3").args(["-S", "-c", outer]).args(inner.words.clone());
    launch.environment.extend(inner.environment.iter().filter(|(name, _)| name == "REBERTH_STATE_DIR").cloned());
    let mut running = launch.start();
    if cfg!(target_arch = "x86_64") {
        running.stderr_until("is not available here: another program already intercepts");
        running.stderr_until("as with --handover off");
    }
    running.expect("up");
    running.stderr_until("is ready on port");
    assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"));
    stop(running);
}

#[test]
fn few_descriptors_leave_no_process_hanging() {
    let port = free_port();
    let script = format!("s = S(V4, '0.0.0.0', {port}); say('up'); greet(s)");
    for limit in 8..20 {
        let mut running = bound(&["--port", &port.to_string()], &script).limit(libc::RLIMIT_NOFILE, limit).start();
        until("it is up, or says why not", || running.stdout().contains("up") || running.has_ended());
        if running.has_ended() {
            let outcome = running.finish();
            assert!(
                outcome.stderr.contains("open files") || outcome.stderr.contains("Too many open"),
                "{}",
                outcome.report()
            );
        } else {
            assert_eq!(greeted("127.0.0.1", port).as_deref(), Some("127.0.0.1"), "{limit}: {}", running.report());
            stop(running);
        }
    }
}
