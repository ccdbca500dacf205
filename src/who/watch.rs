//! Owns `who --watch`: prints a line whenever a port's holders change. Must not know how a holder is found or described.
//!
//! The kernel sends an event when a socket on these ports is destroyed, but none when one is created, so the sockets are also listed once
//! a second, which takes microseconds. Only a bind shows whether a port is free. It is tried only after a change: once a second, it would
//! sooner or later collide with an app's own bind.

use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags};

use super::print::json;
use super::report::{HELD, Line, Port, Report, check_noting};
use super::settings::Who;
use crate::error::{Error, words};
use crate::exit::Code;
use crate::port::claim;
use crate::port::holder::{self, Depth};
use crate::port::spec::Spec;
use crate::port::watch::Destroyed;
use crate::sys::descriptor::wait_readable;

/// How often the sockets are listed.
const TICK: Duration = Duration::from_secs(1);
/// How many of our own binds are remembered. Each one ends in an event that has to be ignored.
const OWN: usize = 64;

/// The last known state of a port.
struct Watched<'a> {
    spec: &'a Spec,
    v6_only: bool,
    /// The sockets from the last list.
    sockets: String,
    /// The holders last printed.
    printed: Option<String>,
    held: bool,
}

/// Prints until a signal arrives, or until the reader closes the pipe.
///
/// # Errors
/// `Cannot` (125): a port cannot be checked, or a line cannot be printed.
pub fn run(settings: &Who) -> Result<Code, Error> {
    crate::sys::signal::end_as_pid_1();
    let ports: Vec<_> = settings.ports.iter().map(|spec| (spec.port, spec.protocol)).collect();
    // Without netlink, only the timer triggers.
    let events = Destroyed::open(&ports).ok();
    let mut own = Vec::new();
    let mut all: Vec<Watched<'_>> = settings
        .ports
        .iter()
        .map(|spec| Watched {
            spec,
            v6_only: claim::v6_only(spec, &settings.ports),
            sockets: String::new(),
            printed: None,
            held: false,
        })
        .collect();
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        let ended: Vec<u16> = match events.as_ref().map(Destroyed::drain) {
            Some(Ok(drained)) if drained.lost => ports.iter().map(|(port, _)| *port).collect(),
            Some(Ok(drained)) => {
                drained.events.iter().filter(|event| !own.contains(&event.cookie)).map(|event| event.port).collect()
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
            if !ended && sockets == one.sockets && one.printed.is_some() {
                continue;
            }
            one.sockets = sockets;
            let port = check_noting(one.spec, one.v6_only, &mut own).map_err(Error::cannot)?;
            own.drain(..own.len().saturating_sub(OWN));
            let who = identity(&port);
            one.held = port.state == HELD;
            if one.printed.as_ref() != Some(&who) {
                one.printed = Some(who);
                match print(port, settings.json) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(exit_code(&all)),
                    Err(error) => return Err(Error::cannot(format!("cannot write to stdout: {}", words(&error)))),
                    Ok(()) => {}
                }
            }
        }
        let stdout = io::stdout();
        // No events are requested, so the only ones reported are errors: the reader has closed the pipe.
        let mut polled = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
        polled.extend(events.as_ref().map(|events| PollFd::new(events.as_fd(), PollFlags::POLLIN)));
        if wait_readable(&mut polled, Some(next)).first() == Some(&true) {
            return Ok(exit_code(&all));
        }
    }
}

/// The exit code, as of `who` without `--watch`.
fn exit_code(all: &[Watched<'_>]) -> Code {
    if all.iter().any(|one| one.held) { Code::NO } else { Code::OK }
}

/// The sockets on the port, as the kernel lists them. Without their timers, which would change every second.
fn sockets(spec: &Spec) -> String {
    let look = holder::look(spec, Depth::Sockets);
    look.holders.iter().map(|one| format!("{:?} {:?} {};", one.state, one.uid, one.address)).collect()
}

/// What counts as a change: the state, and the holders with their states.
fn identity(port: &Port) -> String {
    let who = |line: &Line| format!("{:?} {} {:?} {:?};", line.pid, line.state, line.uid, line.address);
    format!("{} {}", port.state, port.holders.iter().map(who).collect::<String>())
}

fn print(port: Port, as_json: bool) -> io::Result<()> {
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
