//! Owns what a run with these settings would do: its errors, the state of its ports, its probes, its exit code. Must not know how the
//! report is printed. Launches and writes nothing, and holds a port no longer than a bind takes.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::report::{ProbeLine, Report};
use super::settings::Check;
use super::values::{exact, listed, reported, wait};
use crate::app::environment::Environment;
use crate::app::launch;
use crate::app::settings::Run;
use crate::exit::Code;
use crate::port::attempt::{Attempt, Hold, Tried};
use crate::port::spec::Spec;
use crate::port::{advice, claim, fallback};
use crate::setting::table;
use crate::who::report as who;

/// What a run would do now.
pub fn judge(check: &Check, run: &Run, environment: &Environment) -> Report {
    let mut report = Report { warnings: check.warnings.clone(), ..Report::new() };
    report.settings = table::RUN.iter().map(|setting| reported(check, run, setting)).collect();
    report.command = run.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    report.health = probes(run);
    // In the order of a run.
    let mut code = Code::OK;
    let unwritable = unwritable(check, run);
    if !unwritable.is_empty() {
        code = Code::CANNOT;
        report.errors.extend(unwritable);
    }
    let mut busy = Vec::new();
    for spec in &run.ports {
        let v6_only = claim::v6_only(spec, &run.ports);
        // `who` reports on a port that it may not bind, but a run ends there.
        if let Tried::Never(error) = Attempt::new(spec, v6_only).bind() {
            report.errors.push(advice::never(spec, &error));
            code = Code::CANNOT;
            continue;
        }
        match who::check(spec, v6_only) {
            Ok(port) => {
                if port.is_held() {
                    busy.push(spec);
                }
                report.ports.push(port);
            }
            Err(line) => {
                report.errors.push(line);
                code = Code::CANNOT;
            }
        }
    }
    if code == Code::OK
        && let Some(error) = launch::precheck(&run.command, environment)
    {
        code = error.code();
        report.errors.extend(error.lines().iter().cloned());
    }
    let (outcome, held) = match code {
        Code::OK => outcome(run, &busy),
        _ => ("nothing would be launched".to_owned(), None),
    };
    report.outcome = outcome;
    report.code = held.unwrap_or(code).0;
    report
}

/// What a run would do if `busy` ports stay busy, and its exit code if it would not launch the app.
fn outcome(run: &Run, busy: &[&Spec]) -> (String, Option<Code>) {
    let after = if run.after.is_empty() {
        String::new()
    } else {
        format!(", once healthy within {}: {}", wait(run.after_wait), listed(&run.after))
    };
    if busy.is_empty() {
        return (format!("the app would be launched{after}"), None);
    }
    let names: Vec<String> = busy.iter().map(|spec| advice::label(spec)).collect();
    let (names, waits) = (names.join(", "), wait(run.wait));
    if let Some(share) = &run.share
        && busy.iter().all(|spec| crate::port::group::groups(spec).contains(&share.name))
    {
        return (
            format!("{names}: busy, and shared by the instances of {}: it would join them{after}", share.name),
            None,
        );
    }
    let mut avoid: Vec<u16> = run.ports.iter().map(|spec| spec.port).collect();
    let mut taken = Vec::new();
    for spec in busy {
        let found = fallback::find(spec, claim::v6_only(spec, &run.ports), Hold::Probe, run.fallback, &avoid);
        if let Some(port) = found.and_then(|found| found.port()) {
            avoid.push(port);
            taken.push(port.to_string());
        }
    }
    if taken.len() == busy.len() {
        return (format!("{names}: busy: after {waits} it would fall back to {}{after}", taken.join(", ")), None);
    }
    (
        format!("{names}: busy: it would wait for up to {waits}, and exit with 124 if that does not help"),
        Some(Code::TIMEOUT),
    )
}

/// What each probe would check, and what `run` itself checks.
fn probes(run: &Run) -> Vec<ProbeLine> {
    let place = run.ports.first().map_or_else(|| "no port".to_owned(), advice::label);
    let shown = |target: &crate::health::target::Target| {
        if target.needs_port() { format!("{target} on {place}") } else { target.to_string() }
    };
    let by = run.terms.as_ref().map_or_else(String::new, |terms| format!(" within {}", exact(terms.timeout)));
    let default = if run.ports.is_empty() { "whether the app runs".to_owned() } else { format!("/ on {place}{by}") };
    let readiness = run.health.as_ref().map_or_else(|| default.clone(), |target| format!("{}{by}", shown(target)));
    let liveness = run.liveness.as_ref().map_or_else(|| readiness.clone(), |target| format!("{}{by}", shown(target)));
    let own = match (&run.health, run.ports.is_empty()) {
        (Some(_), _) => format!("{readiness}, until it is healthy: then the app is ready"),
        (None, true) => "nothing: the app is ready when it is launched".to_owned(),
        (None, false) => format!("nothing: the app is ready when it listens on {place}"),
    };
    let mut all = vec![
        ProbeLine { probe: "readiness", asks: readiness },
        ProbeLine { probe: "liveness", asks: liveness },
        ProbeLine { probe: "run itself", asks: own },
    ];
    all.extend(run.after.iter().map(|target| ProbeLine { probe: "after", asks: target.to_string() }));
    all
}

/// The files and folders that a run could not write. Only checks permissions and writes nothing.
fn unwritable(check: &Check, run: &Run) -> Vec<String> {
    let may = |path: &Path| access(path, AccessFlags::W_OK).err();
    let folder = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut lines = Vec::new();
    let mut report = |flag: &str, path: &Path, problem: Option<nix::Error>| {
        let Some(problem) = problem else { return };
        let variable = table::of_flag(flag, false).map_or("", |setting| setting.variable);
        lines.push(format!(
            "--{flag} ({variable}) {}: cannot be written: {}",
            path.display(),
            problem.desc().to_lowercase()
        ));
    };
    if let Some(path) = &check.log.file {
        report("log-file", path, if path.exists() { may(path) } else { may(&folder(path)) });
    }
    if let Some(path) = &run.port_file {
        let is_folder = path.is_dir().then_some(nix::Error::EISDIR);
        report("port-file", path, is_folder.or_else(|| may(&folder(path))));
    }
    if let Some(path) = &run.state_dir {
        let no_folder = (path.exists() && !path.is_dir()).then_some(nix::Error::ENOTDIR);
        report("state-dir", path, no_folder.or_else(|| may(path)));
    }
    lines
}
