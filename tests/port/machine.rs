//! The claim as a state machine, driven by another loop.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use reberth::port::claim::{Claim, Policy, Stop};
use reberth::port::claiming::{Claiming, Step};
use reberth::port::policy::Wait;

use crate::net::{Program, WITH_RA, WITHOUT_RA, at_once, bound, by_event, inside, listening, spec};

const PORT: u16 = 20_000;
const LONG: Duration = Duration::from_secs(50);
/// Far below the minute after which polling would have found it.
const PROMPT: Duration = Duration::from_secs(5);
/// After this many interruptions, the machine skips the walk.
const GIVEN_UP: usize = 3;
/// An interrupted walk is repeated after this delay.
const SOON: Duration = Duration::from_millis(50);

/// Sleeps like a loop with its own descriptor; true: that descriptor is readable.
fn sleep(claiming: &Claiming, own: BorrowedFd<'_>) -> bool {
    let left = claiming.deadline().saturating_duration_since(Instant::now());
    let all = std::iter::once(own).chain(claiming.descriptors());
    let mut polled: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    ppoll(&mut polled, Some(TimeSpec::from_duration(left)), None).unwrap();
    polled[0].any().unwrap()
}

fn waits(step: Result<Step, Stop>) {
    assert!(matches!(step, Ok(Step::Waits)), "{step:?}");
}

fn go_on(claiming: &mut Claiming) -> Result<Step, Stop> {
    claiming.step(Instant::now(), &mut || false)
}

fn ours(step: Result<Step, Stop>) -> Vec<Claim> {
    match step {
        Ok(Step::Ours(claims)) => claims,
        other => panic!("not ours: {other:?}"),
    }
}

/// Steps until the ports are claimed; `own` is the loop's own descriptor.
fn drive(claiming: &mut Claiming, own: BorrowedFd<'_>) -> Vec<Claim> {
    let end = Instant::now() + PROMPT;
    loop {
        match go_on(claiming) {
            Ok(Step::Waits) => assert!(Instant::now() < end, "not ours in time"),
            step => return ours(step),
        }
        sleep(claiming, own);
    }
}

#[test]
fn one_loop_waits_for_two_ports_and_an_event_of_its_own() {
    inside("machine::one_loop_waits_for_two_ports_and_an_event_of_its_own", || {
        let holders = [listening("0.0.0.0", PORT, WITHOUT_RA), listening("0.0.0.0", PORT + 1, WITHOUT_RA)];
        let [low, high] = holders;
        let (own, peer) = nix::unistd::pipe().unwrap();
        let mut claiming = Claiming::begin(&[spec("", PORT + 1), spec("", PORT)], by_event(LONG)).unwrap();
        assert!(claiming.take_begun().is_none());
        waits(go_on(&mut claiming));
        assert_eq!(claiming.take_begun().map(|spec| spec.port), Some(PORT));
        assert!(claiming.take_begun().is_none(), "told twice");
        // The report is due immediately, and after it nothing is due before the end of the time limit.
        assert!(claiming.deadline() <= Instant::now());
        waits(go_on(&mut claiming));
        assert!(claiming.deadline() > Instant::now() + PROMPT);
        // The loop's own events get through, and a step for them does no harm.
        nix::unistd::write(&peer, b"x").unwrap();
        assert!(sleep(&claiming, own.as_fd()));
        nix::unistd::read(&own, &mut [0; 8]).unwrap();
        waits(go_on(&mut claiming));
        drop(low);
        assert!(!sleep(&claiming, own.as_fd()), "the holder's end wakes");
        waits(go_on(&mut claiming));
        assert_eq!(claiming.take_begun().map(|spec| spec.port), Some(PORT + 1));
        drop(high);
        let claims = drive(&mut claiming, own.as_fd());
        assert_eq!(claims.iter().map(|claim| claim.port).collect::<Vec<_>>(), [PORT + 1, PORT]);
        assert!(claims.iter().all(|claim| claim.waited < PROMPT));
    });
}

#[test]
fn a_free_port_is_ours_in_the_first_step() {
    inside("machine::a_free_port_is_ours_in_the_first_step", || {
        let mut claiming = Claiming::begin(&[spec("", PORT)], by_event(LONG)).unwrap();
        assert_eq!(ours(go_on(&mut claiming))[0].tries, 1 + 1, "one bind and one listen");
        assert_eq!(claiming.descriptors().count(), 0);
        let refused = Claiming::begin(&[spec("192.0.2.1", PORT + 1)], by_event(LONG));
        assert!(matches!(refused, Err(Stop::Error(_))), "{refused:?}");
    });
}

#[test]
fn the_end_of_a_known_holder_wakes_the_loop() {
    inside("machine::the_end_of_a_known_holder_wakes_the_loop", || {
        let mut holder = Program::start(&format!("listen {PORT}"));
        let (own, _peer) = nix::unistd::pipe().unwrap();
        let mut claiming = Claiming::begin(&[spec("", PORT)], by_event(LONG)).unwrap();
        waits(go_on(&mut claiming));
        let subscribed = claiming.descriptors().count();
        waits(go_on(&mut claiming));
        assert_eq!(claiming.descriptors().count(), subscribed + 1, "the holder is followed once it is known");
        holder.kill();
        drive(&mut claiming, own.as_fd());
    });
}

/// Each time the loop has an event of its own, the walk is interrupted; in the end it is skipped.
#[test]
fn a_walk_is_left_for_the_callers_sake_and_made_again_later() {
    inside("machine::a_walk_is_left_for_the_callers_sake_and_made_again_later", || {
        let holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let (own, _peer) = nix::unistd::pipe().unwrap();
        let mut claiming = Claiming::begin(&[spec("", PORT)], by_event(LONG)).unwrap();
        waits(go_on(&mut claiming));
        let mut asked = 0;
        let mut interrupted = |claiming: &mut Claiming| {
            waits(claiming.step(Instant::now(), &mut || {
                asked += 1;
                true
            }));
            asked
        };
        for round in 1..=GIVEN_UP {
            let before = Instant::now();
            assert_eq!(interrupted(&mut claiming), round, "asked once, and left");
            assert!(claiming.deadline() >= before + SOON && claiming.deadline() <= Instant::now() + SOON);
            while claiming.deadline() > Instant::now() {
                sleep(&claiming, own.as_fd());
            }
        }
        assert_eq!(interrupted(&mut claiming), GIVEN_UP, "the holder stays unnamed, and nobody is asked");
        assert!(claiming.deadline() > Instant::now() + PROMPT);
        drop(holder);
        drive(&mut claiming, own.as_fd());
    });
}

#[test]
fn a_diagnosis_can_be_interrupted_and_the_port_may_become_free_meanwhile() {
    inside("machine::a_diagnosis_can_be_interrupted_and_the_port_may_become_free_meanwhile", || {
        let holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let (own, _peer) = nix::unistd::pipe().unwrap();
        let mut claiming = Claiming::begin(&[spec("", PORT), spec("", PORT + 1)], at_once()).unwrap();
        for _ in 0..GIVEN_UP {
            let before = Instant::now();
            waits(claiming.step(before, &mut || true));
            assert!(bound("0.0.0.0", PORT + 1, WITHOUT_RA).is_ok(), "a higher port is held meanwhile");
            assert!(claiming.deadline() >= before + SOON);
            while claiming.deadline() > Instant::now() {
                sleep(&claiming, own.as_fd());
            }
        }
        let text = crate::net::lines(claiming.step(Instant::now(), &mut || true).map(|_| vec![]));
        assert!(text.contains("port 20000 is busy") && text.contains("/proc was not searched"), "{text}");
        let mut claiming = Claiming::begin(&[spec("", PORT)], at_once()).unwrap();
        waits(claiming.step(Instant::now(), &mut || true));
        drop(holder);
        drive(&mut claiming, own.as_fd());
    });
}

#[test]
fn in_a_storm_events_cause_no_wake_up_before_the_deadline() {
    inside("machine::in_a_storm_events_cause_no_wake_up_before_the_deadline", || {
        let holder = listening("127.0.0.1", PORT, WITH_RA);
        let (own, _peer) = nix::unistd::pipe().unwrap();
        let forever = Policy { wait: Wait::Forever, ..by_event(LONG) };
        let mut claiming = Claiming::begin(&[spec("", PORT)], forever).unwrap();
        waits(go_on(&mut claiming));
        waits(go_on(&mut claiming));
        let end = Instant::now() + PROMPT;
        let mut events = 0;
        while claiming.descriptors().count() > 0 {
            // Another process's socket on the port, not the holder's.
            drop(bound("127.0.0.2", PORT, WITH_RA).unwrap());
            sleep(&claiming, own.as_fd());
            waits(go_on(&mut claiming));
            events += 1;
            assert!(Instant::now() < end, "no shelter after {events} events");
        }
        assert!(events > 30, "shelter after {events} events");
        assert!(claiming.deadline() <= Instant::now() + Duration::from_millis(10));
        drop(holder);
        // A step before the deadline neither receives nor tries anything.
        let early = claiming.deadline().checked_sub(Duration::from_millis(1)).unwrap();
        waits(claiming.step(early, &mut || false));
        let claims = drive(&mut claiming, own.as_fd());
        assert!(claims[0].tries as usize <= events + 10, "{} tries after {events} events", claims[0].tries);
    });
}
