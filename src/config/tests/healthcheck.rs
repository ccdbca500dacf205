//! Tables of the settings of `healthcheck`.

use std::time::Duration;

use super::{decision, errors, healthcheck};
use crate::config::*;
use crate::health::phase::Probe;
use crate::health::settings::Healthcheck;
use crate::health::target::Target;
use crate::setting::table;

type Row = (&'static str, &'static str, &'static str, fn(&mut Healthcheck));
/// A good and a bad value for every setting of `healthcheck` that can be set alone, and what the good one changes in the result.
pub const GOOD: [Row; 13] = [
    ("probe", "liveness", "alive", |check| check.subject.probe = Probe::Liveness),
    ("timeout", "2s", "0", |check| check.terms.timeout = Duration::from_secs(2)),
    ("wait", "1m", "60", |check| check.wait = Duration::from_secs(60)),
    ("interval", "1s", "0s", |check| check.interval = Duration::from_secs(1)),
    ("status", "204,300-301", "2xx", |check| {
        (check.terms.status, check.terms.status_explicit) = (vec![(204, 204), (300, 301)], true);
    }),
    ("header", "A: b", "A", |check| check.terms.headers = vec![("A".into(), "b".into())]),
    ("method", "HEAD", "H EAD", |check| check.terms.method = "HEAD".into()),
    ("body-contains", "ok then", "", |check| check.terms.body_contains = Some("ok then".into())),
    ("ca", "/ca.pem", "", |check| check.terms.ca = Some("/ca.pem".into())),
    ("insecure", "on", "maybe", |check| check.terms.insecure = true),
    ("user-agent", "me/1", "a\nb", |check| check.terms.user_agent = "me/1".into()),
    ("quiet", "1", "2", |check| check.quiet = true),
    ("state-dir", "/s", "", |check| check.state_dir = Some("/s".into())),
];

#[test]
fn every_setting_of_healthcheck_in_both_spellings() {
    for (flag, good, bad, change) in GOOD {
        let setting = table::of_flag(flag, true).unwrap();
        let long = format!("--{flag}={good}");
        let mut want = healthcheck(&[], &[]);
        change(&mut want);
        assert_eq!(healthcheck(&[&long], &[]), want, "{long}");
        assert_eq!(healthcheck(&[], &[(setting.variable, good)]), want, "{}", setting.variable);
        assert_eq!(healthcheck(&[&long], &[(setting.variable, bad)]), want, "{long}");
        assert!(
            errors(&["healthcheck", &format!("--{flag}={bad}")], &[])[0].starts_with(&format!("--{flag} ")),
            "{flag}"
        );
        if !bad.is_empty() {
            assert!(
                errors(&["healthcheck"], &[(setting.variable, bad)])[0].starts_with(&format!("{}=", setting.variable))
            );
        }
    }
    let alone = |flag| GOOD.iter().any(|row| row.0 == flag) || ["cert", "key"].contains(&flag);
    assert!(table::HEALTHCHECK.iter().all(|setting| alone(setting.flag)));
}

#[test]
fn a_client_certificate_has_both_its_files() {
    let files = |check: Healthcheck| (check.terms.cert, check.terms.key);
    let both = (Some("/c".into()), Some("/k".into()));
    assert_eq!(files(healthcheck(&["--cert=/c", "--key=/k"], &[])), both);
    let vars = [("REBERTH_HEALTH_CERT", "/c"), ("REBERTH_HEALTH_KEY", "/x")];
    assert_eq!(files(healthcheck(&["--key=/k"], &vars)), both);
    for (words, vars, begins, names) in [
        (&["healthcheck", "--cert=/c"][..], &[][..], "--cert /c:", "--key (REBERTH_HEALTH_KEY)"),
        (&["healthcheck", "--key=/k"], &[], "--key /k:", "--cert (REBERTH_HEALTH_CERT)"),
        (&["healthcheck"], &vars[..1], "REBERTH_HEALTH_CERT=/c:", "--key"),
        (&["healthcheck"], &vars[1..], "REBERTH_HEALTH_KEY=/x:", "--cert"),
        // If one file is bad, the missing other one is not reported.
        (&["healthcheck", "--cert=", "--key=/k"], &[], "--cert", "must be a path"),
    ] {
        let errors = errors(words, vars);
        assert!(errors.len() == 1 && errors[0].starts_with(begins) && errors[0].contains(names), "{errors:?}");
    }
}

#[test]
fn credentials_are_never_printed() {
    for target in [
        "redis://:hunter2@h",
        "redis://:hun/ter2@h:1",
        "REDIS:u:hunter2@h",
        "postgres://u:hunter2@h/db",
        "postgresql://u:hunter2@h",
        "mysql://root:hunter2@h",
        "fcgi://u:hunter2@h:9000/ping",
        "grpcs://u:hunter2@h:1",
        "tcp://u:hunter2@h:1",
        "https://u:hunter2@h",
        "amqp:u:hunter2@h",
        "amqp://u:hun/ter2@h",
    ] {
        for (words, vars) in [
            (&["healthcheck", target][..], &[][..]),
            (&["run", "--health", target, "a"], &[]),
            (&["run", "a"], &[("REBERTH_HEALTH", target)]),
        ] {
            let errors = errors(words, vars);
            assert!(errors.len() == 1 && !errors[0].contains("ter2") && errors[0].contains("***@h"), "{errors:?}");
        }
    }
}

#[test]
fn healthcheck_defaults_and_targets() {
    let got = healthcheck(&[], &[]);
    assert_eq!(
        (got.subject.probe, got.subject.target.is_none(), got.subject.ports.len(), got.quiet),
        (Probe::Readiness, true, 0, false)
    );
    assert_eq!(
        (got.terms.timeout, got.wait, got.interval),
        (Duration::from_millis(900), Duration::ZERO, Duration::from_millis(250))
    );
    assert_eq!(
        (got.terms.status, got.terms.status_explicit, got.terms.method.as_str()),
        (vec![(200, 399)], false, "GET")
    );
    assert_eq!(got.terms.user_agent, format!("reberth/{}", env!("CARGO_PKG_VERSION")));

    let got = healthcheck(&["--header=A: 1", "--header", "B: 2"], &[("REBERTH_HEALTH_HEADER", "C: 3")]);
    assert_eq!(got.terms.headers, [("A".into(), "1".into()), ("B".into(), "2".into())]);
    assert_eq!(healthcheck(&[], &[("REBERTH_HEALTH_HEADER", "A: 1\nB: 2\n")]).terms.headers.len(), 2);

    let vars = [("REBERTH_PORT", "80"), ("REBERTH_HEALTH", "/r"), ("REBERTH_LIVENESS", "/l")];
    let path = |path: &str| Some(Target::Path(path.into()));
    let got = healthcheck(&[], &vars);
    assert_eq!((got.subject.health, got.subject.liveness, got.subject.ports.len()), (path("/r"), None, 1));
    let got = healthcheck(&["--probe=liveness"], &vars);
    assert_eq!((got.subject.health, got.subject.liveness), (None, path("/l")));
    assert_eq!(healthcheck(&["--probe=liveness"], &vars[..2]).subject.health, path("/r"));
    let got = healthcheck(&["/x"], &vars);
    assert_eq!((got.subject.target, got.subject.health, got.subject.ports.len()), (path("/x"), None, 1));
    assert_eq!(healthcheck(&["http://h/"], &vars).subject.ports, []);
    assert_eq!(healthcheck(&[], &[("REBERTH_PROFILE", "test")]).subject.ports.len(), 1);
    assert_eq!(healthcheck(&[], &[("REBERTH_PORT", "tcp://10.0.0.1:80"), ("PORT", "81")]).subject.ports[0].port, 81);
}

#[test]
fn healthcheck_reads_only_what_it_uses() {
    let bad = [
        ("REBERTH_WAIT", "10"),
        ("REBERTH_LOG", "x"),
        ("REBERTH_PROFILE", "x"),
        ("REBERTH_NOPE", "1"),
        ("REBERTH_GRACE", "x"),
    ];
    let got = decision(&["healthcheck"], &bad);
    assert!(got.mode.is_ok() && got.warnings.is_empty(), "{got:?}");
    // Values that only matter without a state file are kept for that case, and reported along with other errors.
    let vars = [("REBERTH_PORT", "x"), ("REBERTH_HEALTH", "x"), ("REBERTH_LIVENESS", "x")];
    let got = healthcheck(&[], &vars);
    assert_eq!(got.subject.deferred_errors.len(), 2, "{:?}", got.subject.deferred_errors);
    assert_eq!(healthcheck(&["http://h/"], &vars).subject.deferred_errors, [""; 0]);
    assert_eq!(healthcheck(&["/x"], &vars).subject.deferred_errors.len(), 1);
    assert_eq!(healthcheck(&[], &[("PORT", "x")]).subject.deferred_errors.len(), 1);
    assert_eq!(errors(&["healthcheck", "--timeout=1"], &vars).len(), 3);
    // A flag beats the other one's variable. From the same source, the two contradict each other.
    let ca = [("REBERTH_HEALTH_CA", "/ca"), ("REBERTH_HEALTH_INSECURE", "1")];
    let pair = |check: Healthcheck| (check.terms.ca.is_some(), check.terms.insecure);
    assert_eq!(pair(healthcheck(&["--insecure"], &ca[..1])), (false, true));
    assert_eq!(pair(healthcheck(&["--ca=/x"], &ca[1..])), (true, false));
    assert_eq!(errors(&["healthcheck"], &ca).len(), 1);
    assert_eq!(errors(&["healthcheck", "--ca=/x", "--insecure"], &[]).len(), 1);
    for list in [&["healthcheck", "--nope"][..], &["healthcheck", "tcp", "b"], &["healthcheck", "8080"]] {
        assert_eq!(errors(list, &[]).len(), 1, "{list:?}");
        assert_eq!(decision(list, &[]).command, Command::Healthcheck);
    }
}

/// `healthcheck` accepts the same keywords as `run`.
#[test]
fn healthcheck_accepts_the_keywords_of_run() {
    for (text, moves) in [("none", false), ("None", false), ("NONE", false), ("next", true), ("Any", true), ("x", true)]
    {
        assert_eq!(healthcheck(&[], &[("REBERTH_FALLBACK", text)]).subject.port_may_move, moves, "{text}");
    }
    for text in ["dev", "Dev", "DEV"] {
        assert!(healthcheck(&[], &[("REBERTH_PROFILE", text)]).subject.port_may_move, "{text}");
        assert!(
            !healthcheck(&[], &[("REBERTH_PROFILE", text), ("REBERTH_FALLBACK", "None")]).subject.port_may_move,
            "{text}"
        );
    }
    for text in ["tcp", "TCP"] {
        assert_eq!(healthcheck(&[], &[("REBERTH_HEALTH", text)]).subject.health, Some(Target::Tcp), "{text}");
    }
}
