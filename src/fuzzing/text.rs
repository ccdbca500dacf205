//! Owns the checks of what the user writes: arguments, variables, values, templates. Must not know what a setting does.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use super::is_one_line;
use crate::app::activation::Activation;
use crate::app::app_port::AppPort;
use crate::app::environment;
use crate::app::handover::Handover;
use crate::app::settings::Run;
use crate::app::signal;
use crate::app::templates;
use crate::cli::{self, Plain};
use crate::config::{Mode, decide};
use crate::error::Error;
use crate::health::settings::Healthcheck;
use crate::health::target::Target;
use crate::health::url::Url;
use crate::port::claim::ascending;
use crate::port::spec::{self, Spec};
use crate::setting::value::{self, one_line, shown};
use crate::who::settings::Who;

/// Words that end in NUL: the arguments up to the first empty word, then `NAME=VALUE`.
pub fn settings(data: &[u8]) {
    let mut words = data.split(|byte| *byte == 0);
    let typed = words.by_ref().take_while(|word| !word.is_empty()).map(|word| OsStr::from_bytes(word).to_owned());
    let argv: Vec<OsString> = std::iter::once("reberth".into()).chain(typed).collect();
    let environ: Vec<(OsString, OsString)> = words
        .filter_map(|word| {
            let at = word.iter().position(|byte| *byte == b'=')?;
            Some((OsString::from_vec(word.get(..at)?.to_vec()), OsString::from_vec(word.get(at + 1..)?.to_vec())))
        })
        .collect();
    let decision = decide(&argv, &environ);
    check_environment(&environ);
    assert!(decision.warnings.iter().all(|line| is_one_line(line)), "{:?}", decision.warnings);
    match &decision.mode {
        Ok(Mode::Keep(run)) => assert!(run.share.is_some() && !run.ports.is_empty()),
        Ok(Mode::Run(run)) => check_run(run),
        Ok(Mode::Check(check)) => {
            assert!(check.warnings.iter().all(|line| is_one_line(line)), "{check:?}");
            match &check.run {
                Ok(run) => check_run(run),
                Err(lines) => assert!(!lines.is_empty() && lines.iter().all(|line| is_one_line(line)), "{lines:?}"),
            }
        }
        Ok(Mode::Healthcheck(settings)) => check_healthcheck(settings),
        Ok(Mode::Who(Who { ports, .. })) => ports.iter().for_each(reads_back),
        Ok(Mode::Install(destination)) => assert!(!destination.as_os_str().is_empty()),
        Ok(Mode::Print(text)) => assert!(text.ends_with('\n')),
        Err(Error::Settings(lines)) => {
            assert!(!lines.is_empty() && lines.iter().all(|line| is_one_line(line)), "{lines:?}");
        }
        Err(other) => assert!(matches!(other, Error::Settings(_)), "{other:?}"),
    }
}

/// The app gets the inherited environment byte for byte, except for the variables that reberth sets.
fn check_environment(inherited: &Vec<(OsString, OsString)>) {
    let passed = Activation::inherited(inherited, 7);
    assert!(passed.names.len() <= 1024 && passed.names.iter().all(|name| !name.is_empty()), "{passed:?}");
    let ports = [AppPort { name: Some("a-b".into()), addr: None, port: 8080, fd: Some(3) }];
    let given = environment::build(inherited, &ports, Some(&passed.names));
    let set = ["PORT", "PORT_A_B", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];
    let others = |list: &[(OsString, OsString)]| -> Vec<(OsString, OsString)> {
        list.iter().filter(|(name, _)| set.iter().all(|ours| name != ours)).cloned().collect()
    };
    assert_eq!(others(&given), others(inherited));
    for name in set {
        assert_eq!(given.iter().filter(|(known, _)| known == name).count(), 1, "{name} in {given:?}");
    }
    let (_, value) = given.iter().find(|(name, _)| name == "LISTEN_PID").expect("LISTEN_PID has a place");
    assert!(value == environment::PID_PLACEHOLDER);
}

/// Words that end in NUL: the fast path and the parser read a command line alike.
pub fn arguments(data: &[u8]) {
    let words: Vec<OsString> = data.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect();
    assert_eq!(cli::Run::from_words(&words), cli::parse(&words), "{words:?}");
    assert_eq!(cli::Healthcheck::from_words(&words), cli::parse(&words), "{words:?}");
}

fn check_run(run: &Run) {
    run.ports.iter().for_each(reads_back);
    for (position, one) in run.ports.iter().enumerate() {
        for other in run.ports.iter().skip(position + 1) {
            assert!(one.name.is_none() || one.name != other.name, "a name twice: {one} and {other}");
            let same = one.port == other.port && one.protocol == other.protocol && one.addr == other.addr;
            assert!(one.port == 0 || !same, "a port twice: {one} and {other}");
        }
    }
    assert!(!run.command.is_empty(), "nothing to start");
    assert!(run.backoff.min <= run.backoff.max, "{:?}", run.backoff);
    for time in [run.stop.drain, run.stop.grace].into_iter().chain(run.start_timeout) {
        assert!(time <= value::LONGEST, "{time:?}");
    }
    assert!(run.parent_death_signal.is_none_or(|number| (1..=64).contains(&number)));
    assert!(templates::check(&run.command, &run.ports, run.handover).is_empty(), "{:?}", run.command);
    run.health.iter().chain(&run.liveness).for_each(target_reads_back);
}

fn check_healthcheck(Healthcheck { subject, terms, .. }: &Healthcheck) {
    assert!(!terms.timeout.is_zero() && terms.timeout <= value::LONGEST);
    assert!(terms.status.iter().all(|(low, high)| 100 <= *low && low <= high && *high <= 599), "{:?}", terms.status);
    // Text for a request line or a header must not end it.
    let sent = terms.headers.iter().flat_map(|(name, value)| [name, value]).chain([&terms.method, &terms.user_agent]);
    for text in sent {
        assert!(!text.contains(['\r', '\n', '\0']), "{text:?}");
    }
    assert!(subject.deferred_errors.iter().all(|line| is_one_line(&one_line(line))));
    subject.ports.iter().for_each(reads_back);
    subject.target.iter().chain(&subject.health).chain(&subject.liveness).for_each(target_reads_back);
}

fn reads_back(spec: &Spec) {
    assert_eq!(spec.to_string().parse().as_ref(), Ok(spec));
    assert!(!spec.candidates().is_empty());
}

fn target_reads_back(target: &Target) {
    let text = target.to_string();
    assert_eq!(text.parse().as_ref(), Ok(target), "{text:?}");
    if let Target::Url(text) = target {
        let url = Url::parse(text).expect("a target that is a URL is one for the probe too");
        assert!(!url.host.is_empty() && url.port != 0);
    }
}

/// One text, parsed as every kind of value.
pub fn values(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    if let Ok(specs) = spec::list(text) {
        let shown: Vec<String> = specs.iter().map(Spec::to_string).collect();
        let again = if shown.is_empty() { "none".to_owned() } else { shown.join(",") };
        assert_eq!(spec::list(&again).as_ref(), Ok(&specs), "{text:?}");
        claimed_in_one_order(specs);
    }
    if let Ok(time) = value::duration(text) {
        assert!(time <= value::LONGEST);
        assert_eq!(value::duration(&written(time)), Ok(time), "{text:?}");
    }
    if let Ok(number) = signal::signal(text) {
        assert_eq!(signal::signal(&signal::name(number)), Ok(number), "{text:?}");
    }
    if let Ok(map) = signal::map(text) {
        for number in 1..=64 {
            assert!(map.apply(number).is_none_or(|to| (1..=64).contains(&to)), "{text:?}");
        }
    }
    if let Ok(target) = text.parse::<Target>() {
        target_reads_back(&target);
    }
    assert!(is_one_line(&shown(text)) && shown(text).chars().count() <= 10 * 200 + 3, "{text:?}");
    assert!(!one_line(text).contains(char::is_control), "{text:?}");
    assert_eq!(value::distance(text, text).min(1), usize::from(text.len() > 64), "{text:?}");
}

/// Whatever order the ports are configured in, they are claimed in the same one: no two instances each hold a port that the other waits for.
fn claimed_in_one_order(mut specs: Vec<Spec>) {
    let claimed =
        |specs: &[Spec]| -> Vec<String> {
            let order = ascending(specs);
            let sorted: Vec<&Spec> = order.iter().filter_map(|position| specs.get(*position)).collect();
            assert_eq!(sorted.len(), specs.len());
            assert!(sorted.windows(2).all(
                |pair| matches!(pair, [one, other] if other.port == 0 || one.port <= other.port && one.port != 0)
            ));
            // Names do not matter to the kernel, and every claim of port 0 gets a different port.
            sorted.into_iter().map(|spec| Spec { name: None, ..spec.clone() }.to_string()).collect()
        };
    let one = claimed(&specs);
    specs.reverse();
    assert_eq!(claimed(&specs), one);
}

/// A duration in the syntax of the settings.
fn written(time: Duration) -> String {
    let (seconds, nanos) = (time.as_secs(), time.subsec_nanos());
    format!("{}h{}m{}.{nanos:09}s", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Words that end in NUL: a command line with templates.
pub fn templates(data: &[u8]) {
    let command: Vec<OsString> = data.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect();
    let ports = [
        AppPort { name: None, addr: None, port: 8080, fd: Some(3) },
        AppPort { name: Some("admin".into()), addr: "::1".parse().ok(), port: 9090, fd: Some(4) },
    ];
    let known = [
        ("{port}", "8080"),
        ("{port.admin}", "9090"),
        ("{addr}", "0.0.0.0:8080"),
        ("{host}", "0.0.0.0"),
        ("{fd}", "3"),
        ("{fd.admin}", "4"),
    ];
    let expanded = templates::expand(&command, &ports);
    assert_eq!(expanded.len(), command.len());
    assert_eq!(expanded.first(), command.first(), "the command word stays as it is");
    for (before, after) in command.iter().zip(&expanded).skip(1) {
        assert_eq!(after.as_bytes(), replaced(before.as_bytes(), &known), "{before:?}");
    }
    let specs: Vec<Spec> = ["8080", "admin=[::1]:9090"].iter().filter_map(|text| text.parse().ok()).collect();
    for handover in Handover::ALL {
        let lines = templates::check(&command, &specs, handover);
        assert!(lines.iter().all(|line| is_one_line(line)), "{lines:?}");
    }
}

/// A slow and obvious implementation: does one of the templates start at this byte?
fn replaced(argument: &[u8], known: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = argument;
    while let Some((byte, tail)) = rest.split_first() {
        match known.iter().find(|(template, _)| rest.starts_with(template.as_bytes())) {
            Some((template, value)) => {
                out.extend_from_slice(value.as_bytes());
                rest = rest.get(template.len()..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}
