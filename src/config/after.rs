//! Owns how `--after` and `--exit-on-unhealthy` are decided. Must not know what they do.

use std::ffi::OsString;
use std::time::Duration;

use super::reader::{Reader, from};
use crate::app::after::target;
use crate::app::liveness::{self, ExitOnUnhealthy};
use crate::app::settings::Run;
use crate::cli;
use crate::env::Environ;
use crate::health::target::Target;
use crate::setting::value::number;

/// The default of `--unhealthy-failures`: as the kubelet's failureThreshold and Docker's retries.
const FAILURES: u32 = 3;

/// The targets of the `--after` flags, separated by commas, or else of the variable, separated by commas and white space. Without duplicates.
pub fn targets(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ) -> Vec<Target> {
    let mut found = Vec::new();
    let mut take = |reader: &mut Reader<'_>, flag: Option<OsString>, variable: &Option<String>| {
        let white = flag.is_none();
        let separates = |letter: char| letter == ',' || white && letter.is_whitespace();
        let list = |text: &str| {
            let mut list = Vec::new();
            for one in text.split(separates).filter(|one| !one.is_empty()) {
                list.push(target(one)?);
            }
            Ok(list)
        };
        for target in reader.read("after", from(&flag, variable), list).unwrap_or_default() {
            if !found.contains(&target) {
                found.push(target);
            }
        }
    };
    for flag in &cli.after {
        take(reader, Some(flag.clone()), &None);
    }
    if cli.after.is_empty() {
        take(reader, None, &environ.run.after);
    }
    found
}

/// `--exit-on-unhealthy` and `--unhealthy-failures`. `off` and `0` disable it, so that a flag can override a variable.
pub fn exit_on_unhealthy(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ) -> Option<ExitOnUnhealthy> {
    let vars = &environ.run;
    let every: Option<Duration> = reader
        .read("exit-on-unhealthy", from(&cli.exit_on_unhealthy, &vars.exit_on_unhealthy), liveness::every)
        .flatten();
    let failures = from(&cli.unhealthy_failures, &vars.unhealthy_failures);
    let failures = reader.read("unhealthy-failures", failures, |text| number(text, 1, u32::MAX)).unwrap_or(FAILURES);
    every.map(|every| ExitOnUnhealthy { every, failures })
}

/// What `--exit-on-unhealthy` requires and excludes. A bad target has its own error, so it counts as set here.
pub fn check(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ, run: &Run) {
    if run.exit_on_unhealthy.is_none() {
        return;
    }
    let vars = &environ.run;
    let label = reader.label("exit-on-unhealthy", from(&cli.exit_on_unhealthy, &vars.exit_on_unhealthy));
    if run.exec {
        reader.errors.push(format!(
            "{label}: reberth must stay to probe the app, and with --exec (REBERTH_EXEC) it does not: leave one of them out"
        ));
    }
    let target = run.liveness.as_ref().or(run.health.as_ref());
    let is_bad = target.is_none() && [&cli.health, &cli.liveness].iter().any(|flag| flag.is_some())
        || target.is_none() && [&vars.health, &vars.liveness].iter().any(|variable| variable.is_some());
    if run.ports.is_empty() && !is_bad && target.is_none_or(Target::needs_port) {
        reader.errors.push(format!(
            "{label}: there is nothing to probe: set a port (--port, REBERTH_PORT) or a full target (--liveness http://…)"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Decision, Mode, decide};
    use super::*;
    use crate::error::Error;
    use crate::port::policy::Wait;

    fn decision(list: &[&str], vars: &[(&str, &str)]) -> Decision {
        let words = ["reberth", "run"].iter().chain(list).chain(&["--", "app"]);
        let environ: Vec<_> = vars.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        decide(&words.map(OsString::from).collect::<Vec<_>>(), &environ)
    }

    fn run(list: &[&str], vars: &[(&str, &str)]) -> Run {
        match decision(list, vars).mode {
            Ok(Mode::Run(run)) => *run,
            other => panic!("{list:?} {vars:?}: {other:?}"),
        }
    }

    #[test]
    fn lists() {
        let targets = |list: &[&str], vars: &[(&str, &str)]| -> Vec<String> {
            run(list, vars).after.iter().map(ToString::to_string).collect()
        };
        let variable = [("REBERTH_AFTER", "tcp://a:1, dns:b\n file:/c%2cd\t\n,redis://e")];
        assert_eq!(targets(&[], &variable), ["tcp://a:1", "dns:b", "file:/c,d", "redis://e:6379"]);
        let flags = ["--after", "tcp://a:1,dns:b", "--after=file:/c d", "--after", "dns:b"];
        assert_eq!(targets(&flags, &variable), ["tcp://a:1", "dns:b", "file:/c d"]);
        assert_eq!(targets(&[], &[("REBERTH_AFTER", "")]), [""; 0]);
        assert_eq!(targets(&["--after", ":8080/ready"], &[]), ["http://localhost:8080/ready"]);
    }

    #[test]
    fn waits_and_intervals() {
        let second = Duration::from_secs(1);
        assert_eq!(run(&[], &[]).after_wait, Wait::For(60 * second));
        assert_eq!(run(&["--after-wait", "forever"], &[]).after_wait, Wait::Forever);
        assert_eq!(run(&[], &[("REBERTH_AFTER_WAIT", "0s")]).after_wait, Wait::For(Duration::ZERO));
        let port = ("PORT", "80");
        let every = ("REBERTH_EXIT_ON_UNHEALTHY", "5s");
        let beat = |failures| Some(ExitOnUnhealthy { every: 5 * second, failures });
        assert_eq!(run(&[], &[port, every]).exit_on_unhealthy, beat(3));
        assert_eq!(run(&["--unhealthy-failures", "1"], &[port, every]).exit_on_unhealthy, beat(1));
        assert_eq!(run(&["--exit-on-unhealthy", "off"], &[port, every]).exit_on_unhealthy, None);
        assert_eq!(run(&["--liveness", "tcp://db:1"], &[every]).exit_on_unhealthy, beat(3));
        assert!(run(&[], &[port, every]).terms.is_some() && run(&["--after", "dns:a"], &[]).terms.is_some());
        assert!(run(&[], &[port]).terms.is_none());
    }

    #[test]
    fn bad_values() {
        for (list, vars, wanted) in [
            (
                &["--after", "/ready"][..],
                &[][..],
                "--after /ready: /ready: on the app's own port the old instance would answer",
            ),
            (&["--after", "dns:a,tcp"], &[], "--after dns:a,tcp: tcp: on the app's own port"),
            (&[], &[("REBERTH_AFTER", "grpc")], "REBERTH_AFTER=grpc: grpc: on the app's own port"),
            (&["--after", "db:5432"], &[], "did you mean http://db:5432?"),
            (&["--after-wait", "60"], &[], "--after-wait 60"),
            (&["--unhealthy-failures", "0"], &[], "--unhealthy-failures 0"),
            (&["--exit-on-unhealthy", "5"], &[("PORT", "80")], "--exit-on-unhealthy 5"),
            (&["--exit-on-unhealthy", "5s"], &[], "there is nothing to probe"),
            (&["--exit-on-unhealthy", "5s", "--health", "/x"], &[], "there is nothing to probe"),
            (&["--exit-on-unhealthy", "5s", "--exec"], &[("PORT", "80")], "with --exec (REBERTH_EXEC) it does not"),
        ] {
            let lines = match decision(list, vars).mode {
                Err(Error::Settings(lines)) => lines,
                other => panic!("{list:?} {vars:?}: {other:?}"),
            };
            assert!(lines.len() == 1 && lines[0].contains(wanted), "{list:?} {vars:?}: {lines:?}");
        }
    }
}
