//! Owns which verdicts a probe may give in each phase of `run`: one pure table. Must not know where the phase comes from, or how to probe.

use crate::setting::value::word;
use crate::state::Phase;

/// The three probes of the kubelet.
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

/// What a phase decides about a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// The target decides.
    Ask,
    /// Healthy without a probe, and why.
    Pass(&'static str),
    /// Unhealthy without a probe, and why.
    Fail(&'static str),
}

/// Both waits share one phase; the log says which one it is.
const WAITS: &str = "run waits for a busy port, or for --after targets";

/// The table. Liveness passes before the app listens and while it drains, because a failure kills the container: a waiting `run` would
/// never get its port, and a draining app would not finish its pending requests.
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
