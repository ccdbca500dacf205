//! Owns the question how long a port stays free: from the holder's exit to the `listen()` of the program that waits for it. Must not know
//! which program waits.

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::bench::{Bench, Peer};
use crate::clock::{MICROSECOND, MILLISECOND, SECOND, now, pause};
use crate::fail::{Context, Outcome, fail};
use crate::isolate::in_network;
use crate::report::Report;
use crate::rounds::{Random, in_turns};
use crate::row;
use crate::samples::{Samples, ratio};
use crate::spawn::{Command, Null, Program, Streams, pin};
use crate::table::{spread, times};
use crate::world::holder::{Holder, Way};
use crate::world::poller::Poller;
use crate::world::proc;
use crate::world::sockets::{Table, listen_on};
use crate::world::stderr::Stderr;

const PORT: u16 = 7878;

const WAYS: [Way; 2] = [Way::Closes, Way::IsKilled];

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let waiting = [bench.reberth("run -p 7878 --handover on --"), bench.app("pause")].concat();
    let peers = [bench.peer("reberth", &waiting)?, bench.peer("bare", &bench.bare("waiter 7878"))?];
    let found = gaps(bench, &peers, &WAYS, bench.rounds(1000, 50))?;
    let mut rows = Vec::new();
    for (way, gaps) in WAYS.into_iter().zip(&found) {
        tell_gaps(way, &gaps[0], &gaps[1], report, &mut rows);
    }
    let (ours, bare) = (found[0][0].median(), found[0][1].median());
    let slowest = tell_polls(bench, bare, &mut rows)?;
    promise_few_wakeups(bench, report)?;
    let alone = if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1) {
        "With one CPU there is none of its own: the largest times are the scheduler's. "
    } else {
        ""
    };
    let text = format!(
        "From the holder's `close()`, or the SIGKILL sent to it, to a successful `listen()` of the one that waits, seen by a third party on a \
         CPU of its own that asks the kernel's socket table without pause (sock_diag, 3 µs a question). µs. {alone}The least is a C program \
         that does nothing else: subscribe, try, sleep until a socket ends, try again. The slowest poll takes {} times as long as reberth.",
        times(ratio(slowest, ours))
    );
    report.section("A port becomes free", &text, &["who waits", "min", "median", "p99", "median / the least"], &rows);
    Ok(())
}

/// The rows and the promise for one way of releasing the port.
fn tell_gaps(way: Way, ours: &Samples, bare: &Samples, report: &mut Report, rows: &mut Vec<Vec<String>>) {
    let how = if way == Way::Closes { "holder closes" } else { "holder is SIGKILLed" };
    for (label, gap) in [("reberth", ours), ("the least that waits for an event", bare)] {
        let [minimum, median, p99] = spread(gap);
        rows.push(row![format!("{label}, {how}"), minimum, median, p99, times(ratio(gap.median(), bare.median()))]);
    }
    let keeps = |gap: &Samples| gap.median() <= 300 * MICROSECOND && gap.p99() <= 2_000 * MICROSECOND;
    let ([_, median, p99], [_, least, least_p99]) = (spread(ours), spread(bare));
    let mut measured = format!("{median} µs, p99 {p99} µs; the least: {least}, {least_p99}");
    if !keeps(ours) && !keeps(bare) {
        measured += ": on this machine the kernel alone takes longer";
    }
    let what = format!("port freed → `listen()`: {how}");
    report.promise(what, "median ≤ 300 µs, p99 ≤ 2,000 µs", measured, keeps(ours));
}

/// The rows of the programs that poll; the median of the slowest.
fn tell_polls(bench: &Bench, bare: i64, rows: &mut Vec<Vec<String>>) -> Outcome<i64> {
    let mut slowest = 0;
    for (period, full, names) in [(10, 200, ""), (100, 200, ""), (1000, 100, " (wait-for-it, wait4x, dockerize)")] {
        if bench.quick && period > 100 {
            continue;
        }
        let gap: Samples = in_network(|| polls(bench.rounds(full, 40), period * MILLISECOND))?.into_iter().collect();
        let [minimum, median, p99] = spread(&gap);
        let label = format!("a poll every {period} ms{names}");
        rows.push(row![label, minimum, median, p99, times(ratio(gap.median(), bare))]);
        slowest = gap.median();
    }
    Ok(slowest)
}

fn promise_few_wakeups(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let seconds = bench.rounds(20, 5) as i64;
    let forever = bench.command(&[bench.reberth("run -p 7878 --wait forever --"), bench.bare("noop")].concat())?;
    let wakeups = in_network(|| wakeups_while_waiting(&forever, seconds))?;
    let measured = format!("{wakeups} in {seconds} s");
    // The end of the wait adds one.
    report.promise("wake-ups while it waits", "≤ 1 a second", measured, wakeups <= seconds + 1);
    Ok(())
}

/// For each way in which a holder releases the port, and each peer waiting for port 7878: how long until it listens there. Its app does not
/// matter.
///
/// # Errors
/// A peer never takes the port.
pub fn gaps(bench: &Bench, peers: &[Peer], ways: &[Way], rounds: usize) -> Outcome<Vec<Vec<Samples>>> {
    let holder = bench.command(&bench.bare("holder 7878"))?;
    let found = in_network(|| {
        let (table, null) = (Table::open()?, Null::open()?);
        // The observer, which queries without pause, has its own CPU: on the CPU of the processes it watches, the scheduler would make them
        // wait for it, and that would be what is measured.
        pin(Pid::from_raw(0), 0);
        let mut found = vec![vec![Vec::with_capacity(rounds); peers.len()]; ways.len()];
        let mut random = Random::new();
        for round in 0..=rounds {
            for (&way, gaps) in ways.iter().zip(&mut found) {
                in_turns(peers.len(), 0, 1, &mut random, |number, _, random| {
                    let gap = gap(&peers[number], &holder, way, &table, &null, random)?;
                    // The first round warms up.
                    if round > 0 {
                        gaps[number].push(gap);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(found)
    })?;
    let samples = |gaps: Vec<i64>| gaps.into_iter().collect();
    Ok(found.into_iter().map(|peers| peers.into_iter().map(samples).collect()).collect())
}

fn gap(peer: &Peer, holder: &Command, way: Way, table: &Table, null: &Null, random: &mut Random) -> Outcome<i64> {
    let mut holder = Holder::start(holder, null)?;
    let (mut stderr, writer) = Stderr::pipe()?;
    let program = Program::start(&peer.command, &Streams { errors: writer.as_fd(), ..null.streams() })?;
    pin(program.pid(), 1);
    drop(writer);
    stderr.until_asleep(&program, peer.command.has_word("--prewarm"))?;
    // Not in step with the waiter's own activity.
    pause(i64::from(500 + random.below(3000)) * MICROSECOND);
    let told = holder.go(way)?;
    while !table.is_taken(PORT, holder.inode)? {
        if now() > told + 5 * SECOND {
            return fail(format_args!("{}: it never took the port", peer.command));
        }
    }
    let taken = now();
    let freed = if way == Way::Closes { holder.closed()? } else { told };
    drop(holder);
    program.end()?;
    Ok(taken - freed)
}

/// The same for programs that only poll. Many in parallel, each on its own port, because they mostly sleep; a holder exits at any moment of
/// the period.
fn polls(rounds: usize, period: i64) -> Outcome<Vec<i64>> {
    // A fast poller uses a whole core: only a few of those in parallel.
    let many: u16 = if period >= 100 * MILLISECOND { 100 } else { 4 };
    let most = u32::try_from(2 * period / MICROSECOND / i64::from(many)).unwrap_or(u32::MAX);
    let mut random = Random::new();
    let mut gaps = Vec::new();
    while gaps.len() < rounds {
        let ports = 10_000..10_000 + many;
        // No two in step.
        let mut delay =
            || i64::from(random.below(u32::try_from(period / MICROSECOND).unwrap_or(u32::MAX))) * MICROSECOND;
        let pollers = ports.clone().map(|port| Poller::start(port, period, delay()));
        let mut pollers = pollers.collect::<Outcome<Vec<_>>>()?;
        let holders = ports.map(|port| listen_on(port, 1)).collect::<Result<Vec<_>, _>>().context("no holder")?;
        for poller in &mut pollers {
            poller.go()?;
        }
        pause(200 * MILLISECOND + period);
        let mut freed = Vec::new();
        for holder in holders {
            pause(i64::from(random.below(most + 1)) * MICROSECOND);
            freed.push(now());
            drop(holder);
        }
        for (poller, freed) in pollers.into_iter().zip(freed) {
            gaps.push(poller.taken()? - freed);
        }
    }
    gaps.truncate(rounds);
    Ok(gaps)
}

/// How often a waiter wakes up while its port stays busy.
fn wakeups_while_waiting(command: &Command, seconds: i64) -> Outcome<i64> {
    let _holder = listen_on(PORT, 1).context("no holder")?;
    let (mut stderr, writer) = Stderr::pipe()?;
    let null = Null::open()?;
    let program = Program::start(command, &Streams { errors: writer.as_fd(), ..null.streams() })?;
    drop(writer);
    stderr.until_asleep(&program, false)?;
    pause(SECOND / 2);
    let before = proc::wakeups(program.pid());
    pause(seconds * SECOND);
    let after = proc::wakeups(program.pid());
    program.signal(Signal::SIGTERM)?;
    program.wait()?;
    Ok(after - before)
}
