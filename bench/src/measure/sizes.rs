//! Owns the question how large the programs are. Must not know how they are built.

use crate::bench::Bench;
use crate::binary::built;
use crate::fail::{Context, Outcome};
use crate::peers::{PATH, PEERS, find};
use crate::report::Report;
use crate::row;
use crate::table::{mib, thousands};

const MIB: u64 = 1 << 20;

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let row = |name: &str, size: u64| row![name, thousands(size as i64), mib(size)];
    let size = bench.size()?;
    let mut rows = vec![row("reberth", size)];
    report.promise("the static binary, TLS included", "≤ 2.5 MiB", format!("{} MiB", mib(size)), size * 2 <= 5 * MIB);
    if !bench.given && !bench.quick {
        let size = built(true)?.metadata().context("the binary without TLS")?.len();
        rows.push(row("reberth without TLS", size));
        report.promise("the static binary without TLS", "≤ 1 MiB", format!("{} MiB", mib(size)), size <= MIB);
    }
    for name in PEERS {
        if let Some(file) = find(name, PATH) {
            rows.push(row(name, file.metadata().context(file.display())?.len()));
        }
    }
    let text = "Without the shared libraries that some of them need.";
    report.section("Size on disk", text, &["program", "bytes", "MiB"], &rows);
    Ok(())
}
