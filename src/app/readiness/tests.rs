//! The machine by tables: facts in, things to do out.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::*;

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
    Expected { ports, way: Way::Binds, target: None, contested: false, limit: None }
}

fn given(specs: &[&str]) -> Expected {
    Expected { way: Way::Given { inode: Some(7) }, ..expected(specs) }
}

/// Each step: when, the fact, and what it must ask for, in short.
fn play(expected: Expected, steps: &[(Duration, Fact, &[&str])]) {
    let begin = Instant::now();
    let mut machine = Readiness::begin(expected.clone(), begin);
    for (at, fact, want) in steps {
        let got: Vec<String> = machine.on(begin + *at, fact.clone()).iter().map(short).collect();
        let matches = got.len() == want.len() && got.iter().zip(*want).all(|(got, want)| got.contains(want));
        assert!(matches, "{expected:?}\nat {at:?} {fact:?}\ngot {got:?}\nwanted {want:?}");
    }
}

fn short(one: &Do) -> String {
    match one {
        Do::Info(line) => format!("info {line}"),
        Do::Warn(line) => format!("warn {line}"),
        other => format!("{other:?}"),
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn nowhere() -> Fact {
    Fact::Seen(View::Own { here: vec![], all: vec![] })
}

fn own(here: &[&str]) -> Fact {
    let here: Vec<Listener> = here.iter().map(|addr| listener(addr, PORT)).collect();
    Fact::Seen(View::Own { all: here.clone(), here })
}

fn side(port: u16) -> Fact {
    Fact::Seen(View::Own { here: vec![], all: vec![listener("127.0.0.1", port)] })
}

fn took(take_up: TakeUp, queue: Option<u32>) -> Fact {
    Fact::Seen(View::Given { take_up, queue, all: vec![] })
}

#[test]
fn with_nothing_to_wait_for_it_is_up() {
    let machine = Readiness::begin(expected(&[]), Instant::now());
    assert!(machine.is_up() && !machine.serves() && machine.next().is_none());
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
fn where_it_listens_is_said_when_that_is_not_where_it_was_told() {
    for (told, here, want) in [
        ("8080", &["::"][..], None),
        ("8080", &["0.0.0.0", "10.0.0.1"], None),
        ("8080", &["127.0.0.1"], Some("on loopback only (127.0.0.1:8080)")),
        ("0.0.0.0:8080", &["127.0.0.1", "::1"], Some("on loopback only")),
        ("8080", &["172.17.0.2"], Some("on 172.17.0.2:8080 only, not on all addresses")),
        ("[::]:8080", &["fd00::2"], Some("on [fd00::2]:8080 only")),
        ("8080", &["10.0.0.1", "127.0.0.1"], Some("on 10.0.0.1:8080, 127.0.0.1:8080 only")),
        ("127.0.0.1:8080", &["127.0.0.1"], None),
        ("127.0.0.1:8080", &["0.0.0.0"], None),
        ("127.0.0.1:8080", &["127.0.0.2"], Some("on 127.0.0.2:8080, not on port 127.0.0.1:8080 as it was told")),
    ] {
        let mut machine = Readiness::begin(expected(&[told]), Instant::now());
        let todo = machine.on(Instant::now(), own(here));
        let places: Vec<IpAddr> = here.iter().map(|addr| addr.parse().unwrap()).collect();
        assert_eq!(todo.first(), Some(&Do::Listens(places)), "{told} {here:?}");
        let warned: Vec<&Do> = todo.iter().filter(|one| matches!(one, Do::Warn(_))).collect();
        match (want, warned.as_slice()) {
            (None, []) => {}
            (Some(want), [Do::Warn(line)]) if line.contains(want) => {}
            other => panic!("{told} {here:?}: {other:?}"),
        }
        assert_eq!(todo.last(), Some(&Do::Ready), "it serves, wherever that is");
    }
}

#[test]
fn a_side_port_is_told_and_only_late_called_a_fault() {
    let so_far = "info the app listens on 127.0.0.1:9229 so far; still waiting for it on port 8080";
    let fault = "warn the app listens on 127.0.0.1:9229, not on port 8080 as it was told, and on loopback only";
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
    // Near the end of its time it has to be said before it is stopped for it.
    play(
        Expected { limit: Some(ms(10_000)), ..expected(&["8080"]) },
        &[
            (ms(100), side(SIDE), &[]),
            (ms(7_900), side(SIDE), &[so_far]),
            (ms(8_000), side(SIDE), &[fault]),
            (ms(10_000), Fact::Due, &["NotInTime"]),
        ],
    );
    // One that is gone again was none.
    play(
        expected(&["8080"]),
        &[
            (ms(0), side(SIDE), &[]),
            (ms(1900), nowhere(), &[]),
            (ms(2500), side(SIDE), &[]),
            (ms(4500), side(SIDE), &[so_far]),
        ],
    );
    let second = "so far, and not on port 8080, the first that it was told";
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
fn a_socket_that_was_given_is_served_once_somebody_waits_on_it() {
    let ready = &["info the app is ready", "Ready"][..];
    for (steps, why) in [
        (&[(ms(5), took(TakeUp::Waits, Some(0)), ready)][..], "it waits in accept"),
        (&[(ms(5), took(TakeUp::Polls, Some(0)), ready)], "it waits for several, and keeps nobody waiting"),
        (
            &[(ms(5), took(TakeUp::Polls, Some(1)), &[][..]), (ms(9), took(TakeUp::Polls, Some(0)), ready)],
            "a client came while it started",
        ),
        (
            &[(ms(4999), took(TakeUp::Unseen, Some(0)), &[]), (ms(5000), took(TakeUp::Unseen, Some(0)), ready)],
            "it cannot be seen, and nobody is kept waiting",
        ),
        (
            // The fault this guards against: what was said once must not end the judging.
            &[
                (ms(5000), took(TakeUp::Unseen, Some(3)), &["warn 3 clients wait on port 8080"][..]),
                (ms(5250), took(TakeUp::Unseen, Some(3)), &[]),
                (ms(9000), took(TakeUp::Unseen, Some(0)), ready),
            ],
            "it cannot be seen, and a client that queued during the boot is served at last",
        ),
        (
            &[
                (ms(5000), took(TakeUp::Holds, Some(0)), &["warn the app has not taken the socket"]),
                (ms(6000), took(TakeUp::Holds, Some(1)), &["warn 1 clients wait"]),
                (ms(7000), took(TakeUp::Closed, None), &["warn the app has closed the socket"]),
                (ms(8000), took(TakeUp::Waits, Some(1)), ready),
            ],
            "each is said once, and none is the last word",
        ),
    ] {
        println!("{why}");
        play(given(&["8080"]), steps);
    }
    let elsewhere = |take_up| Fact::Seen(View::Given { take_up, queue: Some(0), all: vec![listener("::", SIDE)] });
    play(
        given(&["8080"]),
        &[
            (ms(100), elsewhere(TakeUp::Polls), &[]),
            (ms(6000), elsewhere(TakeUp::Unseen), &["info the app listens on [::]:9229 so far"]),
            (ms(31_000), elsewhere(TakeUp::Unseen), &["ignores the socket it was given"]),
        ],
    );
}

#[test]
fn a_target_is_asked_when_it_can_be_answered() {
    let target = |on_port, connects| Some(Target { on_port, connects });
    // On the app's port: once it serves there.
    play(
        Expected { target: target(true, false), ..expected(&["8080"]) },
        &[
            (ms(2), Fact::Due, &["Look"]),
            (ms(2), nowhere(), &[]),
            (ms(9), own(&["::"]), &["Listens", "Ask"]),
            (ms(10), Fact::Answered { healthy: false }, &[]),
            (ms(20), Fact::Due, &["Ask"]),
            (ms(21), Fact::Answered { healthy: true }, &["info the app is ready on port 8080", "Ready"]),
            (ms(22), Fact::Answered { healthy: true }, &[]),
        ],
    );
    // Elsewhere: at once, and it decides by itself.
    play(
        Expected { target: target(false, false), ..expected(&["8080"]) },
        &[(ms(2), nowhere(), &["Ask"]), (ms(3), Fact::Answered { healthy: true }, &["info the app is ready", "Ready"])],
    );
    // With no port to look at.
    play(
        Expected { target: target(false, true), ..expected(&[]) },
        &[
            (ms(2), Fact::Due, &["Ask"]),
            (ms(3), Fact::Answered { healthy: true }, &["info the app is ready after 3 ms", "Ready"]),
        ],
    );
    // A socket that was given and not visibly taken: an answer is worth more than a look, a mere connection is worth nothing.
    for (connects, want) in
        [(false, &["warn the app has not taken", "Ask"][..]), (true, &["warn the app has not taken"])]
    {
        play(
            Expected { target: target(true, connects), ..given(&["8080"]) },
            &[(ms(4000), took(TakeUp::Holds, Some(0)), &[]), (ms(5000), took(TakeUp::Holds, Some(0)), want)],
        );
    }
}

#[test]
fn looks_get_rare_and_end() {
    let begin = Instant::now();
    let mut machine = Readiness::begin(expected(&["8080"]), begin);
    let (mut looks, mut last) = (0, begin);
    while let Some(at) = machine.next() {
        assert!(at > last && at - last <= OLD_PAUSE);
        last = at;
        looks += usize::from(machine.on(at, Fact::Due).contains(&Do::Look));
    }
    assert!((200..500).contains(&looks), "{looks}");
    assert!(last - begin >= OLD);
    // While the port may be lost they stay quick, and with a time limit they never end before it.
    let mut machine = Readiness::begin(Expected { contested: true, ..expected(&["8080"]) }, begin);
    for _ in 0..100 {
        let at = machine.next().unwrap();
        machine.on(at, Fact::Due);
        assert!(machine.next().unwrap() - at <= CONTEST_PAUSE);
    }
}

#[test]
fn given_up_it_asks_for_nothing() {
    let mut machine = Readiness::begin(expected(&["8080"]), Instant::now());
    machine.give_up();
    assert!(machine.next().is_none() && !machine.is_up() && !machine.serves());
    assert_eq!(machine.on(Instant::now(), own(&["::"])), []);
}

/// Silence is worth a word after ten seconds, and a warning after a minute; each once, whether it is looked for or heard.
#[test]
fn an_app_that_listens_nowhere_is_told_twice() {
    let heard = Expected { way: Way::Heard, ..expected(&["8080"]) };
    for expected in [expected(&["8080"]), heard] {
        let begin = Instant::now();
        let mut machine = Readiness::begin(expected.clone(), begin);
        let (mut said, mut looks) = (Vec::new(), 0);
        while let Some(next) = machine.next().filter(|next| *next < begin + ms(120_000)) {
            for todo in machine.on(next, Fact::Due) {
                if todo == Do::Look {
                    looks += 1;
                    // It is looked for once a second by then.
                    said.extend(machine.on(next, nowhere()).iter().map(|one| short(one).replace("61s", "60s")));
                }
            }
        }
        assert_eq!(
            said,
            [
                "info the app listens nowhere so far, after 10s; still waiting for it on port 8080",
                "warn the app still listens nowhere after 60s, and was told port 8080 (PORT, {port}): look into its own log",
            ],
            "{expected:?}"
        );
        // What is heard is looked at for these words alone.
        assert!(expected.way != Way::Heard || looks == 2, "{looks} looks");
        assert_eq!(machine.unseen(), Some((PORT, begin)));
        machine.on(begin + ms(120_000), own(&["0.0.0.0"]));
        machine.on(begin + ms(120_000), Fact::Listens(Vec::new()));
        assert_eq!(machine.unseen(), None);
    }
}
