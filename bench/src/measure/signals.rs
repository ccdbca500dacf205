//! Owns the question how long a signal takes through an init, and the app that receives it. Must not know which init that is.

use std::io::{PipeReader, Read, Write, pipe, stdout};
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::bench::{Bench, Peer};
use crate::clock::{MICROSECOND, now, pause};
use crate::fail::{Context, Outcome};
use crate::isolate::in_network;
use crate::report::Report;
use crate::rounds::{Random, in_turns};
use crate::row;
use crate::samples::{Found, Samples, ratio};
use crate::spawn::{Null, Program, Streams};
use crate::sys;
use crate::table::{spread, times};

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let peers = bench.inits(&bench.app("signal"))?;
    let delays = in_network(|| delays(&peers, bench.rounds(1000, 100)))?;
    let samples = delays.into_iter().map(|delays| delays.into_iter().collect());
    let found: Found<Samples> = peers.iter().map(|peer| peer.label.clone()).zip(samples).collect();
    let tini = &found["tini-static -s --"];
    let row = |(label, delay): (&str, &Samples)| {
        let [minimum, median, p99] = spread(delay);
        row![label, minimum, median, p99, times(ratio(delay.median(), tini.median()))]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    let text = "From `kill()` of the init to the app's signal handler (USR1, which goes the way of TERM without ending anything). µs.";
    report.section("A signal on its way", text, &["through", "min", "median", "p99", "/ tini"], &rows);
    Ok(())
}

fn delays(peers: &[Peer], rounds: usize) -> Outcome<Vec<Vec<i64>>> {
    let null = Null::open()?;
    let mut apps = Vec::new();
    for peer in peers {
        let (mut reader, writer) = pipe().context("pipe")?;
        let program = Program::start(&peer.command, &Streams { output: writer.as_fd(), ..null.streams() })?;
        drop(writer);
        heard(&mut reader, peer)?;
        apps.push((program, reader));
    }
    let mut delays = vec![Vec::new(); peers.len()];
    in_turns(peers.len(), 5, rounds, &mut Random::new(), |number, counts, random| {
        let (program, reader) = &mut apps[number];
        pause(i64::from(200 + random.below(300)) * MICROSECOND);
        let told = now();
        program.signal(Signal::SIGUSR1)?;
        let delay = heard(reader, &peers[number])? - told;
        if counts {
            delays[number].push(delay);
        }
        Ok(())
    })?;
    for (program, _) in apps {
        program.end()?;
    }
    Ok(delays)
}

/// The next time that the app reports.
fn heard(reader: &mut PipeReader, peer: &Peer) -> Outcome<i64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes).context(format_args!("{}: its app has gone", peer.command))?;
    Ok(i64::from_ne_bytes(bytes))
}

/// The app: it reports that it is running, and then each USR1 that it receives. TERM kills it.
pub fn app() -> Outcome<()> {
    let usr1 = SigSet::from(Signal::SIGUSR1);
    let before = usr1.thread_swap_mask(SigmaskHow::SIG_BLOCK).context("sigprocmask")?;
    sys::catch_usr1().context("sigaction")?;
    let tell = |time: i64| {
        let mut stdout = stdout().lock();
        stdout.write_all(&time.to_ne_bytes()).and_then(|()| stdout.flush()).context("stdout")
    };
    tell(0)?;
    loop {
        before.suspend().context("sigsuspend")?;
        tell(sys::last_usr1())?;
    }
}
