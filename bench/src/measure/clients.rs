//! Owns the question which clients are refused while one instance follows another, and the parent that passes its socket. Must not know
//! what a client is.

use std::ffi::CString;
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::execv;
use serde::{Deserialize, Serialize};

use crate::bench::Bench;
use crate::clock::{MILLISECOND, now, pause};
use crate::fail::{Context, Outcome, fail};
use crate::isolate::{Companion, in_network};
use crate::report::Report;
use crate::row;
use crate::samples::Samples;
use crate::spawn::{Command, Null, Program, Streams};
use crate::sys;
use crate::table::{ms, thousands};
use crate::world::sockets::listen_on;
use crate::world::stderr::Stderr;
use crate::world::visitors::{RUSH, Rush, until_answered};

const PORT: u16 = 7878;

pub const HEAD: [&str; 6] = [
    "of 600 clients",
    "refused, median",
    "most",
    "of these after the claim, most",
    "cut off, most",
    "longest answer, ms",
];

/// How the second instance follows the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// It waits for the port beside it.
    Beside,
    /// It is started when the first has exited, as an engine restarts a container.
    Afterwards,
    /// A parent starts the app again.
    Below,
}

/// The results of the rushes of one variant.
pub struct Change {
    pub refused: Samples,
    pub refused_after_claim: Samples,
    pub cut_off: Samples,
    pub longest: Samples,
    follows: Follows,
}

impl Change {
    /// The cells of a table with [`HEAD`].
    pub fn row(&self, label: &str) -> Vec<String> {
        let late = match self.follows {
            Follows::Beside => self.refused_after_claim.maximum().to_string(),
            // No port is claimed.
            _ => "–".to_owned(),
        };
        let (median, most) = (self.refused.median(), self.refused.maximum());
        row![label, median, most, late, self.cut_off.maximum(), ms(self.longest.maximum())]
    }
}

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let rounds = bench.rounds(10, 1);
    let mut rows = Vec::new();
    let mut change = |label: &str, follows: Follows, words: Vec<String>| -> Outcome<Change> {
        let change = changes(&bench.command(&words)?, follows, rounds)?;
        rows.push(change.row(label));
        Ok(change)
    };
    let ours = |line: &str, place: &str| {
        [bench.reberth(&format!("run -p 0.0.0.0:7878 {line} --")), bench.bare(&format!("server 100 {place}"))].concat()
    };
    let handed = change("reberth hands the socket over", Follows::Beside, ours("--handover on", "fd:3"))?;
    change("reberth waits, the app binds by itself", Follows::Beside, ours("", "7878"))?;
    let warm = change("the app waits in its bind (--prewarm)", Follows::Beside, ours("--prewarm", "7878"))?;
    let shared = change("both share one socket (--share)", Follows::Beside, ours("--share bench", "7878"))?;
    let tini = [crate::bench::words("tini-static -s --"), bench.bare("server 100 7878")].concat();
    change("tini, started again when it has ended", Follows::Afterwards, tini)?;
    let parent = [bench.app("parent 7878"), bench.bare("server 100 fd:3")].concat();
    change("a parent passes its socket, as systemd does", Follows::Below, parent)?;

    let late = handed.refused_after_claim.maximum();
    let measured = format!(
        "{late} from the claim on; before it, when nobody has the port, median {}, at most {} of 600",
        handed.refused.median(),
        handed.refused.maximum()
    );
    report.promise("a client during handover: refused connections", "0", measured, late == 0);
    let most = warm.refused.maximum();
    report.promise(
        "restart by --prewarm: refused",
        "≤ 1 in 1,000, or one a restart",
        format!("at most {most} of 600"),
        most <= 1,
    );
    let most = shared.refused.maximum();
    let measured = format!("{most} of {}", thousands((RUSH * rounds) as i64));
    report.promise("rollout by --share: refused", "0", measured, most == 0);
    let text = format!(
        "Two instances of an app that takes 100 ms to boot; the second waits for the port, the first gets TERM; 600 clients, one a \
         millisecond. {rounds} rounds. From the claim on nobody is refused; between the old one's close and the claim (see 'A port becomes \
         free') a client can be."
    );
    report.section("Clients during a change of instances", &text, &HEAD, &rows);
    Ok(())
}

/// Two instances of a command; the first gets TERM while clients come.
///
/// # Errors
/// An instance never answers, or never claims the port.
pub fn changes(command: &Command, follows: Follows, rounds: usize) -> Outcome<Change> {
    let found = in_network(|| (0..rounds).map(|_| one_change(command, follows)).collect::<Outcome<Vec<_>>>())?;
    let all = |number: fn(&Counts) -> i64| found.iter().map(number).collect();
    Ok(Change {
        refused: all(|counts| counts.refused),
        refused_after_claim: all(|counts| counts.refused_after_claim),
        cut_off: all(|counts| counts.cut_off),
        longest: all(|counts| counts.longest),
        follows,
    })
}

#[derive(Serialize, Deserialize)]
struct Counts {
    refused: i64,
    refused_after_claim: i64,
    cut_off: i64,
    longest: i64,
}

fn one_change(command: &Command, follows: Follows) -> Outcome<Counts> {
    let null = Null::open()?;
    let first = Program::start(command, &null.streams())?;
    until_answered(PORT)?;
    let (mut stderr, writer) = Stderr::pipe()?;
    let mut second = None;
    if follows == Follows::Beside {
        let program = Program::start(command, &Streams { errors: writer.as_fd(), ..null.streams() })?;
        stderr.until_asleep(&program, command.has_word("--prewarm"))?;
        second = Some(program);
    }
    drop(writer);
    let mut first = Some(first);
    let mut claimed = None;
    let mut rush = Rush::begin()?;
    while let Some(number) = rush.next() {
        if let Some(program) = &first
            && number == 100
        {
            program.signal(Signal::SIGTERM)?;
        }
        if follows == Follows::Afterwards
            && let Some(program) = first.take()
        {
            first = program.still_runs()?;
            if first.is_none() {
                second = Some(Program::start(command, &null.streams())?);
            }
        }
        if follows == Follows::Beside && claimed.is_none() && stderr.has(" claimed") {
            claimed = Some(now());
        }
        rush.send(PORT)?;
    }
    if follows == Follows::Beside && claimed.is_none() {
        return fail(format_args!("{command}: the second instance never claimed the port"));
    }
    let visits = rush.end()?;
    match (first, second) {
        // The parent forwards a TERM, so stopping it takes another signal.
        (Some(parent), None) if follows == Follows::Below => drop(parent),
        (first, second) => {
            // An instance that takes longer to exit than all clients take to come has refused them all.
            if let Some(program) = first {
                program.wait()?;
            }
            let second = match second {
                Some(program) => program,
                None => {
                    let program = Program::start(command, &null.streams())?;
                    until_answered(PORT)?;
                    program
                }
            };
            second.end()?;
        }
    }
    Ok(Counts {
        refused: visits.refused(),
        refused_after_claim: claimed.map_or(0, |claimed| visits.refused_after(claimed)),
        cut_off: visits.cut_off(),
        longest: visits.longest(),
    })
}

/// The app that holds the port and passes it to its own app, as systemd does with LISTEN_FDS. It starts that one again when it exits, and
/// forwards a TERM.
pub fn parent(port: u16, command: &[String]) -> Outcome<()> {
    let words =
        command.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>().context("a word")?;
    let file = words.first().context("no command")?;
    // The app of the previous round may be about to die with its parent.
    let listener = loop {
        match listen_on(port, 4096) {
            Ok(listener) => break listener,
            Err(_) => pause(MILLISECOND),
        }
    };
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGCHLD]);
    signals.thread_block().context("sigprocmask")?;
    loop {
        let app = Companion::start(|| {
            signals.thread_unblock().context("sigprocmask")?;
            sys::pass_as_3(listener.as_fd()).context("no socket to pass")?;
            execv(file, &words).map(drop).context(file.to_string_lossy())
        })?;
        // A CHLD may belong to an exit that was already handled.
        while matches!(waitpid(app.pid(), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)) {
            if signals.wait().context("sigwait")? == Signal::SIGTERM {
                kill(app.pid(), Signal::SIGTERM).context("kill")?;
            }
        }
        std::mem::forget(app);
    }
}
