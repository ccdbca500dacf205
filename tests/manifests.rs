//! Owns the promise that the docs match the code: README's tables, and every flag and variable in docker/ and k8s/.
//! Must not know how a setting is read: it compares names and defaults with the program's own table and help.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use reberth::config::table::{self, Setting};

/// Flags in the docs that are other programs': each is known here by name, so that a slip of ours is not taken for one of theirs.
#[rustfmt::skip]
const FOREIGN: [&str; 23] = [
    // docker, podman, compose
    "build-arg", "format", "from", "health-cmd", "init", "interval", "network", "retries", "start-interval", "scale", "start-period", "verbose", "wait",
    // cargo, ./static, dpkg
    "features", "no-tls", "print-architecture", "release", "test",
    // uvicorn, dumb-init, curl
    "fd", "rewrite", "single-child", "noproxy", "unix-socket",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Everything that shows a user how to call reberth.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    for folder in ["docker", "k8s"] {
        paths.extend(std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    assert!(paths.len() > 8, "the docs are there: {paths:?}");
    paths.into_iter().map(|path| (path.clone(), read(path))).collect()
}

/// The words of a text that start with `prefix` and go on with letters that `more` allows.
fn words<'a>(text: &'a str, prefix: &str, more: fn(char) -> bool) -> BTreeSet<&'a str> {
    let before = |at: usize| text[..at].chars().next_back();
    text.match_indices(prefix)
        .filter(|(at, _)| !before(*at).is_some_and(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '!'))
        .map(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c| !more(c)).unwrap_or(rest.len());
            &text[at..at + prefix.len() + end]
        })
        .filter(|word| word.len() > prefix.len())
        .collect()
}

fn help(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_reberth")).args([command, "--help"]).output().unwrap();
    assert!(output.status.success(), "reberth {command} --help: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The flags that a command's help lists, without the dashes.
fn flags(command: &str) -> BTreeSet<String> {
    let is_flag = |c: char| c.is_ascii_lowercase() || c == '-';
    help(command)
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| words(line, "--", is_flag).into_iter().next().map(|word| word[2..].to_owned()))
        .collect()
}

/// The rows of the table that follows a marker comment, cells trimmed, without the two header lines.
fn rows(marker: &str) -> Vec<Vec<String>> {
    let readme = read("README.md");
    let (_, after) =
        readme.split_once(&format!("<!-- {marker} -->\n")).unwrap_or_else(|| panic!("no marker '{marker}'"));
    after
        .lines()
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let line = line.trim_matches('|').replace("\\|", "\u{1}");
            line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
        })
        .collect()
}

/// What a row says of a setting, in the table's words: flag, variable, default.
fn setting(row: &[String]) -> (String, String, String) {
    let flag = row[0].split_once("--").unwrap().1;
    let flag = flag.split([' ', '`']).next().unwrap();
    (flag.to_owned(), row[1].replace('`', ""), row[2].replace('`', ""))
}

fn same_settings(marker: &str, code: &[Setting], command: &str) {
    let documented: Vec<_> = rows(marker).iter().map(|row| setting(row)).collect();
    let version = concat!("reberth/", env!("CARGO_PKG_VERSION"));
    let coded: Vec<_> = code
        .iter()
        .map(|s| (s.flag.to_owned(), s.variable.to_owned(), s.default.replace(version, "reberth/VERSION")))
        .collect();
    assert_eq!(documented, coded, "README's table '{marker}' and the code");
    let flags = flags(command);
    for setting in code {
        assert!(flags.contains(setting.flag), "--{} is in the table and not in the help of {command}", setting.flag);
    }
    let extra: Vec<_> =
        flags.iter().filter(|flag| !code.iter().any(|s| s.flag == **flag)).map(String::as_str).collect();
    let shared = if command == "run" { vec!["help", "version"] } else { vec!["help", "state-dir", "version"] };
    assert_eq!(extra, shared, "flags in the help of {command} that no table has");
}

#[test]
fn the_settings_of_run_are_those_in_the_readme() {
    same_settings("settings: run", &table::RUN, "run");
}

#[test]
fn the_settings_of_healthcheck_are_those_in_the_readme() {
    same_settings("settings: healthcheck", &table::HEALTHCHECK, "healthcheck");
}

#[test]
fn the_exit_codes_are_those_in_the_readme() {
    use reberth::exit::Code;
    let documented: Vec<String> = rows("exit codes").into_iter().map(|row| row[0].clone()).collect();
    let code = |code: Code| code.0.to_string();
    let fixed = [Code::TIMEOUT, Code::CANNOT, Code::NOT_EXECUTABLE, Code::NOT_FOUND].map(code);
    assert_eq!(documented[..2], ["the app's own", "128+n"]);
    assert_eq!(documented[2..], fixed);
    assert_eq!(Code::signalled(15).0, 128 + 15);
}

#[test]
fn the_phases_are_those_in_the_readme() {
    use reberth::config::Probe;
    use reberth::health::phase::{Ruling, rule};
    use reberth::state::Phase;
    let word = |phase, probe| match rule(phase, probe) {
        Ruling::Ask => "ask",
        Ruling::Pass(_) => "pass",
        Ruling::Fail(_) => "fail",
    };
    let phases =
        [Phase::Waiting, Phase::Starting, Phase::Ready, Phase::Draining, Phase::Exited, Phase::Exec, Phase::Keeping];
    let rows = rows("phases");
    assert_eq!(rows.len(), phases.len());
    for (row, phase) in rows.iter().zip(phases) {
        let coded = [Probe::Startup, Probe::Liveness, Probe::Readiness].map(|probe| word(phase, probe));
        assert!(row[0].starts_with(&format!("{phase:?}").to_lowercase()), "{} stands where {phase:?} belongs", row[0]);
        assert_eq!(row[1..], coded, "{phase:?}");
    }
}

#[test]
fn every_variable_in_the_docs_exists() {
    let known: BTreeSet<_> = table::variables().collect();
    for (path, text) in documents() {
        for word in words(&text, "REBERTH_", |c| c.is_ascii_uppercase() || c == '_') {
            assert!(known.contains(word), "{}: {word} is no variable of reberth", path.display());
        }
    }
}

#[test]
fn every_flag_in_the_docs_exists() {
    let known: BTreeSet<_> = ["run", "healthcheck", "who", "install"].into_iter().flat_map(flags).collect();
    for (path, text) in documents() {
        for word in words(&text, "--", |c| c.is_ascii_lowercase() || c == '-') {
            let flag = &word[2..];
            // A rule line, or the end of a comment.
            if flag.trim_matches('-').is_empty() {
                continue;
            }
            assert!(
                known.contains(flag) || FOREIGN.contains(&flag),
                "{}: {word} is no flag of reberth, nor a known one of another program",
                path.display()
            );
        }
    }
}

fn manifests() -> Vec<(PathBuf, String)> {
    let all: Vec<_> = documents().into_iter().filter(|(path, _)| path.parent().unwrap().ends_with("k8s")).collect();
    assert!(all.len() >= 5, "the manifests are there");
    all
}

/// The number after the first `key`. Every duration in the manifests is in seconds.
fn number(text: &str, key: &str) -> u64 {
    let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("no '{key}'"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|e| panic!("'{key}': {e}"))
}

#[test]
fn the_times_in_every_manifest_fit_each_other() {
    for (path, text) in manifests() {
        let variable = |name: &str| number(&text, &format!("{{name: {name}, value: "));
        let path = path.display();
        let termination = number(&text, "terminationGracePeriodSeconds: ");
        assert!(
            variable("REBERTH_DRAIN") + variable("REBERTH_GRACE") < termination,
            "{path}: reberth ends before the kubelet kills"
        );
        assert!(variable("REBERTH_WAIT") > termination, "{path}: a new pod outwaits the old one");
        let startup = text.split("startupProbe:").nth(1).unwrap();
        let budget = number(startup, "periodSeconds: ") * number(startup, "failureThreshold: ");
        assert!(budget > variable("REBERTH_WAIT"), "{path}: a waiting pod is not restarted");
        assert_eq!(
            text.matches("timeoutSeconds: ").count(),
            text.matches("timeoutSeconds: 2").count(),
            "{path}: above the probe's 0.9 s"
        );
    }
}

#[test]
fn every_container_is_restricted() {
    for (path, text) in manifests() {
        let path = path.display();
        let containers = text.matches("image: ").count();
        for line in ["allowPrivilegeEscalation: false", "readOnlyRootFilesystem: true", "capabilities: {drop: [ALL]}"] {
            assert_eq!(text.matches(line).count(), containers, "{path}: {line}, for each container");
        }
        for line in ["runAsNonRoot: true", "seccompProfile: {type: RuntimeDefault}", "enableServiceLinks: false"] {
            assert_eq!(text.matches(line).count(), 1, "{path}: {line}, for the pod");
        }
    }
}

#[test]
fn a_flag_that_does_not_exist_would_be_found() {
    let is_flag = |c: char| c.is_ascii_lowercase() || c == '-';
    let found = words("run --wiat 3s `--grace` x--y <!-- a --> [\"--port\"]", "--", is_flag);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["--grace", "--port", "--wiat"]);
    assert!(!flags("run").contains("wiat"));
}
