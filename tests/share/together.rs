//! Instances that share a port: which serve, which come and go, and which are healthy.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{place, until};
use crate::{ask, group, healthcheck, instance, serving, stop};

#[test]
fn two_instances_serve_and_the_last_one_takes_the_port_with_it() {
    let (group, port) = group();
    let one = serving(&group, port, "one", &[]);
    let mut two = serving(&group, port, "two", &[]);
    two.stderr_until("is shared with another instance of");
    assert!(!two.stderr().contains("is busy"), "{}", two.report());
    for name in ["one 127.0.0.1", "two 127.0.0.1"] {
        until("both answer, and see IPv4 clients", || ask(port).as_deref() == Some(name));
    }
    // In the order of their start, then in another: there is no leader.
    stop(one);
    let three = serving(&group, port, "three", &[]);
    stop(two);
    assert_eq!(ask(port).as_deref(), Some("three 127.0.0.1"));
    stop(three);
    assert_eq!(ask(port), None, "the port is gone with the last of them");
}

/// Control: without the name they are not related, and the second one waits.
#[test]
fn unrelated_instances_wait_for_each_other() {
    let (one, port) = group();
    let first = serving(&one, port, "one", &[]);
    let mut other = instance(&format!("{one}x"), port, "other", &["--wait", "30s"]).start();
    other.stderr_until("is busy, waiting");
    assert_eq!(ask(port).as_deref(), Some("one 127.0.0.1"));
    stop(first);
    other.expect("serving");
    stop(other);
}

#[test]
fn no_client_is_refused_however_instances_come_and_go() {
    let (group, port) = group();
    let rounds = std::env::var("REBERTH_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1) * 12;
    let over = AtomicBool::new(false);
    let mut live = vec![serving(&group, port, "0", &[])];
    let (answers, failures) = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut answers, mut failures) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                match std::net::TcpStream::connect(("127.0.0.1", port)) {
                    Ok(_) => answers += 1,
                    Err(error) => failures.push(error),
                }
            }
            (answers, failures)
        });
        for round in 1..=rounds {
            live.push(serving(&group, port, &round.to_string(), &[]));
            // Up to four in parallel; the one that exits is the oldest, the youngest, or one that crashes.
            if live.len() > 3 {
                let mut gone = live.remove(if round % 2 == 0 { 0 } else { 1 });
                gone.signal(if round % 3 == 0 { 9 } else { 15 });
                gone.finish();
            }
        }
        over.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    assert!(failures.is_empty(), "{} of {} refused: {:?}", failures.len(), answers + failures.len(), failures.first());
    println!("{rounds} instances came and went, {answers} clients, none refused");
    live.into_iter().for_each(stop);
    assert_eq!(ask(port), None);
}

#[test]
fn an_app_that_shuts_the_socket_down_does_not_end_the_port() {
    let (group, port) = group();
    let mut one = serving(&group, port, "one", &[]);
    let mut two = serving(&group, port, "two", &[]);
    one.write("shutdown\n");
    // Whichever instance notices first.
    until("it listens again", || [&mut one, &mut two].into_iter().any(|run| run.stderr().contains("listens again")));
    until("the other one answers", || ask(port).as_deref() == Some("two 127.0.0.1"));
    stop(one);
    assert_eq!(ask(port).as_deref(), Some("two 127.0.0.1"));
    stop(two);
}

/// asyncio binds a blocking socket and makes it non-blocking a moment later. In that moment an accept(2) of the other instance would block,
/// together with the clients that it has already accepted.
#[test]
fn a_newcomer_blocks_no_accept_of_another_instance() {
    let (group, port) = group();
    let script = "import os, socket, sys\ns = socket.socket()\ns.bind(('0.0.0.0', int(sys.argv[1])))\ns.listen()\nprint('serving', flush=True)\n\
                  for line in sys.stdin:\n if line == 'change\\n': s.setblocking(False)\n print('blocks', os.get_blocking(s.fileno()), flush=True)";
    let start = || {
        let mut launch = instance(&group, port, "x", &[]);
        launch.words.truncate(launch.words.iter().position(|word| word == "-c").unwrap() + 1);
        launch.words.extend([script.into(), port.to_string().into()]);
        let mut running = launch.start();
        running.expect("serving");
        running
    };
    let mut one = start();
    one.write("look\n");
    one.expect("blocks True");
    one.write("change\n");
    one.expect("blocks False");
    let two = start();
    one.write("look\n");
    one.expect("blocks False");
    stop(one);
    stop(two);
}

/// While others answer, an instance that does not answer must not be called healthy, by any probe.
#[test]
fn only_an_answer_of_its_own_app_counts() {
    let (group, port) = group();
    let one = serving(&group, port, "one", &[]);
    let deaf = "import socket, sys, signal\ns = socket.socket()\ns.setsockopt(1, 2, 1)\ns.bind(('0.0.0.0', int(sys.argv[1])))\ns.listen()\n\
                print('serving', flush=True)\nsignal.pause()";
    for (flags, words) in [(&[][..], &["/"][..]), (&[], &["tcp"]), (&["--health", "/"], &[])] {
        let mut launch = instance(&group, port, "deaf", flags);
        launch.words.truncate(launch.words.iter().position(|word| word == "-c").unwrap() + 1);
        launch.words.extend([deaf.into(), port.to_string().into()]);
        let mut two = launch.start();
        two.expect("serving");
        if flags.is_empty() {
            two.stderr_until("is ready on port");
        }
        let (healthy, line) = healthcheck(&two, words);
        assert!(!healthy && line.contains("never this run's own app"), "{line}{}", two.report());
        assert!(flags.is_empty() || !two.stderr().contains("is ready"), "{}", two.report());
        for _ in 0..5 {
            let (healthy, line) = healthcheck(&one, words);
            assert!(healthy, "{line}");
        }
        stop(two);
    }
    stop(one);
}

#[test]
fn prewarm_needs_no_wait() {
    let (group, port) = group();
    let one = serving(&group, port, "one", &["--prewarm"]);
    let mut two = serving(&group, port, "two", &["--prewarm"]);
    assert!(!two.stderr().contains("is busy"), "{}", two.report());
    stop(one);
    assert_eq!(ask(port).as_deref(), Some("two 127.0.0.1"));
    stop(two);
}

#[test]
fn sockets_by_descriptor_are_shared_too() {
    let (group, port) = group();
    let script = "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\nprint('serving', flush=True)\n\
                  while True:\n c, _ = s.accept(); c.recv(99)\n \
                  c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + sys.argv[2].encode()); c.close()";
    let start = |name: &str| {
        let mut launch = instance(&group, port, name, &[]);
        launch.words.truncate(launch.words.iter().position(|word| word == "-c").unwrap() + 1);
        launch.words.extend([script.into(), "{fd}".into(), name.into()]);
        let mut running = launch.start();
        running.expect("serving");
        running
    };
    let (one, two) = (start("one"), start("two"));
    for name in ["one", "two"] {
        until("both answer", || ask(port).as_deref() == Some(name));
    }
    stop(one);
    assert_eq!(ask(port).as_deref(), Some("two"));
    stop(two);
}

/// Whichever instance is faster gets a datagram; when one exits, none is refused.
#[test]
fn udp_by_descriptor_is_shared_too() {
    let (group, port) = group();
    let script = "import socket, sys\nu = socket.socket(fileno=int(sys.argv[1]))\nprint('serving', flush=True)\n\
                  while True:\n _, peer = u.recvfrom(99); u.sendto(sys.argv[2].encode(), peer)";
    let start = |name: &str| {
        let mut launch = instance(&group, port, name, &["--port", &format!("u=127.0.0.1:{port}/udp")]);
        launch.words.truncate(launch.words.iter().position(|word| word == "-c").unwrap() + 1);
        launch.words.extend([script.into(), "{fd.u}".into(), name.into()]);
        let mut running = launch.start();
        running.expect("serving");
        running
    };
    let answer = || {
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        client.send_to(b"who", ("127.0.0.1", port)).unwrap();
        let mut text = [0; 16];
        let (size, _) = client.recv_from(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..size]).into_owned())
    };
    let one = start("one");
    let mut two = start("two");
    two.stderr_until(&format!("port 127.0.0.1:{port}/udp is shared"));
    for name in ["one", "two"] {
        until("both answer", || answer().as_deref() == Some(name));
    }
    stop(one);
    assert_eq!(answer().as_deref(), Some("two"));
    stop(two);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    client.send(b"who").unwrap();
    assert!(client.recv(&mut [0; 16]).is_err(), "the port is gone with the last of them");
}

/// What no intercepted bind can answer stays with the app: a copy of the claimed socket would block the app itself.
#[test]
fn an_app_that_shares_its_port_binds_udp_by_itself() {
    let (group, port) = group();
    let script = "import socket, sys\nu = socket.socket(type=socket.SOCK_DGRAM)\nu.bind(('127.0.0.1', int(sys.argv[1])))\n\
                  print('bound', flush=True)\nimport signal; signal.pause()";
    let start = || {
        let mut launch = instance(&group, port, "x", &["--port", &format!("127.0.0.1:{port}/udp")]);
        launch.words.truncate(launch.words.iter().position(|word| word == "-c").unwrap() + 1);
        launch.words.extend([script.into(), port.to_string().into()]);
        launch.start()
    };
    let mut one = start();
    one.expect("bound");
    let mut two = start();
    two.stderr_until("is busy, waiting");
    stop(one);
    two.expect("bound");
    stop(two);
}

#[test]
fn of_several_ports_each_is_found_by_itself() {
    let (group, port) = group();
    let other = place::free_port();
    let one = serving(&group, port, "one", &["--port", &format!("admin=127.0.0.1:{other}")]);
    let mut two = serving(&group, port, "two", &[]);
    two.stderr_until(&format!("port 0.0.0.0:{port} is shared"));
    let mut three = serving(&group, port, "three", &["--port", &format!("127.0.0.1:{other}"), "--wait", "0s"]);
    three.stderr_until(&format!("port 127.0.0.1:{other} is shared"));
    [one, two, three].into_iter().for_each(stop);
}

#[test]
fn who_reports_that_a_port_is_shared() {
    let (group, port) = group();
    let (one, two) = (serving(&group, port, "one", &[]), serving(&group, port, "two", &[]));
    let who = crate::harness::Launch::new(env!("CARGO_BIN_EXE_reberth")).args(["who", &port.to_string()]);
    let outcome = who.start().finish().expect_code(1);
    assert!(outcome.stderr.contains(&format!("shared by the instances of {group} (--share)")), "{}", outcome.report());
    // Both apps, and both reberths.
    assert!(outcome.stdout.lines().filter(|line| line.contains("listening")).count() >= 4, "{}", outcome.report());
    stop(one);
    stop(two);
}
