//! Owns `who --watch`: a line at each change of who holds the ports asked about. Must not know how a holder is found or put into words.
//!
//! The kernel tells of every socket on these ports that ends, and of none that begins: for those the sockets are listed once a second, which
//! takes microseconds. Whether a port is free is told by a bind, which is made only where something has changed: one a second would sooner or
//! later be in the way of an app.

use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags};

use super::print::json;
use super::report::{HELD, Line, Port, Report, judge_noting};
use super::settings::Who;
use crate::error::{Error, words};
use crate::exit::Code;
use crate::port::claim;
use crate::port::holder::{self, Depth};
use crate::port::spec::Spec;
use crate::port::watch::Destroyed;
use crate::sys::descriptor::wait_readable;

/// Between two lists of the sockets.
const TICK: Duration = Duration::from_secs(1);
/// So many of our own binds are remembered: each ends as a socket on a watched port, which is no news.
const OWN: usize = 64;

/// What is known of one port.
struct Watched<'a> {
    spec: &'a Spec,
    v6_only: bool,
    /// Who has it, as far as a list of sockets tells.
    sockets: String,
    /// Who has it, as it was told last.
    told: Option<String>,
    held: bool,
}

/// Prints until a signal ends it, or until whoever reads has gone.
///
/// # Errors
/// A port cannot be asked about, or a line not be printed.
pub fn run(asked: &Who) -> Result<Code, Error> {
    crate::sys::signal::end_as_pid_1();
    let ports: Vec<_> = asked.ports.iter().map(|spec| (spec.port, spec.protocol)).collect();
    // Without netlink the clock alone tells.
    let events = Destroyed::open(&ports).ok();
    let mut own = Vec::new();
    let mut all: Vec<Watched<'_>> = asked
        .ports
        .iter()
        .map(|spec| Watched {
            spec,
            v6_only: claim::v6_only(spec, &asked.ports),
            sockets: String::new(),
            told: None,
            held: false,
        })
        .collect();
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        let ended: Vec<u16> = match events.as_ref().map(Destroyed::drain) {
            Some(Ok(heard)) if heard.lost => ports.iter().map(|(port, _)| *port).collect(),
            Some(Ok(heard)) => {
                heard.events.iter().filter(|event| !own.contains(&event.cookie)).map(|event| event.port).collect()
            }
            _ => Vec::new(),
        };
        let tick = now >= next;
        if tick {
            next = now + TICK;
        }
        for one in &mut all {
            let ended = ended.contains(&one.spec.port);
            if !ended && !tick {
                continue;
            }
            let sockets = sockets(one.spec);
            if !ended && sockets == one.sockets && one.told.is_some() {
                continue;
            }
            one.sockets = sockets;
            let port = judge_noting(one.spec, one.v6_only, &mut own).map_err(Error::cannot)?;
            own.drain(..own.len().saturating_sub(OWN));
            let who = identity(&port);
            one.held = port.state == HELD;
            if one.told.as_ref() != Some(&who) {
                one.told = Some(who);
                match tell(port, asked.json) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(code(&all)),
                    Err(error) => return Err(Error::cannot(format!("cannot write to stdout: {}", words(&error)))),
                    Ok(()) => {}
                }
            }
        }
        let stdout = io::stdout();
        // Nothing is asked of it: what comes all the same is that nobody reads any more.
        let mut polled = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
        polled.extend(events.as_ref().map(|events| PollFd::new(events.as_fd(), PollFlags::POLLIN)));
        if wait_readable(&mut polled, Some(next)).first() == Some(&true) {
            return Ok(code(&all));
        }
    }
}

/// As of `who` without a watch.
fn code(all: &[Watched<'_>]) -> Code {
    if all.iter().any(|one| one.held) { Code::NO } else { Code::OK }
}

/// The sockets on the port, as the kernel lists them; not the times that run there.
fn sockets(spec: &Spec) -> String {
    let look = holder::look(spec, Depth::Sockets);
    look.holders.iter().map(|one| format!("{:?} {:?} {};", one.state, one.uid, one.address)).collect()
}

/// What makes a line news: the state, and who holds it in which.
fn identity(port: &Port) -> String {
    let who = |line: &Line| format!("{:?} {} {:?} {:?};", line.pid, line.state, line.uid, line.address);
    format!("{} {}", port.state, port.holders.iter().map(who).collect::<String>())
}

fn tell(port: Port, as_json: bool) -> io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "the time of day is what a change is read by")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at = holder::timestamp(now);
    let line = if as_json {
        json(&Report { at: Some(at), ports: vec![port] }).map_err(|error| io::Error::other(error.to_string()))?
    } else {
        format!("{at} {}/{} {}\n", port.port, port.protocol, port.summary())
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush())
}
