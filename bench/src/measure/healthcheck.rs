//! Owns the question what one health check costs. Must not know how a life is timed.

use crate::bench::{Bench, words};
use crate::fail::Outcome;
use crate::isolate::own_processes;
use crate::life;
use crate::report::Report;
use crate::row;
use crate::samples::ratio;
use crate::spawn::{Null, Program};
use crate::table::{spread, thousands, times};
use crate::world::visitors::until_answered;

const BY_URL: &str = "reberth healthcheck URL";
const BY_STATE: &str = "reberth healthcheck, by the state file";
const FLOOR: &str = "a no-op";

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let url = "http://127.0.0.1:8080/";
    let mut peers = vec![
        bench.peer(FLOOR, &bench.bare("noop"))?,
        bench.peer("check.c", &bench.bare("check 8080"))?,
        bench.peer(BY_URL, &bench.reberth(&format!("healthcheck {url}")))?,
        bench.peer(BY_STATE, &bench.reberth("healthcheck"))?,
        bench.peer("busybox wget", &words(&format!("busybox wget -q -O /dev/null {url}")))?,
        bench.peer("GNU wget", &words(&format!("wget -q -O /dev/null {url}")))?,
        bench.peer("curl", &words(&format!("curl -sf -o /dev/null {url}")))?,
    ];
    for (label, line) in [(BY_URL, format!("healthcheck {url}")), (BY_STATE, "healthcheck".to_owned())] {
        if let Some(command) = bench.against(&line) {
            peers.push(bench.peer(other(label), &command)?);
        }
    }
    // The server runs under `run` as PID 1, so that there is a state file to find, as in a container.
    let pid1 = [words("sh -c"), vec!["mount -t proc proc /proc && exec \"$@\"".to_owned(), "sh".to_owned()]].concat();
    let server = [pid1, bench.reberth("run -p 8080 --"), bench.bare("server 0 8080")].concat();
    let server = bench.command(&server)?;
    let found = life::measure(&peers, bench.rounds(500, 50), || {
        own_processes()?;
        let program = Program::start(&server, &Null::open()?.streams())?;
        until_answered(8080)?;
        Ok(program)
    })?;
    let ours = &found[BY_URL];
    // A no-op uses next to nothing: its number is that of the process that started it. Rounded up to the next hundred, because the others
    // may have some pages more.
    let floor = (found[FLOOR].max_rss.median() / 100 + 1) * 100;
    let mut rows = Vec::new();
    for (label, lives) in found.iter() {
        let rss = lives.max_rss.median();
        let [minimum, median, p99] = spread(&lives.wall);
        rows.push(row![
            label,
            minimum,
            median,
            p99,
            thousands(lives.cpu.minimum()),
            thousands(lives.cpu.median()),
            times(ratio(ours.wall.median(), lives.wall.median())),
            times(ratio(ours.cpu.median(), lives.cpu.median())),
            if rss > floor { thousands(rss) } else { format!("< {floor}") },
            lives.page_faults.median(),
        ]);
    }
    for (label, limit, written) in [("curl", 0.1, "1/10"), ("busybox wget", 0.8, "0.8"), (FLOOR, 4.0, "4")] {
        let against = ours.against(&found[label]);
        let what = format!("one HTTP `healthcheck URL` against {label}");
        report.promise(what, format!("≤ {written}"), &against.words, against.within(limit));
    }
    // A HEALTHCHECK has no URL: it first looks for the state of `run`.
    let against = found[BY_STATE].against(&found[FLOOR]);
    let more = if against.within(4.0) { "" } else { "; it also reads the state, and asks whether to believe it" };
    let measured = format!("{}{more}", against.words);
    report.promise("the same without URL, by the state of `run`", "≤ 4", measured, against.within(4.0));
    let mut text =
        "One GET of a page of 3 bytes from a server on the same machine that does nothing else. µs and KiB.".to_owned();
    for label in [BY_URL, BY_STATE] {
        if let Some(other) = found.get(&other(label)) {
            text += &format!(" `{label}` against the binary of `--against`: {}.", found[label].against(other).words);
        }
    }
    let head =
        ["one question", "wall min", "median", "p99", "CPU min", "median", "reberth's wall / this", "CPU / this"];
    report.section("One health check", &text, &[&head[..], &["max RSS", "page faults"]].concat(), &rows);
    Ok(())
}

/// The label of the binary of `--against`.
fn other(label: &str) -> String {
    format!("--against: {label}")
}
