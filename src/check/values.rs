//! Owns each setting as `run --check` reports it: its value in a form that `run` accepts again, and where it came from. Must not know what
//! a run does with it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::report::Setting;
use super::settings::Check;
use crate::app::settings::Run;
use crate::port::policy::{Fallback, Wait};
use crate::setting::{Source, table};

pub fn reported(check: &Check, run: &Run, setting: &'static table::Setting) -> Setting {
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

/// The source of a handover that another setting implies. `None`: it has its default.
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

/// A setting's value, in a form that parses to the same value. `None`: it is not set, and the table describes its default.
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

pub fn listed<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub fn wait(wait: Wait) -> String {
    match wait {
        Wait::Forever => "forever".to_owned(),
        Wait::For(time) => exact(time),
    }
}

/// `1m30s`, `250ms`: a duration, exact to the millisecond.
pub fn exact(time: Duration) -> String {
    let mut text = String::new();
    let all = time.as_secs();
    // Up to two minutes, seconds are easy to read and what most people write.
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

    /// A value for each setting that is not its default, and how it is reported.
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
    fn every_setting_is_reported_with_its_value_and_source() {
        let flags: Vec<&str> = table::RUN.iter().map(|setting| setting.flag).collect();
        assert_eq!(SET.map(|(flag, ..)| flag).to_vec(), flags, "a new setting is reported too");
        let beside_pid_1 = ["register", "advertise", "register-metadata", "register-ttl"];
        for (flag, given, wanted) in SET {
            if cfg!(not(feature = "register")) && beside_pid_1.contains(&flag) {
                continue;
            }
            // Settings that some of them require.
            let required: &[&str] = match flag {
                "share-secret-file" => &["--share", "api", "--port", "80"],
                "unhealthy-failures" => &["--exit-on-unhealthy", "1s", "--port", "80"],
                "advertise" | "register-metadata" | "register-ttl" => &["--register", "etcd://e/p", "--port", "80"],
                "port" | "exec" | "profile" => &[],
                _ => &["--port", "80"],
            };
            let setting = table::of_flag(flag, false).unwrap();
            let typed = format!("--{flag}={given}");
            let by_flag = check(&[required, &[&typed, "app"]].concat(), &[]);
            let by_variable = check(&[required, &["app"]].concat(), &[(setting.variable, given)]);
            for (check, source, place) in
                [(by_flag, "flag", format!("--{flag}")), (by_variable, "variable", setting.variable.to_owned())]
            {
                let run = check.run.as_ref().unwrap_or_else(|lines| panic!("{flag}: {lines:?}"));
                let got = reported(&check, run, setting);
                assert_eq!((got.value.as_str(), got.source, got.place), (wanted, source, place), "{flag}");
            }
            let unset = check(&["app"], &[]);
            let got = reported(&unset, unset.run.as_ref().unwrap(), setting);
            assert_eq!((got.source, got.place.as_str()), ("default", "the default"), "{flag}");
            // The default as in the table, or the value that it describes.
            let same = got.value == setting.default || ["PORT, else none", "auto", "/"].contains(&setting.default);
            assert!(same || exact_of(&got.value) == exact_of(setting.default), "{flag}: {}", got.value);
        }
    }

    fn exact_of(text: &str) -> Option<Duration> {
        crate::setting::value::duration(text).ok()
    }

    #[test]
    fn ports_and_profiles_have_their_own_sources() {
        let place = |check: &Check, flag: &str| {
            reported(check, check.run.as_ref().unwrap(), table::of_flag(flag, false).unwrap()).place
        };
        assert_eq!(place(&check(&["app"], &[("PORT", "80")]), "port"), "PORT");
        assert_eq!(place(&check(&["app"], &[("PORT", "tcp://10.0.0.1:80")]), "port"), "the default");
        let dev = check(&["--profile", "dev", "--fallback", "any", "app"], &[]);
        assert_eq!((place(&dev, "wait"), place(&dev, "fallback")), ("--profile".into(), "--fallback".into()));
        assert_eq!(place(&check(&["app"], &[("REBERTH_PROFILE", "test")]), "port"), "REBERTH_PROFILE");
    }

    #[test]
    fn durations_print_as_they_parse() {
        for (millis, wanted) in [(0, "0s"), (250, "250ms"), (75_000, "75s"), (3_600_000, "1h"), (1500, "1s500ms")] {
            let time = Duration::from_millis(millis);
            assert_eq!(exact(time), wanted);
            assert_eq!(crate::setting::value::duration(wanted), Ok(time));
        }
    }
}
