//! Owns the question what more ports, and more sockets on the machine, cost. Must not know how a life is timed.

use crate::bench::Bench;
use crate::fail::Outcome;
use crate::life::{self, Lives};
use crate::report::Report;
use crate::row;
use crate::spawn::{Null, Program};
use crate::table::{spread, thousands};
use crate::world::crowd;
use crate::world::visitors::until_answered;

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let rounds = bench.rounds(200, 20);
    let mut rows = Vec::new();
    let mut tell = |what: String, lives: &Lives| {
        let [minimum, median, p99] = spread(&lives.wall);
        rows.push(row![what, minimum, median, p99]);
    };
    for ports in [1, 10, 100] {
        let specs: Vec<_> = (10_000..10_000 + ports).map(|port: i32| port.to_string()).collect();
        let command = [bench.reberth(&format!("run -p {} --", specs.join(","))), bench.bare("noop")].concat();
        let found = life::measure(&[bench.peer("run", &command)?], rounds, || Ok(()))?;
        tell(format!("`run` with {ports} {}", if ports == 1 { "port" } else { "ports" }), &found["run"]);
    }
    let server = bench.command(&bench.bare("server 0 8080"))?;
    let peers = [
        bench.peer("run", &[bench.reberth("run -p 7878 --"), bench.bare("noop")].concat())?,
        // Its exit code 1 means that the port is in use.
        bench.peer("who", &bench.reberth("who 8080"))?.may_end_with(1),
    ];
    let mut slowest = (0, 0);
    for sockets in [0, 10_000, 50_000] {
        if bench.quick && sockets > 10_000 {
            continue;
        }
        let found = life::measure(&peers, rounds, || {
            let crowd = crowd::sockets(sockets)?;
            let server = Program::start(&server, &Null::open()?.streams())?;
            until_answered(8080)?;
            Ok((crowd, server))
        })?;
        for (label, name) in [("run", "`run` with 1 port"), ("who", "`who` about a held port")] {
            tell(format!("{name}, {} TCP sockets on the machine", thousands(sockets as i64)), &found[label]);
        }
        slowest = (found["who"].wall.median(), sockets);
    }
    let (time, sockets) = slowest;
    let measured = format!("{:.1} ms with {}", time as f64 / 1e6, thousands(sockets as i64));
    report.promise("`who PORT` with 50,000 sockets on the machine", "< 50 ms", measured, time < 50_000_000);
    report.section("Growth", "µs of wall time.", &["what", "min", "median", "p99"], &rows);
    Ok(())
}
