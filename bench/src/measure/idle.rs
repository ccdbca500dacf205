//! Owns the question what an init costs while its app runs and nothing happens. Must not know which init that is.

use serde::{Deserialize, Serialize};

use crate::bench::{Bench, Peer};
use crate::clock::{MILLISECOND, SECOND, pause};
use crate::fail::{Outcome, fail};
use crate::isolate::in_network;
use crate::report::Report;
use crate::row;
use crate::samples::Found;
use crate::spawn::{Null, Program};
use crate::world::proc;

/// The cost of one init.
#[derive(Serialize, Deserialize)]
pub struct Rest {
    pub rss: i64,
    pub dirty: i64,
    pub wakeups: i64,
}

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let seconds = bench.rounds(60, 5) as i64;
    let mut peers = bench.inits(&bench.app("pause"))?;
    let listening = [bench.reberth("run -p 7878 --"), bench.bare("server 0 7878")].concat();
    peers.push(bench.peer("reberth run -p 7878 --, app ready", &listening)?);
    let found = rest(&peers, seconds)?;
    let rows: Vec<_> = found
        .iter()
        .map(|(label, rest)| {
            row![label, rest.rss, rest.dirty, format!("{:.0}", rest.wakeups as f64 * 60.0 / seconds as f64)]
        })
        .collect();
    let (ours, tini) = (&found["reberth run --"], &found["tini-static -s --"]);
    let measured = format!("{} KiB against {} KiB, {} KiB dirty", ours.rss, tini.rss, ours.dirty);
    let kept = ours.rss <= tini.rss && ours.dirty <= 150;
    report.promise("memory while supervising, against `tini-static`", "≤ 1; ≤ 150 KiB dirty", measured, kept);
    let text = format!(
        "While the app runs and nothing happens, over {seconds} s (`smaps_rollup`, `voluntary_ctxt_switches`). KiB."
    );
    report.section("Idle", &text, &["around a sleeping app", "RSS", "private dirty", "wake-ups a minute"], &rows);
    Ok(())
}

/// All in parallel, because they only sleep.
///
/// # Errors
/// One does not start.
pub fn rest(peers: &[Peer], seconds: i64) -> Outcome<Found<Rest>> {
    let found = in_network(|| {
        let null = Null::open()?;
        let programs = peers.iter().map(|peer| Program::start(&peer.command, &null.streams()));
        let programs = programs.collect::<Outcome<Vec<_>>>()?;
        pause(1500 * MILLISECOND);
        // Pages of a file that is not on disk yet count as dirty for every process that maps them.
        nix::unistd::sync();
        let before: Vec<_> = programs.iter().map(|program| proc::wakeups(program.pid())).collect();
        pause(seconds * SECOND);
        let mut found = Vec::new();
        for (program, before) in programs.into_iter().zip(before) {
            let wakeups = proc::wakeups(program.pid()) - before;
            let (rss, dirty) = proc::memory(program.pid());
            if rss == 0 {
                return fail("a program has ended that should sleep");
            }
            found.push((program, Rest { rss, dirty, wakeups }));
        }
        found.into_iter().map(|(program, rest)| program.end().map(|_| rest)).collect::<Outcome<Vec<_>>>()
    })?;
    Ok(peers.iter().map(|peer| peer.label.clone()).zip(found).collect())
}
