//! Owns what exists on a machine besides the measured programs: other sockets, other processes. Must not know what they are for.

use std::io::{Read, Write, pipe};
use std::net::{Ipv4Addr, TcpStream};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{dup, pause};

use crate::fail::{Context, Outcome};
use crate::isolate::Companion;
use crate::world::sockets::listen_on;

/// This many TCP sockets: connections over loopback, of which both ends are held. They are closed on drop.
///
/// # Errors
/// No more can be opened.
pub fn sockets(count: usize) -> Outcome<Vec<Companion>> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("RLIMIT_NOFILE")?;
    // The limit on open files of a process is rarely high enough, so several processes share the crowd.
    let most = if hard > 20_000 { 9_900 } else { (hard as usize / 2).saturating_sub(100).max(1) };
    let mut holders = Vec::new();
    // Each has its own port, among those that no measurement uses.
    for port in 9.. {
        let pairs = (count / 2).saturating_sub(holders.len() * most).min(most);
        if pairs == 0 {
            break;
        }
        holders.push(connections(port, pairs)?);
    }
    Ok(holders)
}

fn connections(port: u16, pairs: usize) -> Outcome<Companion> {
    let (mut ready, mut tell) = pipe().context("pipe")?;
    let holder = Companion::start(|| {
        let listener = listen_on(port, 4096).context("a crowd of sockets")?;
        let mut ends = Vec::with_capacity(pairs);
        for number in 0..pairs {
            let outgoing = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
            let pair = outgoing.and_then(|end| Ok((end, listener.accept()?.0)));
            ends.push(pair.context(format_args!("connection {number} of {pairs}"))?);
        }
        tell.write_all(&[0]).context("a crowd of sockets")?;
        loop {
            pause();
        }
    })?;
    drop(tell);
    ready.read_exact(&mut [0]).context("no crowd of sockets")?;
    Ok(holder)
}

/// This many other programs, with thirteen descriptors each.
///
/// # Errors
/// No more processes can be created.
pub fn programs(count: usize) -> Outcome<Vec<Companion>> {
    let program = || {
        Companion::start(|| {
            // Three streams, both ends of the pipe for the result, and these.
            let _more: Vec<_> = (0..8).map(|_| dup(std::io::stderr())).collect();
            loop {
                pause();
            }
        })
    };
    (0..count).map(|_| program()).collect()
}
