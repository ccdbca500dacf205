//! Owns the question what a restart costs for real servers that know nothing of reberth: how long no process listens, and which clients are
//! refused. Must not know how either is observed.

use crate::bench::{Bench, words};
use crate::clock::MICROSECOND;
use crate::fail::Outcome;
use crate::measure::clients::{Follows, HEAD, changes};
use crate::measure::{freed, servers};
use crate::report::Report;
use crate::row;
use crate::table::{spread, us};
use crate::world::holder::Way;

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let rounds = bench.rounds(10, 1);
    let (mut gaps, mut rows, mut refused) = (Vec::new(), Vec::new(), 0);
    for (name, app) in servers::servers(bench)? {
        let warm = [bench.reberth("run -p 7878 --prewarm --"), app.clone()].concat();
        let found = freed::gaps(bench, &[bench.peer(name, &warm)?], &[Way::Closes], bench.rounds(50, 5))?;
        let gap = &found[0][0];
        let [minimum, median, p99] = spread(gap);
        gaps.push(row![name, minimum, median, p99]);
        let what = format!("restart of {name} by --prewarm: the old one's `close()` → `listen()`");
        let measured = format!("{} µs", us(gap.median()));
        report.promise(what, "median ≤ 500 µs", measured, gap.median() <= 500 * MICROSECOND);
        let off = [bench.reberth("run -p 7878 --"), app.clone()].concat();
        let tini = [words("tini-static -s --"), app].concat();
        for (label, follows, command) in [
            ("--prewarm", Follows::Beside, warm),
            ("--handover off", Follows::Beside, off),
            ("tini, started again when it has ended", Follows::Afterwards, tini),
        ] {
            let change = changes(&bench.command(&command)?, follows, rounds)?;
            rows.push(change.row(&format!("{name}, {label}")));
            if label == "--prewarm" {
                refused = refused.max(change.refused.median());
            }
        }
    }
    let measured = format!("median at most {refused} of 600");
    let promised = "≤ 1 in 1,000, or one a restart";
    report.promise("restart of real servers by --prewarm: refused", promised, measured, refused <= 1);
    let text = "An instance of each server that has started and waits in its bind gets the port when a holder closes it: until somebody \
                listens there again, seen as in 'A port becomes free'. µs.";
    report.section("A restart of real servers: nobody listens", text, &["server", "min", "median", "p99"], &gaps);
    let text = format!(
        "The same servers, one instance after another, as above. {rounds} rounds. What is cut off had been accepted, or queued, by the server \
         that ended."
    );
    report.section("A restart of real servers: clients", &text, &HEAD, &rows);
    Ok(())
}
