//! Owns `reberth keep`: it holds the ports of a name, without an app, until it is stopped. Must not know how a port is claimed, or how
//! others use it.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use tracing::{debug, info, warn};

use super::announce::{Taken, announce, publish, state};
use super::early_signals;
use super::handover::Handover;
use super::ports::Claimant;
use super::settings::Run;
use super::sharing::{self, Sharing};
use super::supervisor::{self, Effect};
use crate::error::Error;
use crate::exit::Code;
use crate::port::file;
use crate::port::spec::Protocol;
use crate::state::{Phase, Publisher};
use crate::sys::descriptor::wait_readable;
use crate::sys::memory;
use crate::sys::process;
use crate::sys::signal::{self, Signals};

/// The least time between two releases of memory.
const SETTLED: Duration = Duration::from_secs(10);

/// Holds the ports until TERM, INT or QUIT, which make it exit with 0.
///
/// # Errors
/// Whatever prevents it from claiming the ports.
#[inline(never)]
pub fn keep(config: &Run, signals: &Signals) -> Result<Code, Error> {
    let port_file = config.port_file.as_deref().map(file::check).transpose()?;
    let mut publisher = Publisher::open(config.state_dir.as_deref(), &state(config, Phase::Waiting, &[]))?;
    let result = hold(config, signals, &mut publisher, port_file.as_deref());
    publisher.remove();
    result
}

fn hold(
    config: &Run,
    signals: &Signals,
    publisher: &mut Publisher,
    port_file: Option<&std::path::Path>,
) -> Result<Code, Error> {
    let group = config.share.as_ref().map(|share| sharing::group(share, true)).transpose()?;
    let Some(group) = group else { return Err(Error::cannot("keep: a name is missing: set --share NAME")) };
    let claimant = Claimant { config, handover: Handover::Descriptors, group: Some(&group) };
    let mut claims = match claimant.wait(signals, publisher, &|| None)? {
        ControlFlow::Continue(claims) => claims,
        // A signal ended the wait: there is nothing to release.
        ControlFlow::Break(code) => return Ok(code),
    };
    let taken = Taken::of(&claims);
    let mut sharing = Sharing::begin(group, &mut claims).map_err(|error| sharing::cannot("kept", &error))?;
    // `sharing` has its own copies.
    drop(claims);
    announce(port_file, &taken)?;
    warn_of_families(&sharing);
    warn_of_datagrams(&sharing);
    publish(publisher, &state(config, Phase::Keeping, &taken));
    let _ = std::env::set_current_dir("/");
    let mut released = None;
    loop {
        sleep(signals.as_fd(), &sharing, &mut released);
        sharing.step(Instant::now());
        if let ControlFlow::Break(code) = take_signals(config, signals) {
            return Ok(code);
        }
    }
}

/// Sleeps until there is something to do. Before a long sleep, the memory it does not need is released.
fn sleep(signals: BorrowedFd<'_>, sharing: &Sharing, released: &mut Option<Instant>) {
    let mut fds = vec![PollFd::new(signals, PollFlags::POLLIN)];
    fds.extend(sharing.polled());
    let until = sharing.deadline();
    if until.is_none() && released.is_none_or(|at| at.elapsed() >= SETTLED) {
        *released = Some(Instant::now());
        memory::release_code();
    }
    wait_readable(&mut fds, until);
}

fn take_signals(config: &Run, signals: &Signals) -> ControlFlow<Code> {
    while let Some(received) = signals.next() {
        // As PID 1, reberth inherits orphans.
        if received.signal == libc::SIGCHLD {
            early_signals::reap(&mut |_, _| {});
            continue;
        }
        let own = i32::try_from(received.sender) == Ok(process::pid());
        let (map, death) = (&config.stop.signal_map, config.parent_death_signal);
        match supervisor::effect_without_app(map, received.signal, death, |signal| signals.was_ignored(signal)) {
            Effect::Terminates(stop) if supervisor::requests_stop(stop) => {
                info!("{} received: the ports are released", signal::name(received.signal));
                return ControlFlow::Break(Code::OK);
            }
            Effect::Terminates(stop) if !own => return ControlFlow::Break(Code::signalled(stop)),
            Effect::Suspends if process::pid() != 1 => signal::suspend(),
            _ => debug!("{} ignored", signal::name(received.signal)),
        }
    }
    ControlFlow::Continue(())
}

/// An app that binds IPv4 is given the one socket there is, even if that is dual-stack.
fn warn_of_families(sharing: &Sharing) {
    for (spec, socket) in sharing.sockets() {
        let both = socket2::SockRef::from(&socket).only_v6().is_ok_and(|only| !only);
        if spec.addr.is_none() && both {
            warn!(
                "port {0} is kept for both families: an app that binds IPv4 sees its clients as ::ffff:…; for an app of one family, name the \
                 address in --port (0.0.0.0:{0})",
                spec.port
            );
        }
    }
}

/// Only TCP binds are intercepted.
fn warn_of_datagrams(sharing: &Sharing) {
    for (spec, _) in sharing.sockets().filter(|(spec, _)| spec.protocol == Protocol::Udp) {
        warn!(
            "port {0}/udp is kept for apps that take it by descriptor ({{fd}}, LISTEN_FDS); one that binds it by itself waits in vain while keep runs: \
             leave {0}/udp out of --port (REBERTH_PORT) for such an app",
            spec.port
        );
    }
}
