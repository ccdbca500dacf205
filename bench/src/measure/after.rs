//! Owns the question how long an app waits that starts once a target is healthy. Must not know how a target is probed.

use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Socket, Type};

use crate::bench::{Bench, words};
use crate::clock::{MILLISECOND, now, pause};
use crate::fail::{Context, Outcome};
use crate::isolate::in_network;
use crate::report::Report;
use crate::row;
use crate::samples::Samples;
use crate::spawn::{Null, Program, Streams, ended_badly};
use crate::sys::End;
use crate::table::{ms, spread, thousands};
use crate::world::stderr::Stderr;

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let mut rows = Vec::new();
    // With the longest delay of each, in milliseconds.
    for (label, longest, wait) in [
        ("reberth run --after, --backoff 10ms..100ms", 100, Some("--backoff 10ms..100ms")),
        ("reberth run --after, as it is (10ms..1s)", 1000, Some("")),
        ("wait-for-it, which polls every second", 1000, None),
    ] {
        let found = in_network(|| {
            let one = |turn| {
                // Long enough for the delays to have grown, and at another point of one each time.
                let delay = 2 * longest * MILLISECOND + longest * MILLISECOND * (turn % 8) / 8;
                until_started(bench, wait, delay)
            };
            (0..bench.rounds(40, 8) as i64).map(one).collect::<Outcome<Vec<_>>>()
        })?;
        let times: Samples = found.into_iter().collect();
        let [minimum, median, p99] = spread(&times);
        rows.push(row![label, minimum, median, p99]);
        if wait.is_some() {
            let measured = format!("median {} ms, at most {} ms", ms(times.median()), ms(times.maximum()));
            let promised = longest * 12 / 10;
            let what = format!("a target comes up → the app is started: {label}");
            report.promise(
                what,
                format!("≤ {} ms", thousands(promised)),
                measured,
                times.maximum() <= promised * MILLISECOND,
            );
        }
    }
    let text = "From the target's `listen()` to the end of an app that ends at once. µs. reberth's pauses have full jitter: each is a random \
                part of the longest.";
    report.section("What has to be there before the app", text, &["who waits", "min", "median", "p99"], &rows);
    Ok(())
}

/// How long after the start of its target an app has been started, and has exited. `wait`: reberth's arguments; without them, wait-for-it
/// waits.
fn until_started(bench: &Bench, wait: Option<&str>, delay: i64) -> Outcome<i64> {
    let target = Socket::new(Domain::IPV4, Type::STREAM, None).context("a socket")?;
    target.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into()).context("bind")?;
    let place = target.local_addr().context("getsockname")?.as_socket_ipv4().context("getsockname: no IPv4 address")?;
    let waiter = match wait {
        Some(wait) => bench.reberth(&format!("run --after tcp://{place} {wait} --")),
        None => words(&format!("wait-for-it {place} --")),
    };
    let command = bench.command(&[waiter, bench.bare("noop")].concat())?;
    let null = Null::open()?;
    let (mut stderr, writer) = Stderr::pipe()?;
    let program = Program::start(&command, &Streams { errors: writer.as_fd(), ..null.streams() })?;
    drop(writer);
    stderr.until("\n")?;
    pause(delay);
    let up = now();
    target.listen(128).context("listen")?;
    let (end, _) = program.wait()?;
    let time = now() - up;
    if end == End::Code(0) { Ok(time) } else { Err(ended_badly(&command, end)) }
}
