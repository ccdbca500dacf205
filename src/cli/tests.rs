//! Owns tables of command lines and what they parse to. Must not know what a value means.

use std::os::unix::ffi::OsStringExt;

use clap::CommandFactory;

use crate::setting::table;

use std::ffi::OsString;

use super::parse::*;
use super::*;

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

fn command(list: &[&str]) -> Vec<OsString> {
    match Run::from_words(&words(list)) {
        Typed::Options(run) => run.command,
        other => panic!("{list:?}: {other:?}"),
    }
}

#[test]
fn parsers_are_consistent() {
    Run::command().debug_assert();
    Healthcheck::command().debug_assert();
    Who::command().debug_assert();
    Install::command().debug_assert();
}

#[test]
fn everything_after_the_command_belongs_to_the_app() {
    for (list, want) in [
        (&["echo", "-p"][..], &["echo", "-p"][..]),
        (&["--", "echo", "-p", "80"], &["echo", "-p", "80"]),
        (&["-p", "80", "echo", "-p", "81"], &["echo", "-p", "81"]),
        (&["-p80", "echo", "--wait", "1s", "--help"], &["echo", "--wait", "1s", "--help"]),
        (&["--wait=1s", "--", "echo", "--", "x"], &["echo", "--", "x"]),
        (&["--wait=1s", "echo", "--", "x"], &["echo", "--", "x"]),
        (&["--wait=1s", "--", "-weird", "x"], &["-weird", "x"]),
        (&["--wait=1s", "--", "--", "x"], &["--", "x"]),
        (&["--exec", "true", "x"], &["true", "x"]),
        (&["--exec=no", "true", "-V"], &["true", "-V"]),
        (&["--wait=1s", "echo", ""], &["echo", ""]),
        (&[], &[]),
        (&["--"], &[]),
    ] {
        assert_eq!(command(list), words(want), "{list:?}");
        // The fast path and the parser agree.
        match parse::<Run>(&words(list)) {
            Typed::Options(run) => assert_eq!(run.command, words(want), "{list:?}"),
            other => panic!("{list:?}: {other:?}"),
        }
    }
    let raw = vec![OsString::from("--wait=1s"), OsString::from("echo"), OsString::from_vec(vec![0xff, b'-'])];
    assert!(matches!(Run::from_words(&raw), Typed::Options(run) if run.command[1].as_encoded_bytes() == b"\xff-"));
}

#[test]
fn plain_command_lines_need_no_parser_and_agree_with_it() {
    fn same<T: Plain + PartialEq + std::fmt::Debug>(lists: &[(&[&str], bool)]) {
        for (list, without) in lists {
            assert_eq!(plain::plain::<T>(&words(list)).is_some(), *without, "{list:?}");
            assert_eq!(T::from_words(&words(list)), parse::<T>(&words(list)), "{list:?}");
        }
    }
    same::<Run>(&[
        (&["true"], true),
        (&["--", "true", "-x"], true),
        (&["-p", "80", "--", "true"], true),
        (&["--port=80", "--wait", "1s", "--wait=2s", "true", "--port"], true),
        (&["--health", "/a=b", "--state-dir=/x=y", "true"], true),
        (&["-p80", "true"], false),
        (&["-port", "80", "true"], false),
        (&["--p", "80", "true"], false),
        (&["--port", "-1", "true"], false),
        (&["--port=", "true"], false),
        (&["--port"], false),
        (&["--exec", "true"], false),
        (&["--"], false),
        (&["-"], false),
        (&["--port=80"], true),
        (&[], true),
    ]);
    same::<Healthcheck>(&[
        (&[], true),
        (&["/health"], true),
        (&["--probe", "liveness"], true),
        (&["--probe=liveness", "--timeout", "1s", "--", "tcp"], true),
        (&["/a", "/b"], false),
        (&["/a", "--timeout", "1s"], false),
        (&["--quiet"], false),
        (&["--help"], false),
        (&[""], false),
    ]);
}

#[test]
fn the_last_flag_wins_and_ports_and_headers_accumulate() {
    match Run::from_words(&words(&["--wait", "1s", "--exec", "--wait=2s", "--exec=off", "-p", "1", "--port=2", "x"])) {
        Typed::Options(run) => {
            assert_eq!((run.wait, run.exec, run.port), (Some("2s".into()), Some("off".into()), words(&["1", "2"])));
        }
        other => panic!("{other:?}"),
    }
    match parse::<Healthcheck>(&words(&["--header", "A: 1", "--quiet", "/x", "--header=B: 2", "--quiet"])) {
        Typed::Options(check) => {
            assert_eq!(check.header, words(&["A: 1", "B: 2"]));
            assert_eq!((check.quiet, check.target), (Some("true".into()), Some("/x".into())));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn usage_errors_are_one_line() {
    for (list, parts) in [
        (&["--wiat", "1s", "x"][..], &["unexpected argument '--wiat'", "'--wait'", "see 'reberth run --help'"][..]),
        (&["--wait"], &["a value is required for '--wait <DURATION|forever>'"]),
        (&["-x", "x"], &["unexpected argument '-x'"]),
        (&["--exec=", "x"], &[]),
        (&["--a\nb", "x"], &["unexpected argument"]),
        (&["--wiat", "--nope=1", "--exec", "x"], &["unexpected argument '--wiat'", "unexpected argument '--nope'"]),
    ] {
        match Run::from_words(&words(list)) {
            Typed::Usage(lines, _) => {
                let line = lines.join("; ");
                assert!(parts.iter().all(|part| line.contains(part)), "{line}");
                assert!(!line.contains('\n') && !line.contains("Usage:"), "{line}");
            }
            Typed::Options(run) => assert_eq!(run.exec, Some("".into()), "{list:?}"),
            other => panic!("{list:?}: {other:?}"),
        }
    }
    // Options that were parsed before the error count, so that their own errors are reported too.
    assert!(matches!(Run::from_words(&words(&["--wait", "10", "--nope"])), Typed::Usage(_, run) if run.wait.is_some()));
    assert!(matches!(Run::from_words(&words(&["--nope", "--wait", "10"])), Typed::Usage(lines, run)
        if lines.len() == 1 && run.wait.is_some()));
    let raw = vec![OsString::from_vec(b"--\xff".to_vec())];
    assert!(matches!(Run::from_words(&raw), Typed::Usage(..)));
}

#[test]
fn help_names_every_setting() {
    let print = |typed| match typed {
        Typed::Print(text) => text,
        _ => panic!("not help"),
    };
    let long = print(match Run::from_words(&words(&["--help"])) {
        Typed::Print(text) => Typed::<()>::Print(text),
        _ => panic!("not help"),
    });
    for setting in table::RUN {
        let line = format!("[{}, default: {}]", setting.variable, setting.default);
        assert!(
            long.contains(&format!("--{} <", setting.flag)) || ["exec", "prewarm"].contains(&setting.flag),
            "{}: {long}",
            setting.flag
        );
        assert!(long.contains(&line), "{line}: {long}");
    }
    assert!(
        matches!(Run::from_words(&words(&["-h"])), Typed::Print(short) if short.len() < long.len() && !short.contains("REBERTH_WAIT"))
    );
    match parse::<Healthcheck>(&words(&["--help"])) {
        Typed::Print(text) => {
            for setting in table::HEALTHCHECK.iter().chain(table::of_flag("state-dir", true)) {
                assert!(text.contains(&format!("[{}, default: {}]", setting.variable, setting.default)), "{text}");
                assert!(text.contains(&format!("--{}", setting.flag)), "{text}");
            }
        }
        other => panic!("{other:?}"),
    }
    // A terminal has 24 lines of 80 columns.
    match Run::from_words(&words(&["-h"])) {
        Typed::Print(short) => {
            assert!(short.lines().count() <= 24, "{short}");
            let settings = short.lines().filter(|line| line.contains("--"));
            assert!(settings.clone().all(|line| line.len() <= 80), "{short}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(parse::<Who>(&words(&["-V"])), Typed::Print(version()));
    assert_eq!(Run::from_words(&words(&["--version"])), Typed::Print(version()));
}

#[test]
fn every_flag_has_a_setting_and_every_setting_a_flag() {
    let flags = |command: clap::Command| -> Vec<String> {
        command.get_arguments().filter_map(|arg| arg.get_long().map(String::from)).collect()
    };
    let (run, check) = (flags(Run::command()), flags(Healthcheck::command()));
    // Not settings of `run`.
    let own: Vec<&str> = table::RUN.iter().map(|setting| setting.flag).chain(["check", "json"]).collect();
    assert_eq!(run, own);
    // Each is in exactly one section of the help.
    let sections = |flag: &&str| help::RUN.sections.iter().filter(|section| section.has(flag)).count();
    assert!(own.iter().all(|flag| sections(flag) == 1));
    let known: Vec<&str> = table::HEALTHCHECK.iter().map(|setting| setting.flag).chain(["state-dir"]).collect();
    assert_eq!(check, known);
}
