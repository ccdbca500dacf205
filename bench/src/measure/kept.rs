//! Owns the question what clients see of an app that crashes, or is replaced in place, beside `keep` and without it. Must not know what a
//! client is.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::bench::{Bench, words};
use crate::fail::Outcome;
use crate::isolate::in_network;
use crate::measure::idle;
use crate::report::Report;
use crate::row;
use crate::samples::Samples;
use crate::spawn::{Command, Null, Program};
use crate::table::{ms, thousands};
use crate::world::visitors::{RUSH, Rush, until_answered};

const PORT: u16 = 7878;

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let rounds = bench.rounds(20, 2);
    let share = "-p 0.0.0.0:7878 --share bench";
    let keep = bench.reberth(&format!("keep {share}"));
    let app = bench.bare("server 100 7878");
    let shares = [bench.reberth(&format!("run {share} --")), app.clone()].concat();
    let alone = [bench.reberth("run -p 0.0.0.0:7878 --"), app.clone()].concat();
    let tini = [words("tini-static -s --"), app].concat();
    let (mut rows, mut refused, mut clients) = (Vec::new(), 0, 0);
    for (label, signal, is_kept, command) in [
        ("beside `keep`, the app's container is killed", Signal::SIGKILL, true, &shares),
        ("beside `keep`, stopped and started again", Signal::SIGTERM, true, &shares),
        ("beside nobody, stopped and started again", Signal::SIGTERM, false, &alone),
        ("tini-static, stopped and started again", Signal::SIGTERM, false, &tini),
    ] {
        let keeper = is_kept.then(|| bench.command(&keep)).transpose()?;
        let command = bench.command(command)?;
        let found = in_network(|| rushes(keeper.as_ref(), &command, signal, rounds))?;
        let all = |number: fn(&Counts) -> i64| found.iter().map(number).collect::<Samples>();
        let (all_refused, cut_off) = (all(|counts| counts.refused), all(|counts| counts.cut_off));
        let longest = ms(all(|counts| counts.longest).maximum());
        rows.push(row![label, all_refused.median(), all_refused.maximum(), cut_off.maximum(), longest]);
        if is_kept {
            refused += all_refused.sum();
            clients += RUSH * rounds;
        }
    }
    let measured = format!("{refused} of {}", thousands(clients as i64));
    report.promise("crash or restart beside `keep`: refused", "0", measured, refused == 0);
    let tini = [words("tini-static -s --"), bench.app("pause")].concat();
    let peers = [bench.peer("reberth keep", &keep)?, bench.peer("tini-static -s --", &tini)?];
    let found = idle::rest(&peers, bench.rounds(60, 5) as i64)?;
    let (ours, tini) = (&found["reberth keep"], &found["tini-static -s --"]);
    let measured = format!("{} KiB against {} KiB, {} wake-ups", ours.rss, tini.rss, ours.wakeups);
    let kept = ours.rss <= tini.rss && ours.wakeups == 0;
    report.promise("`keep`, idle, against `tini-static`", "≤ 1; 0 wake-ups", measured, kept);
    let text = format!(
        "An app that takes 100 ms to boot is ended, and started again 200 ms later; 600 clients, one a millisecond. Beside `keep` they wait. \
         Cut off are those that a killed app had accepted. {rounds} rounds."
    );
    let head = ["of 600 clients", "refused, median", "most", "cut off, most", "longest answer, ms"];
    report.section("An app beside `keep`", &text, &head, &rows);
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Counts {
    refused: i64,
    cut_off: i64,
    longest: i64,
}

/// One rush after another. At the hundredth client the app gets the signal, and 200 ms later it is started again, as an engine does.
fn rushes(keeper: Option<&Command>, app: &Command, signal: Signal, rounds: usize) -> Outcome<Vec<Counts>> {
    let null = Null::open()?;
    let keeper = keeper.map(|keeper| Program::start(keeper, &null.streams())).transpose()?;
    let mut found = Vec::new();
    for _ in 0..rounds {
        let first = Program::start(app, &null.streams())?;
        until_answered(PORT)?;
        let mut second = None;
        let mut rush = Rush::begin()?;
        while let Some(number) = rush.next() {
            match number {
                100 => first.signal(signal)?,
                300 => second = Some(Program::start(app, &null.streams())?),
                _ => {}
            }
            rush.send(PORT)?;
        }
        let visits = rush.end()?;
        found.push(Counts { refused: visits.refused(), cut_off: visits.cut_off(), longest: visits.longest() });
        first.wait()?;
        if let Some(program) = second {
            program.end()?;
        }
    }
    if let Some(keeper) = keeper {
        keeper.end()?;
    }
    Ok(found)
}
