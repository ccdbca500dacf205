//! Owns the sockets that a service manager passed to reberth (`sd_listen_fds(3)`), which are passed on to the app. Must not know the ports
//! that reberth claims.

use std::os::fd::RawFd;

use tracing::warn;

use super::environment::Environment;
use crate::sys::descriptor;
use crate::sys::exec::FIRST_PASSED;
use crate::sys::process;

/// More than any service manager passes; a larger LISTEN_FDS is a mistake.
const MOST_PASSED: usize = 1024;

/// The sockets passed to reberth, as descriptors 3, 4, …
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activation {
    pub names: Vec<String>,
}

impl Activation {
    /// The sockets that are actually open. A number that was not open at startup may belong to one of reberth's own files by now.
    pub fn open(environment: &Environment) -> Self {
        let passed = Self::inherited(environment, process::pid());
        if passed.descriptors().all(descriptor::is_inherited) {
            return passed;
        }
        warn!("LISTEN_FDS={}: not all of these descriptors are open, so none of them is passed on", passed.names.len());
        Self::default()
    }

    /// What the environment says was passed to the process `pid`; nothing if the variables are invalid or meant for another process.
    pub fn inherited(environment: &Environment, pid: i32) -> Self {
        let value = |name: &str| environment.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.to_str());
        let ours = value("LISTEN_PID").and_then(|text| text.parse::<i32>().ok()) == Some(pid);
        let count =
            value("LISTEN_FDS").and_then(|text| text.parse::<usize>().ok()).filter(|count| *count <= MOST_PASSED);
        let count = if ours { count.unwrap_or(0) } else { 0 };
        let mut names = value("LISTEN_FDNAMES").unwrap_or_default().split(':');
        let name = || names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
        Self { names: std::iter::repeat_with(name).take(count).collect() }
    }

    /// The descriptors, in order.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        (FIRST_PASSED..).take(self.names.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_for_another_process_are_not_passed_on() {
        let environment = |pid: &str, fds: &str, names: &str| -> Environment {
            [("LISTEN_PID", pid), ("LISTEN_FDS", fds), ("LISTEN_FDNAMES", names)]
                .map(|(name, value)| (name.into(), value.into()))
                .into()
        };
        for (pid, fds, names, expected) in [
            ("7", "2", "a:b", vec!["a", "b"]),
            ("7", "2", "a", vec!["a", "unknown"]),
            ("7", "1", "", vec!["unknown"]),
            ("8", "2", "a:b", vec![]),
            ("7", "-1", "a", vec![]),
            ("7", "99999999999", "a", vec![]),
            ("7", "5000", "a", vec![]),
            ("", "", "", vec![]),
        ] {
            assert_eq!(Activation::inherited(&environment(pid, fds, names), 7).names, expected, "{pid} {fds} {names}");
        }
    }
}
