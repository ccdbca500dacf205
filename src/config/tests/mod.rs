//! Tables of all settings: both spellings, precedence, several bad values together.

mod healthcheck;
#[cfg(feature = "register")]
mod register;
mod run;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::app::settings::Run;
use crate::error::Error;
use crate::exit::Code;
use crate::health::settings::Healthcheck;
use crate::port;
use crate::port::spec::Spec;
use crate::setting::table;
use crate::who::settings::Who;

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

fn environ(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    list.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn decision(list: &[&str], vars: &[(&str, &str)]) -> Decision {
    let argv: Vec<&str> = std::iter::once("reberth").chain(list.iter().copied()).collect();
    decide(&words(&argv), &environ(vars))
}

fn run(list: &[&str], vars: &[(&str, &str)]) -> Run {
    let all: Vec<&str> = ["run"].iter().chain(list).copied().chain(["--", "app"]).collect();
    match decision(&all, vars).mode {
        Ok(Mode::Run(run)) => *run,
        other => panic!("{all:?} {vars:?}: {other:?}"),
    }
}

fn healthcheck(list: &[&str], vars: &[(&str, &str)]) -> Healthcheck {
    let all: Vec<&str> = ["healthcheck"].iter().chain(list).copied().collect();
    match decision(&all, vars).mode {
        Ok(Mode::Healthcheck(check)) => *check,
        other => panic!("{all:?} {vars:?}: {other:?}"),
    }
}

fn errors(list: &[&str], vars: &[(&str, &str)]) -> Vec<String> {
    match decision(list, vars).mode {
        Err(error @ Error::Settings(_)) => {
            assert_eq!(error.code(), Code::CANNOT);
            assert!(error.lines().iter().all(|line| !line.contains('\n')), "{error:?}");
            error.lines().to_vec()
        }
        other => panic!("{list:?} {vars:?}: {other:?}"),
    }
}

#[test]
fn who_install_and_no_command() {
    let who = |ports: &str, json| {
        let ports = if ports.is_empty() { vec![] } else { port::spec::list(ports).unwrap() };
        Ok(Mode::Who(Who { ports, watch: false, json, state_dir: None }))
    };
    assert_eq!(decision(&["who"], &[("REBERTH_PORT", "x"), ("PORT", "80")]).mode, who("", false));
    assert_eq!(decision(&["who", "80", "--json", "53/udp", "80"], &[]).mode, who("80,53/udp", true));
    assert_eq!(errors(&["who", "x", "y"], &[]).len(), 2);
    let Ok(Mode::Who(got)) = decision(&["who"], &[("REBERTH_STATE_DIR", "/s")]).mode else { panic!("not who") };
    assert_eq!(got.state_dir, Some("/s".into()));

    assert_eq!(decision(&["install", "/x"], &[]).mode, Ok(Mode::Install("/x".into())));
    for list in [
        &["install"][..],
        &["install", ""],
        &["install", "a", "b"],
        &["rnu"],
        &["nginx", "-g"],
        &["--port", "80", "run"],
        &[""],
    ] {
        assert_eq!(errors(list, &[]).len(), 1, "{list:?}");
    }
    assert!(errors(&["rnu"], &[])[0].contains("did you mean run?"));
    for word in ["nginx", "sh", "true"] {
        let line = &errors(&[word], &[])[0];
        assert!(line.contains(&format!("reberth run -- {word}")) && !line.contains("did you mean"), "{line}");
    }
    assert!(errors(&[], &[])[1].starts_with("usage: "));
    assert!(decide(&[], &[]).mode.is_err());

    for list in
        [&["--help"][..], &["-h"], &["help"], &["help", "run"], &["run", "-h"], &["who", "--help"], &["install", "-h"]]
    {
        assert!(
            matches!(decision(list, &[("REBERTH_WAIT", "x")]).mode, Ok(Mode::Print(text)) if text.contains("Usage: reberth")),
            "{list:?}"
        );
    }
    for list in [&["-V"][..], &["--version"], &["run", "-V"], &["healthcheck", "--version"]] {
        assert_eq!(decision(list, &[]).mode, Ok(Mode::Print(crate::cli::version())), "{list:?}");
    }
}

/// Pseudorandom numbers below a bound, the same on every machine.
fn generator() -> impl FnMut(usize) -> usize {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move |below: usize| {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % below
    }
}

/// The pieces of random arguments.
fn pieces() -> Vec<&'static [u8]> {
    [
        "run",
        "healthcheck",
        "who",
        "install",
        "--",
        "-p",
        "-",
        "=",
        ",",
        ":",
        "..",
        "/",
        "[",
        "]",
        "{port}",
        "{fd.",
        "}",
        "0",
        "80",
        "99999",
        "18446744073709551616",
        "ms",
        "s",
        "h",
        "1.5",
        "next:",
        "TERM",
        "RTMIN+",
        "unix:",
        "tcp://",
        "http://",
        "::1",
        "none",
        "\n",
        "\0",
        "é",
        "--help",
        "-h",
        "-V",
    ]
    .iter()
    .map(|text| text.as_bytes())
    .chain([&b"\xff"[..], b"\xc3", b"\x1b[0m"])
    .collect()
}

/// Any arguments in any environment give a decision: never a panic, and never an error that spans lines.
#[test]
fn no_input_panics() {
    let mut random = generator();
    let pieces = pieces();
    let flags: Vec<String> =
        table::RUN.iter().chain(table::HEALTHCHECK).map(|setting| format!("--{}", setting.flag)).collect();
    let names: Vec<&str> = table::variables().chain(["PORT", "NO_COLOR", "REBERTH_X", "REBERTH_"]).collect();
    for _ in 0..4000 {
        let text = |random: &mut dyn FnMut(usize) -> usize| {
            let bytes = (0..random(6)).flat_map(|_| pieces[random(pieces.len())].to_vec()).collect::<Vec<u8>>();
            OsString::from_vec(bytes)
        };
        let mut argv = vec![OsString::from("reberth")];
        argv.push(
            ["run", "healthcheck", "who", "install"]
                .get(random(5))
                .map_or_else(|| text(&mut random), |name| name.into()),
        );
        for _ in 0..random(6) {
            let mut word = OsString::new();
            if random(2) == 0 {
                word.push(&flags[random(flags.len())]);
                word.push(["=", "", "x"][random(3)]);
            }
            word.push(text(&mut random));
            argv.push(word);
        }
        let vars: Vec<(OsString, OsString)> =
            (0..random(6)).map(|_| (names[random(names.len())].into(), text(&mut random))).collect();
        let decision = decide(&argv, &vars);
        let lines = decision.mode.as_ref().err().map(|error| error.lines().to_vec()).unwrap_or_default();
        for line in lines.iter().chain(&decision.warnings) {
            assert!(!line.contains(|c: char| c.is_control()), "{argv:?} {vars:?}: {line:?}");
        }
        if let Ok(Mode::Run(run)) = decision.mode {
            let told = |spec: &Spec| crate::app::app_port::AppPort {
                name: spec.name.clone(),
                addr: spec.addr,
                port: 1,
                fd: Some(3),
            };
            let ports: Vec<_> = run.ports.iter().map(told).collect();
            assert_eq!(crate::app::templates::expand(&run.command, &ports).len(), run.command.len());
        }
    }
}
