//! A wall clock that is set repeatedly, by hand or by a time server after a boot: no wait, lease or deadline depends on it. The machine's
//! own clock is not touched: the C library's answer jumps, so the static binary's tests leave this out.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, Manner};
use crate::harness::place::{TempDir, free_port};
use crate::harness::until;
use crate::{AWAY, TTL, app, both, count};

/// Each reading of the time of day is two days from the one before, forward and back.
const JUMPS: &str = "
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int turn;
    int result = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += turn++ % 2 ? 86400 : -86400;
    return result;
}
";

fn jumping(place: &TempDir) -> PathBuf {
    let (source, library) = (place.file("jumps.c", JUMPS, 0o644), place.path().join("jumps.so"));
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    library
}

/// Control: this log was written with a clock that jumped.
#[track_caller]
fn jumped(said: &str) {
    let mut days: Vec<&str> = said.lines().filter_map(|line| line.get(..10)).collect();
    let lines = days.len();
    days.sort_unstable();
    days.dedup();
    assert!(days.len() >= 2 && lines > days.len(), "{said}");
}

#[test]
fn a_lease_is_renewed_in_time_whatever_the_time_of_day() {
    let place = TempDir::new();
    let library = jumping(&place);
    both(|mode| {
        let gateway = Gateway::new(Manner::Good);
        let port = free_port().to_string();
        let flags = ["--port", &port, "--register", &gateway.url()];
        let mut running = mode(app(&flags, &[]).env("LD_PRELOAD", &library)).start();
        running.ready();
        until("it is announced", || gateway.count("kv/put") == 1);
        let began = Instant::now();
        until("it is renewed twice", || gateway.count("lease/keepalive") == 2);
        // A third of the lease each: neither immediately nor never.
        let took = began.elapsed();
        assert!(took > Duration::from_secs(TTL) / 3 && took < Duration::from_secs(TTL), "{took:?}");
        running.signal(15);
        let said = running.finish().expect_code(143).stderr;
        assert_eq!((gateway.count("lease/grant"), gateway.count("kv/put"), gateway.count("lease/revoke")), (1, 1, 1));
        assert_eq!(count(&said, AWAY), 0, "{said}");
        jumped(&said);
    });
}

#[test]
fn the_wait_before_the_start_lasts_as_long_as_configured() {
    let place = TempDir::new();
    let library = jumping(&place);
    let port = free_port().to_string();
    let began = Instant::now();
    let running =
        app(&["--port", &port, "--after", "tcp://127.0.0.1:1", "--after-wait", "1s"], &[]).env("LD_PRELOAD", &library);
    let said = running.start().finish().expect_code(124).stderr;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    jumped(&said);
}
