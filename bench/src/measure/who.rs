//! Owns the question how long it takes to find the holder of a port. Must not know how a life is timed.

use crate::bench::{Bench, words};
use crate::fail::Outcome;
use crate::life;
use crate::report::Report;
use crate::row;
use crate::samples::ratio;
use crate::spawn::{Null, Program};
use crate::table::{spread, thousands, times};
use crate::world::crowd;
use crate::world::visitors::until_answered;

const OURS: &str = "reberth who 8080";

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let ss = [words("ss -Hltnp"), vec!["sport = :8080".to_owned()]].concat();
    let lsof = "lsof -nP -iTCP:8080 -sTCP:LISTEN";
    let peers = [
        // Its exit code 1 means that the port is in use.
        bench.peer(OURS, &bench.reberth("who 8080"))?.may_end_with(1),
        bench.peer("ss -Hltnp 'sport = :8080'", &ss)?,
        bench.peer(lsof, &words(lsof))?,
        bench.peer("fuser 8080/tcp", &words("fuser 8080/tcp"))?,
    ];
    let server = bench.command(&bench.bare("server 0 8080"))?;
    let mut rows = Vec::new();
    for programs in [10, 1000] {
        let found = life::measure(&peers, bench.rounds(50, 10), || {
            let crowd = crowd::programs(programs)?;
            let server = Program::start(&server, &Null::open()?.streams())?;
            until_answered(8080)?;
            Ok((crowd, server))
        })?;
        for (label, lives) in found.iter() {
            let [minimum, median, p99] = spread(&lives.wall);
            let ours = times(ratio(found[OURS].wall.median(), lives.wall.median()));
            rows.push(row![
                format!("`{label}`, {} other programs", thousands(programs as i64)),
                minimum,
                median,
                p99,
                ours
            ]);
        }
    }
    let text = "Who has the port: µs of wall time, with other programs of thirteen descriptors each on the machine.";
    report.section("Who it is", text, &["asked", "min", "median", "p99", "reberth / this"], &rows);
    Ok(())
}
