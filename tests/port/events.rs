//! What wakes a wait, and what must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reberth::port::claim::{Policy, Stop};
use reberth::port::holder::{Depth, look};
use reberth::port::policy::{Backoff, Wait};
use reberth::port::spec::Protocol;
use reberth::port::watch::{Destroyed, Event};

use crate::net::{
    Claimant, Made, Program, WITH_RA, WITHOUT_RA, bound, by_event, claim, connection, inside, listening, spec, udp,
    udp_spec, until_closed,
};

const PORT: u16 = 20_000;
/// Far below the minute after which polling would have found it.
const PROMPT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(50);

#[test]
fn a_closed_listener_wakes() {
    inside("events::a_closed_listener_wakes", || {
        let holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let claimant = Claimant::start(&[spec("", PORT)], by_event(LONG));
        assert_eq!(claimant.caller.waits_for(), PORT);
        drop(holder);
        let claims = claimant.end().unwrap();
        assert!(claims[0].waited < PROMPT, "{claims:?}");
        assert_eq!((claims[0].port, claims[0].addr), (PORT, "::".parse().unwrap()));
    });
}

#[test]
fn a_killed_holder_wakes() {
    inside("events::a_killed_holder_wakes", || {
        let mut holder = Program::start(&format!("listen {PORT}"));
        let claimant = Claimant::start(&[spec("", PORT)], by_event(LONG));
        claimant.caller.waits_for();
        holder.kill();
        let claims = claimant.end().unwrap();
        assert!(claims[0].waited < PROMPT, "{claims:?}");
    });
}

#[test]
fn a_closed_udp_socket_wakes() {
    inside("events::a_closed_udp_socket_wakes", || {
        let holder = udp("0.0.0.0", PORT);
        let claimant = Claimant::start(&[udp_spec(PORT)], by_event(LONG));
        claimant.caller.waits_for();
        drop(holder);
        assert!(claimant.end().unwrap()[0].waited < PROMPT);
    });
}

#[test]
fn the_last_connection_of_a_server_that_blocks_wakes() {
    inside("events::the_last_connection_of_a_server_that_blocks_wakes", || {
        let listener = listening("0.0.0.0", PORT, WITHOUT_RA);
        let (client, server) = connection(&listener, PORT);
        drop(listener);
        let claimant = Claimant::start(&[spec("", PORT)], by_event(LONG));
        claimant.caller.waits_for();
        // A reset leaves no TIME_WAIT.
        server.set_linger(Some(Duration::ZERO)).unwrap();
        drop((server, client));
        assert!(claimant.end().unwrap()[0].waited < PROMPT);
    });
}

/// The claiming thread alone gets EPERM for every netlink socket, as under a sandbox that refuses them.
fn refuse_netlink() {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, 0, 3, u32::try_from(libc::SYS_socket).unwrap()),
        step(LOAD, 0, 0, 16),
        step(EQUAL, 0, 1, libc::AF_NETLINK.cast_unsigned()),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 6, filter: steps.as_mut_ptr() };
    // SAFETY: the program outlives the calls, which copy it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
    assert!(Destroyed::open(&[(PORT, Protocol::Tcp)]).is_err());
}

/// Control for the tests above: without netlink only polling is left, and polling is slow.
#[test]
fn without_netlink_only_polling_is_left() {
    inside("events::without_netlink_only_polling_is_left", || {
        let budget = Duration::from_millis(800);
        let holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let slow = Policy { backoff: Backoff { min: LONG * 1000, max: LONG * 1000 }, ..by_event(budget) };
        let claimant = Claimant::start_after(refuse_netlink, &[spec("", PORT)], slow);
        claimant.caller.waits_for();
        drop(holder);
        // The attempt at the very end of the time limit finds it free.
        let claims = claimant.end().unwrap();
        assert!(claims[0].waited >= budget, "{claims:?}");
    });
}

#[test]
fn without_netlink_holders_come_from_proc() {
    inside("events::without_netlink_holders_come_from_proc", || {
        let _holders = [listening("127.0.0.1", PORT, WITHOUT_RA), listening("::1", PORT, WITHOUT_RA)];
        let complete = look(&spec("", PORT), Depth::Programs);
        let thread = std::thread::spawn(|| {
            refuse_netlink();
            look(&spec("", PORT), Depth::Programs)
        });
        let degraded = thread.join().unwrap();
        assert_eq!(complete.incomplete, None);
        assert!(
            degraded.incomplete.is_some_and(|reason| reason.contains("refuses socket diagnostics")),
            "{degraded:?}"
        );
        assert_eq!((complete.holders.len(), &complete.holders), (2, &degraded.holders));
    });
}

#[test]
fn without_netlink_the_backoff_finds_it() {
    inside("events::without_netlink_the_backoff_finds_it", || {
        let holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let backoff = Backoff { min: Duration::from_millis(1), max: Duration::from_millis(50) };
        let claimant = Claimant::start_after(refuse_netlink, &[spec("", PORT)], Policy { backoff, ..by_event(LONG) });
        claimant.caller.waits_for();
        drop(holder);
        assert!(claimant.end().unwrap()[0].waited < PROMPT);
    });
}

#[test]
fn failed_probes_cause_no_wake_up() {
    inside("events::failed_probes_cause_no_wake_up", || {
        let holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let claimant = Claimant::start(&[spec("", PORT)], by_event(LONG));
        claimant.caller.waits_for();
        for _ in 0..2000 {
            assert!(bound("0.0.0.0", PORT, WITH_RA).is_err());
        }
        drop(holder);
        let claims = claimant.end().unwrap();
        assert!(claims[0].tries <= 8, "{} tries", claims[0].tries);
    });
}

#[test]
fn connections_of_a_busy_server_cause_no_wake_up() {
    inside("events::connections_of_a_busy_server_cause_no_wake_up", || {
        let holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let claimant = Claimant::start(&[spec("", PORT)], by_event(LONG));
        claimant.caller.waits_for();
        for _ in 0..500 {
            let (client, server) = connection(&holder, PORT);
            drop(client);
            until_closed(&server);
        }
        drop(holder);
        let claims = claimant.end().unwrap();
        assert!(claims[0].tries <= 8, "{} tries", claims[0].tries);
    });
}

/// A reset takes the peer's port away before the kernel reports the end, so these look like listeners.
#[test]
fn a_storm_of_resets_is_not_answered_one_by_one() {
    inside("events::a_storm_of_resets_is_not_answered_one_by_one", || {
        let holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let claimant = Claimant::start(&[spec("", PORT)], by_event(LONG));
        claimant.caller.waits_for();
        let started = Instant::now();
        for _ in 0..3000 {
            let (client, server) = connection(&holder, PORT);
            server.set_linger(Some(Duration::ZERO)).unwrap();
            drop((server, client));
        }
        drop(holder);
        let claims = claimant.end().unwrap();
        let allowed = 40 + started.elapsed().as_millis() / 10;
        assert!(u128::from(claims[0].tries) <= allowed, "{} tries, allowed {allowed}", claims[0].tries);
    });
}

#[test]
fn an_overrun_queue_is_an_event() {
    inside("events::an_overrun_queue_is_an_event", || {
        let events = Destroyed::open(&[(PORT, Protocol::Tcp)]).unwrap();
        let end = Instant::now() + PROMPT;
        let mut lost = false;
        while !lost {
            for _ in 0..20_000 {
                drop(bound("127.0.0.1", PORT, WITH_RA).unwrap());
            }
            lost = events.drain().unwrap().lost;
            assert!(Instant::now() < end, "nothing was lost");
        }
        // It still receives events afterwards.
        drop(bound("127.0.0.1", PORT, WITH_RA).unwrap());
        while events.drain().unwrap().events.is_empty() {
            assert!(Instant::now() < end, "deaf after an overrun");
        }
    });
}

#[test]
fn reberths_own_socket_is_distinguished() {
    inside("events::reberths_own_socket_is_distinguished", || {
        let claims = claim(&[spec("", PORT)], &by_event(Duration::ZERO)).unwrap();
        let events = Destroyed::open(&[(PORT, Protocol::Tcp), (PORT + 1, Protocol::Tcp)]).unwrap();
        let cookie = claims[0].cookie;
        assert_ne!(cookie, 0);
        drop(bound("127.0.0.1", PORT + 2, WITH_RA).unwrap());
        drop(claims);
        drop(bound("127.0.0.1", PORT + 1, WITH_RA).unwrap());
        let end = Instant::now() + PROMPT;
        let mut heard = Vec::new();
        let own = |event: &Event| event.port == PORT && event.cookie == cookie;
        // The kernel may still report a socket that the claim has tried and closed.
        while !(heard.iter().any(own) && heard.iter().any(|event| event.port == PORT + 1)) {
            heard.extend(events.drain().unwrap().events);
            assert!(Instant::now() < end, "heard only {heard:?}");
        }
        assert!(heard.iter().all(|event| event.port <= PORT + 1), "not asked for: {heard:?}");
        assert_eq!(heard.iter().filter(|event| event.cookie == cookie).count(), 1, "{heard:?}");
    });
}

#[test]
fn a_signal_ends_the_wait() {
    inside("events::a_signal_ends_the_wait", || {
        let _holder = listening("0.0.0.0", PORT, WITHOUT_RA);
        let forever = Policy { wait: Wait::Forever, ..by_event(LONG) };
        let mut claimant = Claimant::start(&[spec("", PORT)], forever);
        claimant.caller.waits_for();
        claimant.caller.stop();
        assert!(matches!(claimant.end(), Err(Stop::Ended(code)) if code.0 == 143));
    });
}

#[test]
fn fifty_contenders_one_at_a_time() {
    inside("events::fifty_contenders_one_at_a_time", || {
        let inside = Arc::new(AtomicUsize::new(0));
        let contenders: Vec<_> = (0..50)
            .map(|_| {
                let inside = Arc::clone(&inside);
                std::thread::spawn(move || {
                    let claims = claim(&[spec("", PORT)], &by_event(LONG)).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two have the port");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(claims);
                })
            })
            .collect();
        for contender in contenders {
            contender.join().unwrap();
        }
    });
}

/// SO_REUSEPORT on both sides would have let the second in; a claim never sets it.
#[test]
fn a_port_shared_by_others_is_busy() {
    inside("events::a_port_shared_by_others_is_busy", || {
        let made = Made { reuse_address: true, reuse_port: true, v6_only: false };
        let first = listening("0.0.0.0", PORT, made);
        let second = listening("0.0.0.0", PORT, made);
        let claimant = Claimant::start(&[spec("", PORT)], by_event(LONG));
        claimant.caller.waits_for();
        drop(first);
        drop(second);
        assert!(claimant.end().unwrap()[0].waited < PROMPT);
    });
}
