//! Tables of the settings of `run`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use super::{decision, errors, run, words};
use crate::app::exit_map::ExitMap;
use crate::app::handover::Handover;
use crate::app::settings::Run;
use crate::app::signal::{SignalMap, SignalScope};
use crate::app::supervisor::StopPolicy;
use crate::config::*;
use crate::health::target::Target;
use crate::log::settings::{Format, Level, Log};
use crate::port;
use crate::port::policy::{Backoff, Fallback, Wait};
use crate::setting::{Sources, table};
use crate::share::Share;

/// A good and a bad value for every setting of `run`, the start of the error, and what the good one changes in the result.
type Row = (&'static str, &'static str, &'static str, &'static str, fn(&mut Run));

const RUN: [Row; 19] = [
    ("port", "web=127.0.0.1:80", "70000", "70000 is no port", |run| {
        run.ports = port::spec::list("web=127.0.0.1:80").unwrap()
    }),
    ("wait", "10s", "10", "a duration needs a unit: 250ms, 10s, 1m30s, 2h (did you mean 10s?)", |run| {
        run.wait = Wait::For(Duration::from_secs(10));
    }),
    ("wait", "forever", "ever", "a duration is written 250ms, 10s, 1m30s or 2h; or forever", |run| {
        run.wait = Wait::Forever
    }),
    ("fallback", "next:5", "next:0", "must be none, next, next:N", |run| run.fallback = Fallback::Next(5)),
    ("fallback", "any", "all", "must be none, next, next:N", |run| run.fallback = Fallback::Any),
    ("backoff", "5ms..2s", "2s..5ms", "must be MIN..MAX", |run| {
        run.backoff = Backoff { min: Duration::from_millis(5), max: Duration::from_secs(2) };
    }),
    ("handover", "on", "yes", "must be one of auto, on, off, bind", |run| run.handover = Handover::Descriptors),
    ("relaunch", "0", "-1", "must be a number from 0", |run| run.relaunch = 0),
    ("port-file", "/a/b", "", "must be a path", |run| run.port_file = Some("/a/b".into())),
    ("exec", "yes", "maybe", "must be 1, true, yes or on", |run| run.exec = true),
    ("signal-scope", "group", "grup", "must be one of child, group (did you mean group?)", |run| {
        run.signal_scope = SignalScope::Group
    }),
    ("signal-map", "TERM=QUIT,HUP=0", "KILL=TERM", "KILL=TERM: KILL is never forwarded", |run| {
        run.stop.signal_map = SignalMap(vec![(15, Some(3)), (1, None)]);
    }),
    ("exit-map", "143=0", "143=256", "143=256: must be a number from 0 to 255; an exit map is", |run| {
        run.stop.exit_map = ExitMap(vec![(143, 0)])
    }),
    ("drain", "1m30s", "soon", "a duration is written", |run| run.stop.drain = Duration::from_secs(90)),
    ("grace", "0s", "0x", "a duration is written", |run| run.stop.grace = Duration::ZERO),
    ("parent-death-signal", "sigterm", "TREM", "a signal is a name", |run| run.parent_death_signal = Some(15)),
    ("health", "tcp://h:1", "8080", "it has no scheme", |run| {
        run.health = Some(Target::TcpAt("h".into(), 1));
        run.terms = Some(Box::new(super::healthcheck(&[], &[]).terms));
    }),
    ("liveness", "unix:/a", "unix:a", "the socket of unix: is an absolute path", |run| {
        run.liveness = Some(Target::Unix("/a".into(), None));
    }),
    ("state-dir", "/s", "", "must be a path", |run| run.state_dir = Some("/s".into())),
];

#[test]
fn every_setting_of_run_in_both_spellings() {
    for (flag, good, bad, reason, change) in RUN {
        let setting = table::of_flag(flag, false).unwrap();
        let long = format!("--{flag}={good}");
        let mut want = run(&[], &[]);
        change(&mut want);
        assert_eq!(run(&[&long], &[]), want, "{long}");
        assert_eq!(run(&[], &[(setting.variable, good)]), want, "{}", setting.variable);
        // The flag beats the variable, whose value is not even checked. An empty variable is unset.
        assert_eq!(run(&[&long], &[(setting.variable, bad)]), want, "{long}");
        assert_eq!(run(&[], &[(setting.variable, "")]), run(&[], &[]), "{}", setting.variable);

        let long = format!("--{flag}={bad}");
        let shown = if bad.is_empty() { "\"\"" } else { bad };
        assert!(errors(&["run", &long, "x"], &[])[0].starts_with(&format!("--{flag} {shown}: {reason}")), "{long}");
        if !bad.is_empty() {
            let line = errors(&["run", "x"], &[(setting.variable, bad)]).join("\n");
            assert!(line.starts_with(&format!("{}={bad}: {reason}", setting.variable)), "{line}");
        }
    }
    // Exactly these are missing from the table; they have their own tests.
    let mut own =
        vec!["profile", "log-file", "log", "log-format", "start-timeout", "prewarm", "share", "share-secret-file"];
    own.extend(["after", "after-wait", "exit-on-unhealthy", "unhealthy-failures"]);
    own.extend(["register", "advertise", "register-metadata", "register-ttl"]);
    for setting in table::RUN {
        assert!(own.contains(&setting.flag) != RUN.iter().any(|row| row.0 == setting.flag), "{}", setting.flag);
    }
}

/// An env file with Windows line endings: a carriage return is an error or ignored, and never part of the value.
#[test]
fn no_setting_contains_a_carriage_return() {
    let mut all: Vec<(&str, &str, &str)> = RUN.iter().map(|row| (row.0, row.1, "run")).collect();
    all.extend([("profile", "dev", "run"), ("log-file", "/l", "run"), ("log", "warn", "run")]);
    all.extend([("log-format", "json", "run"), ("start-timeout", "off", "run"), ("health", "/h", "run")]);
    all.extend([("health", "unix:/s", "run"), ("health", "http://h/p", "run"), ("liveness", "grpc:a.B", "run")]);
    all.extend(super::healthcheck::GOOD.iter().map(|row| (row.0, row.1, "healthcheck")));
    for (flag, good, command) in all {
        let setting = table::of_flag(flag, command == "healthcheck").unwrap();
        let end: &[&str] = if command == "run" { &["--", "app"] } else { &[] };
        let by_variable = |value: &str| decision(&[&[command], end].concat(), &[(setting.variable, value)]);
        let by_flag = |value: &str| decision(&[&[command, &format!("--{flag}={value}")], end].concat(), &[]);
        let bad = format!("{good}\r");
        for (plain, got) in [(by_variable(good), by_variable(&bad)), (by_flag(good), by_flag(&bad))] {
            let refused = got.mode.is_err();
            assert!(plain.mode.is_ok(), "{flag} {good}: {plain:?}");
            assert!(refused || (got.mode, got.log) == (plain.mode, plain.log), "{flag} {bad:?} is taken");
        }
    }
    for flag in ["port-file", "log-file", "state-dir"] {
        let setting = table::of_flag(flag, false).unwrap();
        let lines = errors(&["run", "x"], &[(setting.variable, "/a b\r")]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with(&format!("{}=\"/a b\\r\": ", setting.variable)), "{lines:?}");
        assert!(lines[0].contains("carriage return"), "{lines:?}");
    }
    assert!(errors(&["install", "/a\r"], &[])[0].contains("carriage return"));
    for (words, vars) in [
        (&["run", "x"][..], ("PORT", "80\r")),
        (&["healthcheck", "unix:/s\r"], ("X", "")),
        (&["healthcheck", "--ca", "/c\r"], ("X", "")),
        (&["healthcheck"], ("REBERTH_HEALTH_BODY_CONTAINS", "ok\r")),
        (&["who", "80\r"], ("X", "")),
    ] {
        let lines = errors(words, &[vars]);
        assert!(lines.len() == 1 && lines[0].contains("carriage return"), "{words:?} {vars:?}: {lines:?}");
    }
    // A carriage return inside a path belongs to it.
    assert_eq!(run(&[], &[("REBERTH_PORT_FILE", "/a\r/b")]).port_file, Some("/a\r/b".into()));
}

#[test]
fn values_with_a_hyphen_and_several_errors_are_all_reported() {
    let lines = errors(&["run", "--wait", "-5s", "--grace", "10", "--port", "-1", "x"], &[]);
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, start) in lines.iter().zip(["--port -1: ", "--wait -5s: ", "--grace 10: "]) {
        assert!(line.starts_with(start), "{line}");
    }
    let lines = errors(&["run", "--nope1", "--grace", "10", "--nope2", "--drain=5", "x"], &[]);
    for part in ["--nope1", "--nope2", "--grace 10: ", "--drain 5: "] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:?}");
    }
    let lines = errors(&["run", "--wiat", "1s", "--grace", "10", "--", "x"], &[]);
    assert!(lines.len() == 2 && lines[1].starts_with("--grace 10: "), "{lines:?}");
    let ports = run(&["-p", "web=80", "--port", "81,82"], &[("REBERTH_PORT", "83")]).ports;
    assert_eq!(ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["web=80", "81", "82"]);
    assert!(errors(&["run", "-p", "80", "-p", "80", "x"], &[])[0].starts_with("--port 80,80: "));
}

#[test]
fn probe_options_are_checked_with_the_health_target() {
    let bad = [("REBERTH_HEALTH_TIMEOUT", "10"), ("REBERTH_HEALTH_STATUS", "ok")];
    let lines = errors(&["run", "--health", "/", "-p", "80", "--grace", "1", "x"], &bad);
    assert_eq!(lines.len(), 3, "{lines:?}");
    // If `run` does not probe, only the healthcheck reads them.
    assert_eq!(run(&["-p", "80"], &bad).terms, None);
    let probing =
        run(&["-p", "80", "--health", "/"], &[("REBERTH_HEALTH_TIMEOUT", "3s"), ("REBERTH_HEALTH_METHOD", "HEAD")]);
    let terms = probing.terms.unwrap();
    assert_eq!((terms.timeout, terms.method.as_str()), (Duration::from_secs(3), "HEAD"));
}

#[test]
fn defaults_of_run() {
    let got = run(&[], &[]);
    let want = Run {
        ports: vec![],
        wait: Wait::For(Duration::from_secs(75)),
        fallback: Fallback::None,
        backoff: Backoff { min: Duration::from_millis(10), max: Duration::from_secs(1) },
        handover: Handover::Off,
        prewarm: false,
        share: None,
        relaunch: 3,
        port_file: None,
        exec: false,
        signal_scope: SignalScope::Child,
        stop: StopPolicy {
            signal_map: SignalMap::default(),
            exit_map: ExitMap::default(),
            drain: Duration::ZERO,
            grace: Duration::from_secs(8),
        },
        parent_death_signal: None,
        health: None,
        terms: None,
        liveness: None,
        start_timeout: None,
        after: Vec::new(),
        after_wait: Wait::For(Duration::from_secs(60)),
        exit_on_unhealthy: None,
        register: None,
        state_dir: None,
        command: words(&["app"]),
        sources: Sources::default(),
    };
    assert_eq!(got, want);
    let log = decision(&["run", "app"], &[]).log;
    assert_eq!(log, Log { level: Level::Info, format: Format::Text, file: None, color: true, live: true });
}

#[test]
fn log_settings() {
    let want = Log { level: Level::Off, format: Format::Json, file: Some("/l".into()), color: false, live: true };
    let vars = [("REBERTH_LOG", "off"), ("REBERTH_LOG_FORMAT", "json"), ("REBERTH_LOG_FILE", "/l"), ("NO_COLOR", "1")];
    assert_eq!(decision(&["run", "x"], &vars).log, want);
    let flags = ["run", "--log=OFF", "--log-format=json", "--log-file", "/l", "x"];
    assert_eq!(decision(&flags, &[("NO_COLOR", "1"), ("REBERTH_LOG", "loud")]).log, want);
    assert_eq!(
        errors(&["run", "x"], &[("REBERTH_LOG", "loud")])[0].split(" (").next(),
        Some("REBERTH_LOG=loud: must be one of off, error, warn, info, debug, trace")
    );
    assert!(
        errors(&["run", "--log-format=xml", "x"], &[])[0].starts_with("--log-format xml: must be one of text, json")
    );
    assert!(errors(&["run", "--log-file=", "x"], &[])[0].starts_with("--log-file \"\": must be a path"));
    // The format applies even if other settings, or the command line itself, are bad.
    for list in [
        &["run", "--log-format=json", "--wait=1", "x"][..],
        &["run", "--log-format", "json", "--nope"],
        &["run", "--nope", "--log-format", "json", "x"],
        &["run", "--nope", "--log-format=json", "--", "x"],
    ] {
        let decision = decision(list, &[]);
        assert!(decision.mode.is_err() && decision.log.format == Format::Json, "{list:?}");
    }
    assert_eq!(decision(&["run", "--nope", "--", "--log-format=json"], &[]).log.format, Format::Text);
    for list in [&["run", "--nope"][..], &["healthcheck", "--nope"], &["who", "--nope"], &["install"], &[]] {
        assert_eq!(decision(list, &[("REBERTH_LOG_FORMAT", "json")]).log.format, Format::Json, "{list:?}");
    }
}

#[test]
fn ports_come_from_flag_variable_port_and_profile() {
    let ports = |list: &[&str], vars: &[(&str, &str)]| -> String {
        run(list, vars).ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let all = [("REBERTH_PORT", "2"), ("PORT", "3"), ("REBERTH_PROFILE", "test")];
    for (list, vars, want) in [
        (&["-p", "1"][..], &all[..], "1"),
        (&[], &all, "2"),
        (&[], &all[1..], "3"),
        (&[], &all[2..], "0"),
        (&[], &[], ""),
        (&["--port=none"], &all, ""),
        (&["--profile=dev"], &all[2..], ""),
        (&[], &[("PORT", "web=[::1]:80,53/udp")], "web=[::1]:80,53/udp"),
        (&[], &[("REBERTH_PORT", "tcp://10.0.0.1:80"), ("PORT", "3")], "3"),
        (&[], &[("REBERTH_PORT", "tcp://10.0.0.1:80")], ""),
        (
            &[],
            &[("REBERTH_PORT", "tcp://10.0.0.1:80"), ("PORT", "tcp://10.0.0.1:80"), ("REBERTH_PROFILE", "test")],
            "0",
        ),
        (&["-p", "1"], &[("REBERTH_PORT", "x"), ("PORT", "y")], "1"),
        (&[], &[("REBERTH_PORT", "1"), ("PORT", "y")], "1"),
    ] {
        assert_eq!(ports(list, vars), want, "{list:?} {vars:?}");
    }
    let warned = decision(&["run", "x"], &[("REBERTH_PORT", "tcp://10.0.0.1:80"), ("PORT", "udp://[::1]:1")]).warnings;
    assert_eq!(warned.len(), 2, "{warned:?}");
    for (line, name) in warned.iter().zip(["REBERTH_PORT=tcp", "PORT=udp"]) {
        assert!(line.starts_with(name) && line.contains("enableServiceLinks: false"), "{line}");
    }
    assert!(errors(&["run", "x"], &[("PORT", "http")])[0].starts_with("PORT=http: http is no port number"));
    assert!(errors(&["run", "--port", "tcp://10.0.0.1:80", "x"], &[])[0].starts_with("--port tcp://10.0.0.1:80: "));
}

#[test]
fn profiles() {
    let both = |run: Run| (run.wait, run.fallback);
    let (zero, full) = (Wait::For(Duration::ZERO), Wait::For(Duration::from_secs(75)));
    assert_eq!(both(run(&["--profile", "dev"], &[])), (zero, Fallback::Next(100)));
    assert_eq!(both(run(&[], &[("REBERTH_PROFILE", "DEV")])), (zero, Fallback::Next(100)));
    assert_eq!(both(run(&["--profile", "prod"], &[("REBERTH_PROFILE", "dev")])), (full, Fallback::None));
    assert_eq!(both(run(&["--profile=test"], &[])), (full, Fallback::None));
    // A setting that is set beats the profile, whatever its source.
    assert_eq!(
        both(run(&["--profile=dev"], &[("REBERTH_WAIT", "75s"), ("REBERTH_FALLBACK", "none")])),
        (full, Fallback::None)
    );
    assert!(
        errors(&["run", "--profile=staging", "x"], &[])[0]
            .starts_with("--profile staging: must be one of prod, dev, test")
    );
}

#[test]
fn bad_values_are_reported_together() {
    let lines = errors(
        &["run", "--wait", "10", "--grace=x", "--wiat=3s", "--", "app"],
        &[("REBERTH_DRAIN", "5"), ("PORT", "x"), ("REBERTH_GRACE", "8"), ("REBERTH_LOG", "loud")],
    );
    let starts = [
        "unexpected argument '--wiat'",
        "REBERTH_LOG=loud: ",
        "PORT=x: ",
        "--wait 10: ",
        "REBERTH_DRAIN=5: ",
        "--grace x: ",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    // A missing COMMAND is reported too, but not if the command line is broken anyway.
    let lines = errors(&["run", "--wait=10"], &[]);
    assert!(lines.len() == 2 && lines[1].starts_with("run: a COMMAND is missing"), "{lines:?}");
    assert_eq!(errors(&["run", "--nope"], &[]).len(), 1);
    assert_eq!(errors(&["run", "--"], &[]).len(), 1);
    assert_eq!(errors(&["run"], &[]).len(), 1);
}

#[test]
fn values_that_are_not_utf8() {
    let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let argv = |list: &[&[u8]]| -> Vec<OsString> { list.iter().map(|word| raw(word)).collect() };
    let vars = [
        (OsString::from("REBERTH_WAIT"), raw(b"\xff1")),
        ("REBERTH_PORT".into(), raw(b"\xff")),
        ("PORT".into(), "80".into()),
    ];
    let Err(error) = decide(&argv(&[b"reberth", b"run", b"--grace=\xff", b"x"]), &vars).mode else {
        panic!("accepted")
    };
    let starts = [
        "REBERTH_PORT=\u{fffd}: is not UTF-8",
        "REBERTH_WAIT=\u{fffd}1: is not UTF-8",
        "--grace \u{fffd}: is not UTF-8",
    ];
    assert_eq!(error.lines(), starts);
    // A flag beats it, the app's arguments and all other variables are ignored, and a path may hold any bytes.
    let vars =
        [("REBERTH_WAIT".into(), raw(b"\xff")), ("PORT".into(), raw(b"\xff")), (raw(b"REBERTH_\xff"), raw(b"\xff"))];
    let got = decide(&argv(&[b"reberth", b"run", b"--wait=1s", b"--port-file=/\xff", b"a\xff", b"--\xff"]), &vars);
    let Ok(Mode::Run(run)) = got.mode else { panic!("{got:?}") };
    assert_eq!(
        (run.command[1].as_bytes(), run.port_file.unwrap().as_os_str().as_bytes()),
        (&b"--\xff"[..], &b"/\xff"[..])
    );
    assert!(got.warnings.is_empty());
}

#[test]
fn templates_and_handover() {
    let with = |list: &[&str]| match decision(&[&["run"], list].concat(), &[]).mode {
        Ok(Mode::Run(run)) => run.handover == Handover::Descriptors,
        other => panic!("{other:?}"),
    };
    assert!(with(&["-p=80", "--", "app", "--fd={fd}"]) && with(&["-p=a=80", "app", "{fd.a}"]));
    assert!(!with(&["-p=80", "{fd}", "{port}"]) && !with(&["app"]) && with(&["--handover=on", "-p80", "app"]));
    for (list, part) in [
        (&["run", "app", "{port}"][..], "{port}: no port is configured"),
        (&["run", "-p80", "app", "{port.web}"], "no port is named web"),
        (&["run", "-p80", "--handover=off", "app", "{fd}"], "{fd}: handover is off"),
        (&["run", "app", "{fd}"], "{fd}: no port is configured"),
    ] {
        assert!(errors(list, &[])[0].contains(part), "{list:?}");
    }
    let way = |list: &[&str], vars: &[(&str, &str)]| {
        let run = run(list, vars);
        (run.handover, run.prewarm)
    };
    assert_eq!(way(&["-p80", "--handover=BIND"], &[]), (Handover::Bind, false));
    assert_eq!(way(&["-p80", "--prewarm"], &[]), (Handover::Bind, true));
    assert_eq!(way(&["-p80"], &[("REBERTH_PREWARM", "on"), ("REBERTH_HANDOVER", "auto")]), (Handover::Bind, true));
    assert_eq!(way(&["-p80", "--prewarm=off"], &[("REBERTH_PREWARM", "on")]), (Handover::Off, false));
    for (list, parts) in [
        (&["run", "-p80", "--handover=bnd", "x"][..], &["--handover bnd", "did you mean bind?"][..]),
        (&["run", "-p80", "--prewarm=2", "x"], &["--prewarm 2: must be 1"]),
        (&["run", "--handover=bind", "x"], &["--handover bind: there is no tcp port to hold: set --port"]),
        (&["run", "--prewarm", "x"], &["--prewarm true: there is no tcp port to hold"]),
        (&["run", "-p53/udp", "--handover=bind", "x"], &["there is no tcp port to hold"]),
        (&["run", "-p80", "--handover=bind", "--exec", "x"], &["--handover bind: ", "--exec", "leave one of them out"]),
        (
            &["run", "-p80", "--prewarm", "--handover=on", "x"],
            &["--handover on: --prewarm true waits in the app's own bind"],
        ),
        (&["run", "-p80", "--prewarm", "--handover=off", "x"], &["--handover off: --prewarm true"]),
        (&["run", "-p80", "--prewarm", "x", "{fd}"], &["{fd}: handover is bind"]),
    ] {
        let lines = errors(list, &[]);
        assert!(lines.len() == 1 && parts.iter().all(|part| lines[0].contains(part)), "{list:?} {lines:?}");
    }
    // With bad ports, templates are not checked.
    assert_eq!(errors(&["run", "-p=x", "app", "{port}"], &[]).len(), 1);
}

#[test]
fn start_timeout_needs_a_sign_of_readiness() {
    let five = Some(Duration::from_secs(5));
    assert_eq!(run(&["--start-timeout=5s", "-p80"], &[]).start_timeout, five);
    assert_eq!(run(&["--health=http://h/"], &[("REBERTH_START_TIMEOUT", "5s")]).start_timeout, five);
    assert_eq!(run(&["--start-timeout=off"], &[("REBERTH_START_TIMEOUT", "5s")]).start_timeout, None);
    assert_eq!(run(&["--start-timeout=0s"], &[]).start_timeout, None);
    for (list, vars, start) in [
        (&["run", "--start-timeout=5s", "x"][..], &[][..], "--start-timeout 5s: nothing shows"),
        (&["run", "--start-timeout=5s", "--health=/x", "x"], &[], "--start-timeout 5s: nothing shows"),
        (&["run", "x"], &[("REBERTH_START_TIMEOUT", "5s")], "REBERTH_START_TIMEOUT=5s: nothing shows"),
        (&["run", "-p80", "--start-timeout=5", "x"], &[], "--start-timeout 5: a duration needs a unit"),
        (&["run", "--start-timeout=5s", "--health=x", "x"], &[], "--health x: "),
    ] {
        let lines = errors(list, vars);
        assert!(lines.len() == 1 && lines[0].starts_with(start), "{lines:?}");
    }
    let warnings = decision(&["run", "x"], &[("REBERTH_HEALTH", "/x")]).warnings;
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("REBERTH_HEALTH=/x: checks the primary port"),
        "{warnings:?}"
    );
}

#[test]
fn share_and_keep() {
    let share = |list: &[&str], vars: &[(&str, &str)]| {
        let run = run(list, vars);
        (run.share, run.handover)
    };
    let of = |name: &str, file: Option<&str>| Some(Share { name: name.into(), secret_file: file.map(Into::into) });
    assert_eq!(share(&["-p80", "--share=api"], &[]), (of("api", None), Handover::Bind));
    let vars = [("REBERTH_SHARE", "a-1"), ("REBERTH_SHARE_SECRET_FILE", "/s")];
    assert_eq!(share(&["-p80"], &vars), (of("a-1", Some("/s")), Handover::Bind));
    let fd = match decision(&["run", "-p80", "--share=api", "x", "{fd}"], &[]).mode {
        Ok(Mode::Run(run)) => (run.share, run.handover),
        other => panic!("{other:?}"),
    };
    assert_eq!(fd, (of("api", None), Handover::Descriptors));
    assert_eq!(share(&["-p80", "--share=api", "--handover=on"], &[]).1, Handover::Descriptors);
    assert_eq!(share(&["-p80"], &[("REBERTH_SHARE_SECRET_FILE", "/s")]), (None, Handover::Off));
    let long = "a".repeat(32);
    for (list, part) in [
        (&["run", "-p80", "--share=Api", "x"][..], "--share Api: a share name is"),
        (&["run", "-p80", "--share=1a", "x"], "a share name is"),
        (&["run", "-p80", "--share", &long, "x"], "at most 30"),
        (&["run", "--share=api", "x"], "--share api: there is no tcp port to hold"),
        (&["run", "-p80", "--share=api", "--exec", "x"], "--exec"),
        (&["run", "-p80", "--share=api", "--handover=off", "x"], "--handover off: --share api gives the app a socket"),
        (&["keep", "-p80"], "keep: a name is missing"),
        (&["keep", "--share=api"], "keep: there is no port to hold"),
        (&["keep", "-p80", "--share=api", "--fallback=next"], "--fallback next: keep holds the port"),
        (&["keep", "-p80", "--share=api", "app"], "unexpected argument"),
    ] {
        let lines = errors(list, &[]);
        assert!(lines.iter().any(|line| line.contains(part)), "{list:?} {lines:?}");
    }
    match decision(&["keep", "-p", "web=0.0.0.0:80"], &[("REBERTH_SHARE", "api"), ("REBERTH_WAIT", "5s")]).mode {
        Ok(Mode::Keep(run)) => {
            assert_eq!((run.share, run.wait), (of("api", None), Wait::For(Duration::from_secs(5))));
            assert_eq!(run.ports, port::spec::list("web=0.0.0.0:80").unwrap());
        }
        other => panic!("{other:?}"),
    }
}
