//! Owns the question what a whole life costs: start, launch of an app that exits immediately, exit. Must not know how a life is timed.

use crate::bench::{Bench, Peer};
use crate::fail::{Context, Outcome};
use crate::life;
use crate::report::Report;
use crate::row;
use crate::samples::ratio;
use crate::table::{spread, thousands, times, us};

const OURS: [&str; 2] = ["run -p 7878 --", "run --"];

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let peers = peers(bench)?;
    let found = life::measure(&peers, bench.rounds(1000, 100), || Ok(()))?;
    let (floor, tini) = (&found["direct exec"], &found["tini-static -s --"]);
    let mut rows = Vec::new();
    for (peer, (label, lives)) in peers.iter().zip(found.iter()) {
        let executed = if bench.quick { "–".to_owned() } else { thousands(instructions(bench, peer)?) };
        let [minimum, median, p99] = spread(&lives.wall);
        rows.push(row![
            label,
            minimum,
            median,
            p99,
            us(lives.wall.median() - floor.wall.median()),
            thousands(lives.cpu.minimum()),
            thousands(lives.cpu.median()),
            times(ratio(lives.wall.median(), tini.wall.median())),
            times(ratio(lives.cpu.median(), tini.cpu.median())),
            lives.page_faults.median(),
            executed,
        ]);
    }
    let mut text = "A whole life: start, launch of an app that ends at once, end. µs; CPU is user and system time with the app's. \
                    Page faults are those of the init and the app; instructions are user-space ones of the init alone (callgrind)."
        .to_owned();
    for line in OURS.into_iter().rev() {
        let label = format!("reberth {line}");
        let against = found[&label].against(tini);
        let what = format!("`{label} true` against `tini-static -s -- true`");
        report.promise(what, "≤ 1; aim 0.75", &against.words, against.within(1.0));
        if let Some(other) = found.get(&other(line)) {
            text += &format!(" `{label}` against the binary of `--against`: {}.", found[&label].against(other).words);
        }
    }
    let head = [
        "around a static no-op",
        "wall min",
        "median",
        "p99",
        "median over exec",
        "CPU min",
        "median",
        "wall / tini",
        "CPU / tini",
        "page faults",
        "instructions",
    ];
    report.section("Start and end", &text, &head, &rows);
    Ok(())
}

/// The label of the binary of `--against`.
fn other(line: &str) -> String {
    format!("--against: reberth {line}")
}

fn peers(bench: &Bench) -> Outcome<Vec<Peer>> {
    let noop = bench.bare("noop");
    let [port, plain] = OURS;
    let mut peers = vec![bench.peer("direct exec", &noop)?];
    peers.push(bench.peer(format!("reberth {port}"), &[bench.reberth(port), noop.clone()].concat())?);
    peers.extend(bench.inits(&noop)?);
    for line in [port, plain] {
        if let Some(command) = bench.against(line) {
            peers.push(bench.peer(other(line), &[command, noop.clone()].concat())?);
        }
    }
    Ok(peers)
}

/// How many instructions the program itself executes, without its children.
fn instructions(bench: &Bench, peer: &Peer) -> Outcome<i64> {
    let mut valgrind = bench.tool("valgrind --tool=callgrind --callgrind-out-file=/dev/null")?;
    let output = valgrind.args(peer.command.words()).output().context("valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let counted =
        said.lines().find_map(|line| line.split_once("Collected : ")?.1.split_whitespace().next()?.parse().ok());
    Ok(counted.unwrap_or(0))
}
