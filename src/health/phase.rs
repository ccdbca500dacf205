//! Owns what the phase of `run` allows a probe: one pure table. Must not know where the phase was read or how a probe asks.

use crate::setting::value::word;
use crate::state::Phase;

/// Which of kubelet's three questions is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Probe {
    #[default]
    Readiness,
    Liveness,
    Startup,
}

/// The text form of `--probe`.
pub fn probe(text: &str) -> Result<Probe, String> {
    word(text, &[("readiness", Probe::Readiness), ("liveness", Probe::Liveness), ("startup", Probe::Startup)])
}

/// What is to be done with a probe in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// The target decides.
    Ask,
    /// Healthy without asking, and why.
    Pass(&'static str),
    /// Unhealthy without asking, and why.
    Fail(&'static str),
}

/// The phase is one for both waits: which it is, the log says.
const WAITS: &str = "run waits for a busy port, or for what --after names";

/// The table. Liveness passes while nothing may be asked yet or any more, because its failure kills the container: a waiting `run`
/// would never get its port, a draining one never end in peace.
pub fn rule(phase: Phase, probe: Probe) -> Ruling {
    match (phase, probe) {
        (Phase::Waiting, Probe::Liveness) => Ruling::Pass(WAITS),
        (Phase::Waiting, _) => Ruling::Fail(WAITS),
        (Phase::Starting, Probe::Liveness) => Ruling::Pass("the app is starting"),
        (Phase::Starting | Phase::Ready | Phase::Exec, _) => Ruling::Ask,
        (Phase::Draining, Probe::Readiness) => Ruling::Fail("the app is draining before it stops"),
        (Phase::Draining, _) => Ruling::Pass("the app is draining before it stops"),
        (Phase::Exited, _) => Ruling::Fail("the app has exited"),
        (Phase::Keeping, _) => Ruling::Pass("keep holds the ports"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let word = |ruling| match ruling {
            Ruling::Ask => "ask",
            Ruling::Pass(_) => "pass",
            Ruling::Fail(_) => "fail",
        };
        for (phase, startup, liveness, readiness) in [
            (Phase::Waiting, "fail", "pass", "fail"),
            (Phase::Starting, "ask", "pass", "ask"),
            (Phase::Ready, "ask", "ask", "ask"),
            (Phase::Draining, "pass", "pass", "fail"),
            (Phase::Exited, "fail", "fail", "fail"),
            (Phase::Exec, "ask", "ask", "ask"),
            (Phase::Keeping, "pass", "pass", "pass"),
        ] {
            let got = [Probe::Startup, Probe::Liveness, Probe::Readiness].map(|probe| word(rule(phase, probe)));
            assert_eq!(got, [startup, liveness, readiness], "{phase:?}");
        }
    }
}
