//! Owns the question how fast PID 1 reaps. Must not know which init that is.

use std::io::{Read, Write, pipe};
use std::os::fd::AsFd;

use nix::sys::signal::Signal;

use crate::bench::{Bench, Peer};
use crate::clock::{MILLISECOND, now, pause};
use crate::fail::{Context, Outcome};
use crate::isolate::{in_network, in_process, own_pids};
use crate::report::Report;
use crate::rounds::{Random, in_turns};
use crate::row;
use crate::samples::Samples;
use crate::spawn::{Null, Program, Streams};
use crate::table::thousands;

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let count = bench.rounds(10_000, 1_000);
    let peers = bench.inits(&bench.bare(&format!("orphans {count}")))?;
    let found = in_network(|| {
        let mut found = vec![Vec::new(); peers.len()];
        in_turns(peers.len(), 0, bench.rounds(5, 2), &mut Random::new(), |number, _, _| {
            // A PID namespace has only one PID 1.
            found[number].push(in_process(|| reaped(&peers[number]))?);
            Ok(())
        })?;
        Ok(found)
    })?;
    let mut rows = Vec::new();
    for (peer, times) in peers.iter().zip(found) {
        let median = times.into_iter().collect::<Samples>().median() as f64;
        rows.push(row![
            peer.label,
            format!("{:.1}", median / 1e6),
            thousands((count as f64 / (median / 1e9)).round() as i64)
        ]);
    }
    let count = thousands(count as i64);
    let text = format!("{count} orphans that have ended all wait for PID 1, which is then let go (SIGSTOP, SIGCONT).");
    report.section("Orphans", &text, &["PID 1", "ms for all, median", "a second"], &rows);
    Ok(())
}

/// How long PID 1 takes for all: it is stopped from outside while the orphans exit, and then continued.
fn reaped(peer: &Peer) -> Outcome<i64> {
    own_pids()?;
    let (input, mut order) = pipe().context("pipe")?;
    let (mut report, output) = pipe().context("pipe")?;
    let null = Null::open()?;
    let streams = Streams { input: input.as_fd(), output: output.as_fd(), ..null.streams() };
    let init = Program::start(&peer.command, &streams)?;
    drop((input, output));
    let mut until_told = |size: usize| {
        let mut bytes = [0; 8];
        let said = report.read_exact(&mut bytes[..size]);
        said.context(format_args!("{}: its app has gone", peer.command)).map(|()| i64::from_ne_bytes(bytes))
    };
    // The app is running, so PID 1 cannot be stopped in the middle of its own start.
    until_told(1)?;
    pause(20 * MILLISECOND);
    init.signal(Signal::SIGSTOP)?;
    order.write_all(b"\n").context("the app has gone")?;
    until_told(1)?;
    pause(20 * MILLISECOND);
    order.write_all(b"\n").context("the app has gone")?;
    pause(5 * MILLISECOND);
    let let_go = now();
    init.signal(Signal::SIGCONT)?;
    let gone = until_told(8)?;
    init.end()?;
    Ok(gone - let_go)
}
