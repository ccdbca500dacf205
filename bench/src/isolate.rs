//! Owns the process in which a measurement runs: small, and alone in a network namespace. Must not know what is measured.
//!
//! A child's "max RSS" is never below what its parent had when the child was started (`vfork` lends it the parent's memory until the exec),
//! so the process that starts what is measured must be small. A forked process is: it starts without the pages of the program's file, and
//! loads only those that it uses.

use std::io::{Read, Write, pipe};
use std::os::fd::AsFd;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, Socket, Type};

use crate::fail::{Context, Outcome, fail};
use crate::sys;

/// A forked process that dies with its parent.
pub struct Companion(Pid);

impl Companion {
    /// Runs `life` in a separate process, which exits after it, or with this one.
    ///
    /// # Errors
    /// No process could be created.
    pub fn start(life: impl FnOnce() -> Outcome<()>) -> Outcome<Self> {
        let parent = getpid();
        let pid = sys::forked(|| {
            if set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != parent {
                return 1;
            }
            life().map_or_else(
                |failure| {
                    eprintln!("bench: {failure}");
                    1
                },
                |()| 0,
            )
        });
        Ok(Self(pid.context("fork")?))
    }

    pub fn pid(&self) -> Pid {
        self.0
    }

    /// Waits until it has exited by itself.
    pub fn wait(self) {
        let _ = sys::wait4(self.0, true);
        std::mem::forget(self);
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, Signal::SIGKILL);
        let _ = sys::wait4(self.0, true);
    }
}

/// Runs `work` in a separate process, and returns its result.
///
/// # Errors
/// The error of `work`; or the process died without a result.
pub fn in_process<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    sys::give_back_memory();
    let (mut reader, mut writer) = pipe().context("pipe")?;
    let companion = Companion::start(|| {
        let found = work().map_err(|failure| failure.to_string());
        let text = serde_json::to_vec(&found).context("what was found")?;
        writer.write_all(&text).context("what was found")
    })?;
    drop(writer);
    let mut text = Vec::new();
    reader.read_to_end(&mut text).context("what was found")?;
    companion.wait();
    match serde_json::from_slice::<Result<T, String>>(&text) {
        Ok(found) => found.or_else(fail),
        Err(_) => fail("the measurement ended without a word"),
    }
}

/// The same, in a network namespace with only loopback: no port is in use, and no other traffic causes wake-ups.
///
/// # Errors
/// As [`in_process`].
pub fn in_network<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    in_process(|| {
        // Without the permission to create one, the machine's own namespace is used.
        if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).context("a socket")?;
            sys::bring_up_loopback(socket.as_fd()).context("loopback cannot be brought up")?;
        }
        work()
    })
}

/// From now on, everything this process starts lives in namespaces like a container's. The first process is PID 1 there, and must mount its
/// /proc.
///
/// # Errors
/// Not root.
pub fn own_processes() -> Outcome<()> {
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).context("namespaces of its own")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("namespaces of its own")
}

/// The same without a mount namespace.
///
/// # Errors
/// Not root.
pub fn own_pids() -> Outcome<()> {
    unshare(CloneFlags::CLONE_NEWPID).context("a PID namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_or_failed_comes_back() {
        assert_eq!(in_process(|| Ok(vec![(1_i64, "a".to_owned())])).unwrap(), [(1, "a".to_owned())]);
        assert_eq!(in_process(|| fail::<i64>("no port")).unwrap_err().to_string(), "no port");
        assert_eq!(
            in_process::<i64>(|| {
                nix::sys::signal::raise(Signal::SIGKILL).unwrap();
                Ok(1)
            })
            .unwrap_err()
            .to_string(),
            "the measurement ended without a word"
        );
    }
}
