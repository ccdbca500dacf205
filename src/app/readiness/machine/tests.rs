//! Owns the table tests of the readiness machine: the actions for each fact. Must not know how an action is performed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::*;
use crate::app::readiness::fact::ProbeTarget;
use crate::app::readiness::pace::{OLD_PAUSE, RISK_PAUSE};

const PORT: u16 = 8080;
const SIDE: u16 = 9229;

fn spec(text: &str) -> Spec {
    text.parse().unwrap()
}

fn listener(addr: &str, port: u16) -> Listener {
    Listener { addr: addr.parse().unwrap(), port, inode: 1, v6_only: false, queue: 0, uid: 0 }
}

fn expected(specs: &[&str]) -> Expected {
    let ports = specs.iter().map(|text| spec(text)).collect();
    Expected { ports, evidence: Evidence::Listener, target: None, at_risk: false, limit: None }
}

fn given(specs: &[&str]) -> Expected {
    Expected { evidence: Evidence::Accepting { inode: Some(7) }, ..expected(specs) }
}

/// Plays steps: the time, the fact, and an excerpt of each action it must cause.
fn play(expected: Expected, steps: &[(Duration, Fact, &[&str])]) {
    let begin = Instant::now();
    let mut machine = Machine::begin(expected.clone(), begin);
    for (at, fact, want) in steps {
        let got: Vec<String> = machine.on(begin + *at, fact.clone()).iter().map(short).collect();
        let matches = got.len() == want.len() && got.iter().zip(*want).all(|(got, want)| got.contains(want));
        assert!(matches, "{expected:?}\nat {at:?} {fact:?}\ngot {got:?}\nwanted {want:?}");
    }
}

fn short(one: &Action) -> String {
    match one {
        Action::Info(line) => format!("info {line}"),
        Action::Warn(line) => format!("warn {line}"),
        other => format!("{other:?}"),
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn nowhere() -> Fact {
    Fact::Seen(Seen::Own { here: vec![], all: vec![] })
}

fn own(here: &[&str]) -> Fact {
    let here: Vec<Listener> = here.iter().map(|addr| listener(addr, PORT)).collect();
    Fact::Seen(Seen::Own { all: here.clone(), here })
}

fn side(port: u16) -> Fact {
    Fact::Seen(Seen::Own { here: vec![], all: vec![listener("127.0.0.1", port)] })
}

fn took(accepting: Accepting, queue: Option<u32>) -> Fact {
    Fact::Seen(Seen::Given { accepting, queue, all: vec![] })
}

#[test]
fn with_nothing_to_wait_for_it_is_ready() {
    let machine = Machine::begin(expected(&[]), Instant::now());
    assert!(machine.is_ready() && !machine.serves() && machine.deadline().is_none());
}

#[test]
fn an_app_that_binds_is_ready_when_it_listens() {
    play(
        expected(&["8080"]),
        &[
            (ms(2), Fact::Due, &["Look"]),
            (ms(2), nowhere(), &[]),
            (ms(6), Fact::Due, &["Look"]),
            (
                ms(6),
                own(&["0.0.0.0"]),
                &["Listens([0.0.0.0])", "info the app is ready on port 8080 after 6 ms", "Ready"],
            ),
            (ms(9), Fact::Due, &[]),
            (ms(9), nowhere(), &[]),
        ],
    );
}

#[test]
fn an_address_other_than_the_configured_one_is_logged() {
    for (configured, here, want) in [
        ("8080", &["::"][..], None),
        ("8080", &["0.0.0.0", "10.0.0.1"], None),
        ("8080", &["127.0.0.1"], Some("on loopback only (127.0.0.1:8080)")),
        ("0.0.0.0:8080", &["127.0.0.1", "::1"], Some("on loopback only")),
        ("8080", &["172.17.0.2"], Some("on 172.17.0.2:8080 only, not on all addresses")),
        ("[::]:8080", &["fd00::2"], Some("on [fd00::2]:8080 only")),
        ("8080", &["10.0.0.1", "127.0.0.1"], Some("on 10.0.0.1:8080, 127.0.0.1:8080 only")),
        ("127.0.0.1:8080", &["127.0.0.1"], None),
        ("127.0.0.1:8080", &["0.0.0.0"], None),
        ("127.0.0.1:8080", &["127.0.0.2"], Some("on 127.0.0.2:8080, not on port 127.0.0.1:8080 as configured")),
    ] {
        let mut machine = Machine::begin(expected(&[configured]), Instant::now());
        let todo = machine.on(Instant::now(), own(here));
        let places: Vec<IpAddr> = here.iter().map(|addr| addr.parse().unwrap()).collect();
        assert_eq!(todo.first(), Some(&Action::Listens(places)), "{configured} {here:?}");
        let warned: Vec<&Action> = todo.iter().filter(|one| matches!(one, Action::Warn(_))).collect();
        match (want, warned.as_slice()) {
            (None, []) => {}
            (Some(want), [Action::Warn(line)]) if line.contains(want) => {}
            other => panic!("{configured} {here:?}: {other:?}"),
        }
        assert_eq!(todo.last(), Some(&Action::Ready), "it serves, wherever that is");
    }
}

#[test]
fn a_side_port_is_logged_and_called_a_mistake_only_later() {
    let so_far = "info the app listens on 127.0.0.1:9229 so far; still waiting for it on port 8080";
    let fault = "warn the app listens on 127.0.0.1:9229, not on port 8080 as configured, and on loopback only";
    let ready = &["Listens", "info the app is ready", "Ready"][..];
    play(expected(&["8080"]), &[(ms(100), side(SIDE), &[]), (ms(1500), own(&["::"]), ready)]);
    play(
        expected(&["8080"]),
        &[
            (ms(100), side(SIDE), &[]),
            (ms(2100), side(SIDE), &[so_far]),
            (ms(20_000), side(SIDE), &[]),
            (ms(20_001), own(&["::"]), ready),
        ],
    );
    let taken_back = "info the app serves port 8080 now";
    play(
        expected(&["8080"]),
        &[
            (ms(100), side(SIDE), &[]),
            (ms(30_100), side(SIDE), &[so_far, fault]),
            (ms(40_000), side(SIDE), &[]),
            (ms(50_000), own(&["::"]), &[taken_back, "Listens", "info the app is ready", "Ready"]),
        ],
    );
    // With a start timeout it is logged before the app is stopped.
    play(
        Expected { limit: Some(ms(10_000)), ..expected(&["8080"]) },
        &[
            (ms(100), side(SIDE), &[]),
            (ms(7_900), side(SIDE), &[so_far]),
            (ms(8_000), side(SIDE), &[fault]),
            (ms(10_000), Fact::Due, &["NotInTime"]),
        ],
    );
    // A side port that closes again starts over.
    play(
        expected(&["8080"]),
        &[
            (ms(0), side(SIDE), &[]),
            (ms(1900), nowhere(), &[]),
            (ms(2500), side(SIDE), &[]),
            (ms(4500), side(SIDE), &[so_far]),
        ],
    );
    let second = "so far, and not on port 8080, its first port";
    play(
        expected(&["8080", "9229"]),
        &[
            (ms(0), side(SIDE), &[]),
            (ms(2000), side(SIDE), &[second]),
            (ms(30_000), side(SIDE), &["warn the app listens on"]),
        ],
    );
}

#[test]
fn a_given_socket_is_served_once_a_process_waits_on_it() {
    let ready = &["info the app is ready", "Ready"][..];
    for (steps, why) in [
        (&[(ms(5), took(Accepting::Waits, Some(0)), ready)][..], "it waits in accept"),
        (&[(ms(5), took(Accepting::Polls, Some(0)), ready)], "it waits in poll, and no client is queued"),
        (
            &[(ms(5), took(Accepting::Polls, Some(1)), &[][..]), (ms(9), took(Accepting::Polls, Some(0)), ready)],
            "a client came while it started",
        ),
        (
            &[(ms(4999), took(Accepting::Hidden, Some(0)), &[]), (ms(5000), took(Accepting::Hidden, Some(0)), ready)],
            "it cannot be seen, and no client is queued",
        ),
        (
            // The bug this guards against: a logged remark ended the judging.
            &[
                (ms(5000), took(Accepting::Hidden, Some(3)), &["warn 3 clients wait on port 8080"][..]),
                (ms(5250), took(Accepting::Hidden, Some(3)), &[]),
                (ms(9000), took(Accepting::Hidden, Some(0)), ready),
            ],
            "it cannot be seen, and a client that queued during the boot is served at last",
        ),
        (
            &[
                (ms(5000), took(Accepting::Idle, Some(0)), &["warn the app has not taken the socket"]),
                (ms(6000), took(Accepting::Idle, Some(1)), &["warn 1 clients wait"]),
                (ms(7000), took(Accepting::Closed, None), &["warn the app has closed the socket"]),
                (ms(8000), took(Accepting::Waits, Some(1)), ready),
            ],
            "each is logged once, and none is final",
        ),
    ] {
        println!("{why}");
        play(given(&["8080"]), steps);
    }
    let elsewhere = |accepting| Fact::Seen(Seen::Given { accepting, queue: Some(0), all: vec![listener("::", SIDE)] });
    play(
        given(&["8080"]),
        &[
            (ms(100), elsewhere(Accepting::Polls), &[]),
            (ms(6000), elsewhere(Accepting::Hidden), &["info the app listens on [::]:9229 so far"]),
            (ms(31_000), elsewhere(Accepting::Hidden), &["ignores the socket it was given"]),
        ],
    );
}

#[test]
fn a_target_is_probed_when_it_can_answer() {
    let target = |on_port, connects| Some(ProbeTarget { on_port, connects });
    // On the app's port: probed once the app serves it.
    play(
        Expected { target: target(true, false), ..expected(&["8080"]) },
        &[
            (ms(2), Fact::Due, &["Look"]),
            (ms(2), nowhere(), &[]),
            (ms(9), own(&["::"]), &["Listens", "Probe"]),
            (ms(10), Fact::Probed { healthy: false }, &[]),
            (ms(20), Fact::Due, &["Probe"]),
            (ms(21), Fact::Probed { healthy: true }, &["info the app is ready on port 8080", "Ready"]),
            (ms(22), Fact::Probed { healthy: true }, &[]),
        ],
    );
    // Elsewhere: probed immediately, and its result alone decides.
    play(
        Expected { target: target(false, false), ..expected(&["8080"]) },
        &[(ms(2), nowhere(), &["Probe"]), (ms(3), Fact::Probed { healthy: true }, &["info the app is ready", "Ready"])],
    );
    // Without a port to look at.
    play(
        Expected { target: target(false, true), ..expected(&[]) },
        &[
            (ms(2), Fact::Due, &["Probe"]),
            (ms(3), Fact::Probed { healthy: true }, &["info the app is ready after 3 ms", "Ready"]),
        ],
    );
    // A given socket that is not seen taken: an answer is better evidence than a look, a mere connection is no evidence.
    for (connects, want) in
        [(false, &["warn the app has not taken", "Probe"][..]), (true, &["warn the app has not taken"])]
    {
        play(
            Expected { target: target(true, connects), ..given(&["8080"]) },
            &[(ms(4000), took(Accepting::Idle, Some(0)), &[]), (ms(5000), took(Accepting::Idle, Some(0)), want)],
        );
    }
}

#[test]
fn looks_get_rare_and_end() {
    let begin = Instant::now();
    let mut machine = Machine::begin(expected(&["8080"]), begin);
    let (mut looks, mut last) = (0, begin);
    while let Some(at) = machine.deadline() {
        assert!(at > last && at - last <= OLD_PAUSE);
        last = at;
        looks += usize::from(machine.on(at, Fact::Due).contains(&Action::Look));
    }
    assert!((200..500).contains(&looks), "{looks}");
    assert!(last - begin >= LOOKING_ENDS);
    // While the port may be lost, looks stay frequent; with a start timeout they do not end before it.
    let mut machine = Machine::begin(Expected { at_risk: true, ..expected(&["8080"]) }, begin);
    for _ in 0..100 {
        let at = machine.deadline().unwrap();
        machine.on(at, Fact::Due);
        assert!(machine.deadline().unwrap() - at <= RISK_PAUSE);
    }
}

#[test]
fn once_looking_has_stopped_it_does_nothing() {
    let mut machine = Machine::begin(expected(&["8080"]), Instant::now());
    machine.stop_looking();
    assert!(machine.deadline().is_none() && !machine.is_ready() && !machine.serves());
    assert_eq!(machine.on(Instant::now(), own(&["::"])), []);
}

/// A silent app is logged after ten seconds, and warned about after a minute; each once, with polling and with intercepted calls.
#[test]
fn an_app_that_never_listens_is_logged_twice() {
    let by_call = Expected { evidence: Evidence::ListenCall, ..expected(&["8080"]) };
    for expected in [expected(&["8080"]), by_call] {
        let begin = Instant::now();
        let mut machine = Machine::begin(expected.clone(), begin);
        let (mut lines, mut looks) = (Vec::new(), 0);
        while let Some(next) = machine.deadline().filter(|next| *next < begin + ms(120_000)) {
            for todo in machine.on(next, Fact::Due) {
                if todo == Action::Look {
                    looks += 1;
                    // The look may be up to a second late by then.
                    lines.extend(machine.on(next, nowhere()).iter().map(|one| short(one).replace("61s", "60s")));
                }
            }
        }
        assert_eq!(
            lines,
            [
                "info the app is not listening on any port yet, after 10s; still waiting for it on port 8080",
                "warn the app is still not listening on any port after 60s; it was given port 8080 (PORT, {port}): check its own log",
            ],
            "{expected:?}"
        );
        // With intercepted calls these remarks are the only reason to look.
        assert!(expected.evidence != Evidence::ListenCall || looks == 2, "{looks} looks");
        assert_eq!(machine.never_listened(), Some((PORT, begin)));
        machine.on(begin + ms(120_000), own(&["0.0.0.0"]));
        machine.on(begin + ms(120_000), Fact::ListenCalled { port: PORT, listener: None });
        assert_eq!(machine.never_listened(), None);
    }
}

/// The actions for a fact in one stage, and the stage after it.
type Cell = (&'static [&'static str], Stage);

/// Every stage with every fact.
#[test]
fn every_stage_handles_every_fact() {
    let target = Some(ProbeTarget { on_port: true, connects: false });
    let begin = Instant::now();
    let stages: [(Stage, Machine); 5] = {
        let fresh = || Machine::begin(Expected { target, limit: Some(ms(60_000)), ..expected(&["8080"]) }, begin);
        let after = |facts: &[Fact]| {
            let mut machine = fresh();
            facts.iter().for_each(|fact| drop(machine.on(begin, fact.clone())));
            machine
        };
        let mut over = fresh();
        over.stop_looking();
        [
            (Stage::PortAwaited, Machine::awaiting_port(Expected { target, ..expected(&["8080"]) }, begin)),
            (Stage::Unserved, fresh()),
            (Stage::Served, after(&[own(&["::"])])),
            (Stage::Ready, after(&[own(&["::"]), Fact::Probed { healthy: true }])),
            (Stage::Over, over),
        ]
    };
    let listen_called = || Fact::ListenCalled { port: PORT, listener: Some(listener("::", PORT)) };
    let none: &'static [&'static str] = &[];
    let ready = &["info the app is ready", "Ready"][..];
    let lost = &["warn --handover bind (REBERTH_HANDOVER) has ended: x"][..];
    let cut_off = &["warn 2 clients that had queued were cut off"][..];
    let waits = &["info the app waits in its bind for port 8080"][..];
    // In the order of the stages.
    let rows: [(Fact, [Cell; 5]); 10] = {
        use Stage::{Over, PortAwaited, Ready, Served, Unserved};
        let same = |lines: &'static [&'static str]| {
            [(lines, PortAwaited), (lines, Unserved), (lines, Served), (lines, Ready), (lines, Over)]
        };
        let of = |unserved: Cell, served: Cell| [(none, PortAwaited), unserved, served, (none, Ready), (none, Over)];
        [
            (Fact::Due, of((&["Look"], Unserved), (&["Probe"], Served))),
            (nowhere(), of((none, Unserved), (&["Probe"], Served))),
            (own(&["::"]), of((&["Listens", "Probe"], Served), (&["Probe"], Served))),
            (Fact::Probed { healthy: false }, same(none)),
            (Fact::Probed { healthy: true }, of((ready, Ready), (ready, Ready))),
            (listen_called(), of((&["Listens", "Probe"], Served), (none, Served))),
            (Fact::OtherListenCalled, same(none)),
            (Fact::BindWaits(PORT), same(waits)),
            (Fact::ClientsReset(2, "127.0.0.1:80".parse().unwrap()), same(cut_off)),
            (Fact::CallsLost("x".into()), same(lost)),
        ]
    };
    for (fact, row) in rows {
        for ((before, machine), (want, after)) in stages.iter().zip(row) {
            let mut machine = machine.clone();
            let now = begin + ms(10);
            let got: Vec<String> = machine.on(now, fact.clone()).iter().map(short).collect();
            let matches = got.len() == want.len() && got.iter().zip(want).all(|(got, want)| got.contains(want));
            assert!(matches && machine.stage == after, "{before:?} {fact:?}\ngot {got:?}, {:?}", machine.stage);
            assert!(!machine.is_ready() || machine.deadline().is_none(), "who is ready is not waited for");
        }
    }
}
