//! Owns `run --check`: the settings as they were understood, each with its source, what would be claimed, asked and launched, and the code
//! that a run would end with before its app's. Must not know how a run does any of it: nothing is launched or written here, and no port is
//! held for longer than a bind takes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use crate::app::environment::Environment;
use crate::app::launch;
use crate::app::settings::Run;
use crate::error::{Error, words};
use crate::exit::Code;
use crate::log::settings::Log;
use crate::port::attempt::{Attempt, Hold, Tried};
use crate::port::policy::{Fallback, Wait};
use crate::port::spec::Spec;
use crate::port::{advice, claim, fallback};
use crate::setting::{Source, table};
use crate::who::report as who;

/// What `run --check` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The settings, or all that is wrong with them.
    pub run: Result<Run, Vec<String>>,
    pub profile: &'static str,
    pub log: Log,
    pub warnings: Vec<String>,
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    /// What a run would end with now; 0: it would launch.
    code: u8,
    /// In one line, what would become of a run.
    outcome: String,
    settings: Vec<Setting>,
    ports: Vec<who::Port>,
    health: Vec<Question>,
    command: Vec<String>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Setting {
    setting: &'static str,
    value: String,
    /// `flag`, `variable`, `profile` or `default`.
    source: &'static str,
    /// What has to be changed for another value.
    place: String,
}

#[derive(Debug, Serialize)]
struct Question {
    probe: &'static str,
    asks: String,
}

/// Prints what a run would do, and gives the code that it would end with.
///
/// # Errors
/// `Cannot` (125): it cannot be printed. A reader that went away is no error.
pub fn run(check: &Check, environment: &Environment) -> Result<Code, Error> {
    let report = match &check.run {
        Ok(run) => judge(check, run, environment),
        Err(lines) => Report {
            code: Code::CANNOT.0,
            outcome: "nothing would be launched: bad settings".to_owned(),
            errors: lines.clone(),
            warnings: check.warnings.clone(),
            ..Report::new()
        },
    };
    let text = if check.json {
        let text = serde_json::to_string(&report);
        text.map_err(|error| Error::cannot(format!("cannot write JSON: {error}")))? + "\n"
    } else {
        page(&report)
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::cannot(format!("cannot write to stdout: {}", words(&error))))
        }
        _ => Ok(Code(report.code)),
    }
}

impl Report {
    fn new() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            code: 0,
            outcome: String::new(),
            settings: Vec::new(),
            ports: Vec::new(),
            health: Vec::new(),
            command: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

fn judge(check: &Check, run: &Run, environment: &Environment) -> Report {
    let mut report = Report { warnings: check.warnings.clone(), ..Report::new() };
    report.settings = table::RUN.iter().map(|setting| understood(check, run, setting)).collect();
    report.command = run.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    report.health = questions(run);
    // In the order in which a run finds out.
    let mut code = Code::OK;
    let unwritable = unwritable(check, run);
    if !unwritable.is_empty() {
        code = Code::CANNOT;
        report.errors.extend(unwritable);
    }
    let mut busy = Vec::new();
    for spec in &run.ports {
        let v6_only = claim::v6_only(spec, &run.ports);
        // Whoever asks `who` is told of a port that may not be bound; a run ends there.
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
        && let Some(error) = launch::hopeless(&run.command, environment)
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

/// What would become of a run whose ports are these, some of them busy; the code where it ends in one.
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
        format!("{names}: busy: it would wait for up to {waits}, and end in 124 if that does not help"),
        Some(Code::TIMEOUT),
    )
}

/// What would be asked for health, and who asks.
fn questions(run: &Run) -> Vec<Question> {
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
        Question { probe: "readiness", asks: readiness },
        Question { probe: "liveness", asks: liveness },
        Question { probe: "run itself", asks: own },
    ];
    all.extend(run.after.iter().map(|target| Question { probe: "after", asks: target.to_string() }));
    all
}

/// The files and folders that a run could not write. Only asked: nothing is written.
fn unwritable(check: &Check, run: &Run) -> Vec<String> {
    let may = |path: &Path| access(path, AccessFlags::W_OK).err();
    let folder = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut lines = Vec::new();
    let mut tell = |flag: &str, path: &Path, problem: Option<nix::Error>| {
        let Some(problem) = problem else { return };
        let variable = table::of_flag(flag, false).map_or("", |setting| setting.variable);
        lines.push(format!(
            "--{flag} ({variable}) {}: cannot be written: {}",
            path.display(),
            problem.desc().to_lowercase()
        ));
    };
    if let Some(path) = &check.log.file {
        tell("log-file", path, if path.exists() { may(path) } else { may(&folder(path)) });
    }
    if let Some(path) = &run.port_file {
        let is_folder = path.is_dir().then_some(nix::Error::EISDIR);
        tell("port-file", path, is_folder.or_else(|| may(&folder(path))));
    }
    if let Some(path) = &run.state_dir {
        let no_folder = (path.exists() && !path.is_dir()).then_some(nix::Error::ENOTDIR);
        tell("state-dir", path, no_folder.or_else(|| may(path)));
    }
    lines
}

fn understood(check: &Check, run: &Run, setting: &'static table::Setting) -> Setting {
    let source = run.sources.of(setting.flag);
    let implied = if source == Source::Default { implied(run, setting.flag) } else { None };
    let (source, place) = implied.unwrap_or_else(|| (source, source.place(setting.flag, setting.variable)));
    Setting {
        setting: setting.flag,
        value: value(check, run, setting.flag).unwrap_or_else(|| setting.default.to_owned()),
        source: source.name(),
        place,
    }
}

/// What decided in place of a default, where another setting did: a handover.
fn implied(run: &Run, flag: &str) -> Option<(Source, String)> {
    if flag != "handover" {
        return None;
    }
    let by = if run.handover.passes_descriptors() {
        return Some((Source::Flag, "{fd} in an argument".to_owned()));
    } else if run.prewarm {
        "prewarm"
    } else if run.share.is_some() {
        "share"
    } else {
        return None;
    };
    let setting = table::RUN.iter().find(|setting| setting.flag == by)?;
    let source = run.sources.of(by);
    Some((source, source.place(setting.flag, setting.variable)))
}

/// A setting's value as it was understood, in a form that means the same again. `None`: it is not set, and the table has the words for that.
fn value(check: &Check, run: &Run, flag: &str) -> Option<String> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let register = run.register.as_deref();
    Some(match flag {
        "port" if run.ports.is_empty() => "none".to_owned(),
        "port" => listed(&run.ports),
        "profile" => check.profile.to_owned(),
        "wait" => wait(run.wait),
        "fallback" => match run.fallback {
            Fallback::None => "none".to_owned(),
            Fallback::Next(count) => format!("next:{count}"),
            Fallback::Any => "any".to_owned(),
        },
        "backoff" => format!("{}..{}", exact(run.backoff.min), exact(run.backoff.max)),
        "handover" => run.handover.word().to_owned(),
        "prewarm" => on_off(run.prewarm),
        "share" => run.share.as_ref()?.name.clone(),
        "share-secret-file" => path(&run.share.as_ref()?.secret_file)?,
        "relaunch" => run.relaunch.to_string(),
        "port-file" => path(&run.port_file)?,
        "log-file" => path(&check.log.file)?,
        "log" => format!("{:?}", check.log.level).to_lowercase(),
        "log-format" => format!("{:?}", check.log.format).to_lowercase(),
        "exec" => on_off(run.exec),
        "signal-scope" => format!("{:?}", run.signal_scope).to_lowercase(),
        "signal-map" if run.stop.signal_map.0.is_empty() => return None,
        "signal-map" => {
            let name = |signal: i32| crate::sys::signal::name(signal);
            let pair = |(from, to): &(i32, Option<i32>)| {
                format!("{}={}", name(*from), to.map_or_else(|| "none".to_owned(), name))
            };
            run.stop.signal_map.0.iter().map(pair).collect::<Vec<_>>().join(",")
        }
        "exit-map" if run.stop.exit_map.0.is_empty() => return None,
        "exit-map" => run.stop.exit_map.0.iter().map(|(from, to)| format!("{from}={to}")).collect::<Vec<_>>().join(","),
        "drain" => exact(run.stop.drain),
        "grace" => exact(run.stop.grace),
        "parent-death-signal" => crate::sys::signal::name(run.parent_death_signal?),
        "health" => run.health.as_ref()?.to_string(),
        "liveness" => run.liveness.as_ref()?.to_string(),
        "start-timeout" => exact(run.start_timeout?),
        "after" if run.after.is_empty() => return None,
        "after" => listed(&run.after),
        "after-wait" => wait(run.after_wait),
        "exit-on-unhealthy" => exact(run.exit_on_unhealthy?.every),
        "unhealthy-failures" => run.exit_on_unhealthy?.failures.to_string(),
        "register" => register?.registries.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        "advertise" => {
            let advertise = register?.advertise.as_ref()?;
            advertise
                .port
                .map_or_else(|| advertise.host.clone(), |port| crate::register::place::authority(&advertise.host, port))
        }
        "register-metadata" if register?.metadata.is_empty() => return None,
        "register-metadata" => {
            register?.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
        }
        "register-ttl" => exact(register?.ttl),
        "state-dir" => path(&run.state_dir)?,
        _ => return None,
    })
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

fn listed<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn wait(wait: Wait) -> String {
    match wait {
        Wait::Forever => "forever".to_owned(),
        Wait::For(time) => exact(time),
    }
}

/// `1m30s`, `250ms`: what a duration is written like, with nothing rounded but what is below a millisecond.
fn exact(time: Duration) -> String {
    let mut text = String::new();
    let all = time.as_secs();
    // Two minutes are easily read in seconds, and that is how most are written.
    let (minutes, seconds) = if all < 120 { (0, all) } else { (all / 60, all % 60) };
    for (unit, count) in [("h", minutes / 60), ("m", minutes % 60), ("s", seconds)] {
        if count > 0 {
            let _ = write!(text, "{count}{unit}");
        }
    }
    if time.subsec_millis() > 0 {
        let _ = write!(text, "{}ms", time.subsec_millis());
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The report for people. Where a setting is not set, its line says so; those that are set come first.
fn page(report: &Report) -> String {
    let mut text = String::new();
    // A String takes everything: there is no error to look at.
    let mut put = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    for error in &report.errors {
        put(format!("error: {error}"));
    }
    for warning in &report.warnings {
        put(format!("warning: {warning}"));
    }
    let width = report.settings.iter().map(|setting| setting.value.chars().count().min(40)).max().unwrap_or_default();
    for setting in &report.settings {
        put(format!("{:20} {:width$}  {}", setting.setting, setting.value, setting.place));
    }
    for port in &report.ports {
        let what = if port.port == 0 { "any free port".to_owned() } else { port.summary() };
        put(format!("{:20} {what}", format!("{}/{}", port.port, port.protocol)));
        port.advice.iter().for_each(|advice| put(format!("{:20} {advice}", "")));
    }
    for question in &report.health {
        put(format!("{:20} asks {}", question.probe, question.asks));
    }
    if !report.command.is_empty() {
        put(format!("{:20} {}", "command", report.command.join(" ")));
    }
    put(format!("{} (exit code {})", report.outcome, report.code));
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::config::{Mode, decide};

    fn check(list: &[&str], vars: &[(&str, &str)]) -> Check {
        let words = ["reberth", "run", "--check"].iter().chain(list).map(OsString::from).collect::<Vec<_>>();
        let environ: Vec<_> = vars.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        match decide(&words, &environ).mode {
            Ok(Mode::Check(check)) => *check,
            other => panic!("{list:?}: {other:?}"),
        }
    }

    /// A value of each setting that is not its default, and what it is understood as.
    const SET: [(&str, &str, &str); 33] = [
        ("port", "web=127.0.0.1:080,[::1]:81/udp", "web=127.0.0.1:80,[::1]:81/udp"),
        ("profile", "DEV", "dev"),
        ("wait", "130s", "2m10s"),
        ("fallback", "next", "next:100"),
        ("backoff", "5ms..1.5s", "5ms..1s500ms"),
        ("handover", "bind", "bind"),
        ("prewarm", "yes", "on"),
        ("share", "api", "api"),
        ("share-secret-file", "/secret", "/secret"),
        ("relaunch", "7", "7"),
        ("port-file", "/a/b", "/a/b"),
        ("log-file", "/l", "/l"),
        ("log", "WARN", "warn"),
        ("log-format", "json", "json"),
        ("exec", "1", "on"),
        ("signal-scope", "group", "group"),
        ("signal-map", "15=QUIT,HUP=0", "SIGTERM=SIGQUIT,SIGHUP=none"),
        ("exit-map", "143=0", "143=0"),
        ("drain", "5s", "5s"),
        ("grace", "0", "0s"),
        ("parent-death-signal", "KILL", "SIGKILL"),
        ("health", "/ready", "/ready"),
        ("liveness", "tcp", "tcp"),
        ("start-timeout", "120s", "2m"),
        ("after", "dns:a,tcp://b:1", "dns:a,tcp://b:1"),
        ("after-wait", "forever", "forever"),
        ("exit-on-unhealthy", "10s", "10s"),
        ("unhealthy-failures", "5", "5"),
        ("register", "etcd://e/p", "etcd://e:2379/p"),
        ("advertise", "a:1", "a:1"),
        ("register-metadata", "k=v", "k=v"),
        ("register-ttl", "30s", "30s"),
        ("state-dir", "/s", "/s"),
    ];

    #[test]
    fn every_setting_is_told_with_its_value_and_its_source() {
        assert_eq!(SET.map(|(flag, ..)| flag), table::RUN.map(|setting| setting.flag), "a new setting is told as well");
        let beside_pid_1 = ["register", "advertise", "register-metadata", "register-ttl"];
        for (flag, given, wanted) in SET {
            if cfg!(not(feature = "register")) && beside_pid_1.contains(&flag) {
                continue;
            }
            // What some of them need beside them.
            let beside: &[&str] = match flag {
                "share-secret-file" => &["--share", "api", "--port", "80"],
                "unhealthy-failures" => &["--exit-on-unhealthy", "1s", "--port", "80"],
                "advertise" | "register-metadata" | "register-ttl" => &["--register", "etcd://e/p", "--port", "80"],
                "port" | "exec" | "profile" => &[],
                _ => &["--port", "80"],
            };
            let setting = table::of_flag(flag, false).unwrap();
            let typed = format!("--{flag}={given}");
            let by_flag = check(&[beside, &[&typed, "app"]].concat(), &[]);
            let by_variable = check(&[beside, &["app"]].concat(), &[(setting.variable, given)]);
            for (check, source, place) in
                [(by_flag, "flag", format!("--{flag}")), (by_variable, "variable", setting.variable.to_owned())]
            {
                let run = check.run.as_ref().unwrap_or_else(|lines| panic!("{flag}: {lines:?}"));
                let told = understood(&check, run, setting);
                assert_eq!((told.value.as_str(), told.source, told.place), (wanted, source, place), "{flag}");
            }
            let unset = check(&["app"], &[]);
            let told = understood(&unset, unset.run.as_ref().unwrap(), setting);
            assert_eq!((told.source, told.place.as_str()), ("default", "the default"), "{flag}");
            // The words of the table, or the value that they stand for.
            let same = told.value == setting.default || ["PORT, else none", "auto", "/"].contains(&setting.default);
            assert!(same || exact_of(&told.value) == exact_of(setting.default), "{flag}: {}", told.value);
        }
    }

    fn exact_of(text: &str) -> Option<Duration> {
        crate::setting::value::duration(text).ok()
    }

    #[test]
    fn ports_and_profiles_have_their_own_sources() {
        let place = |check: &Check, flag: &str| {
            understood(check, check.run.as_ref().unwrap(), table::of_flag(flag, false).unwrap()).place
        };
        assert_eq!(place(&check(&["app"], &[("PORT", "80")]), "port"), "PORT");
        assert_eq!(place(&check(&["app"], &[("PORT", "tcp://10.0.0.1:80")]), "port"), "the default");
        let dev = check(&["--profile", "dev", "--fallback", "any", "app"], &[]);
        assert_eq!((place(&dev, "wait"), place(&dev, "fallback")), ("--profile".into(), "--fallback".into()));
        assert_eq!(place(&check(&["app"], &[("REBERTH_PROFILE", "test")]), "port"), "REBERTH_PROFILE");
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for (millis, wanted) in [(0, "0s"), (250, "250ms"), (75_000, "75s"), (3_600_000, "1h"), (1500, "1s500ms")] {
            let time = Duration::from_millis(millis);
            assert_eq!(exact(time), wanted);
            assert_eq!(crate::setting::value::duration(wanted), Ok(time));
        }
    }
}
