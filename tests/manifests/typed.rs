//! Owns what a reader can type: every flag, variable, value and command line on a page, in an image or a manifest is accepted by the
//! program. Must not know what they do.

use std::collections::BTreeSet;
use std::ffi::OsString;

use reberth::config::decide;
use reberth::setting::table;

use crate::documents::{code, documents, flags, pages, words};

/// Flags of other programs in the docs. Each is listed by name, so that a typo in one of reberth's is not taken for one of theirs.
#[rustfmt::skip]
const FOREIGN: &[&str] = &[
    // docker, podman, compose
    "arch", "build-arg", "cap-add", "filter", "format", "from", "health-cmd", "init", "interval", "name", "network", "no-deps", "no-recreate", "platform", "push",
    "retries", "rm", "scale", "start-interval", "start-period", "sysctl", "tmpfs", "user", "verbose", "wait",
    // cargo, its subcommands, the tests
    "all", "all-targets", "check", "db", "dry-run", "features", "list", "locked", "manifest-path", "no-fetch", "offline", "path", "release", "show-output", "test",
    "workspace",
    // cargo xtask, cargo measure, dpkg, pip, etcdctl
    "no-tls", "against", "only", "quick", "write", "print-architecture", "no-cache-dir", "prefix", "print-value-only",
    // uvicorn, hypercorn, gunicorn, dumb-init, curl
    "bind", "fd", "host", "no-control-socket", "worker-tmp-dir", "workers", "rewrite", "single-child", "noproxy", "unix-socket",
];

/// The words of a command line; `None` where one is a placeholder (`NAME`, `[OPTIONS]`, `on|off`, `…`), or the line is a message.
fn typed(line: &str) -> Option<Vec<OsString>> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut()?.push(letter),
        }
    }
    // Signals and variables are real words in capitals.
    let real = |part: &str| matches!(part, "TERM" | "QUIT" | "WINCH" | "TSTP" | "STOP" | "TTIN" | "TTOU");
    let parts = |word: &String| word.split(['=', ',', ':', '/', '[']).map(str::to_owned).collect::<Vec<_>>();
    let placeholder =
        |part: &String| !part.is_empty() && part != "K" && part.chars().all(|c| c.is_ascii_uppercase()) && !real(part);
    let open = |word: &String| ["…", "..", "|", "[O"].iter().any(|sign| word.contains(sign)) || word.ends_with(':');
    let vague = words.iter().any(|word| open(word) || parts(word).iter().any(placeholder));
    (!vague).then(|| words.into_iter().map(OsString::from).collect())
}

/// The program's objections to a command line in an environment, without doing anything.
fn objections(words: &[OsString], environ: &[(OsString, OsString)]) -> Vec<String> {
    let decision = decide(words, environ);
    let errors = decision.mode.err().map(|error| error.lines().to_vec()).unwrap_or_default();
    errors.into_iter().chain(decision.warnings).collect()
}

#[test]
fn every_variable_in_the_docs_exists() {
    let mut known: BTreeSet<_> = table::variables().collect();
    // The tests' own variable.
    known.insert("REBERTH_TEST_ROUNDS");
    let mut unknown = Vec::new();
    for (path, text) in documents() {
        for word in words(&text, "REBERTH_", |c| c.is_ascii_uppercase() || c == '_') {
            if !known.contains(word) {
                unknown.push(format!("{}: {word} is no variable of reberth", path.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_flag_in_the_docs_exists() {
    let known: BTreeSet<_> = ["run", "healthcheck", "keep", "who", "install"].into_iter().flat_map(flags).collect();
    let mut unknown = Vec::new();
    for (path, text) in documents() {
        for word in words(&text, "--", |c| c.is_ascii_lowercase() || c == '-') {
            let flag = &word[2..];
            // A rule line, or the end of a comment.
            if !flag.trim_matches('-').is_empty() && !known.contains(flag) && !FOREIGN.contains(&flag) {
                unknown.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "no flags of reberth, nor known ones of another program: {unknown:#?}");
}

#[test]
fn every_command_on_a_page_is_one_that_the_program_takes() {
    let known: BTreeSet<_> = ["run", "healthcheck"].into_iter().flat_map(flags).collect();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, text) in pages() {
        for line in code(&text) {
            let Some(words) = typed(&line) else { continue };
            let first = words[0].to_str().unwrap();
            let objections = if first == "reberth" && words.len() > 1 {
                // A command that is only named need not be complete.
                let named = words.len() == 2;
                if named { Vec::new() } else { objections(&words, &[]) }
            } else if words.len() > 1
                && first.strip_prefix("--").is_some_and(|flag| known.contains(flag))
                && !line.contains('{')
            {
                // Flags without their command belong to `run` or to `healthcheck`. One with a `{port}` belongs to the app.
                let around = |before: &[&str], after: &[&str]| {
                    let words =
                        before.iter().map(OsString::from).chain(words.clone()).chain(after.iter().map(OsString::from));
                    self::objections(&words.collect::<Vec<_>>(), &[("PORT".into(), "8080".into())])
                };
                let run = around(&["reberth", "run"], &["--", "true"]);
                if run.is_empty() {
                    run
                } else if around(&["reberth", "healthcheck"], &[]).is_empty() {
                    Vec::new()
                } else {
                    run
                }
            } else {
                continue;
            };
            seen += 1;
            wrong.extend(objections.iter().map(|objection| format!("{}: `{line}`: {objection}", path.display())));
        }
    }
    assert!(seen > 40, "the commands are found: {seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_value_of_a_variable_in_the_docs_is_one_that_the_program_takes() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, text) in documents() {
        for (at, _) in text.match_indices("REBERTH_") {
            let rest = &text[at..text[at..].find('\n').map_or(text.len(), |end| at + end)];
            let name =
                words(rest, "REBERTH_", |c| c.is_ascii_uppercase() || c == '_').into_iter().next().unwrap_or_default();
            let rest = &rest[name.len()..];
            // `X=value` in Dockerfiles and command lines, `X: value` in compose, `X, value: value` in a pod.
            let value =
                rest.strip_prefix('=').or_else(|| rest.strip_prefix(": ")).or_else(|| rest.strip_prefix(", value: "));
            let Some(value) = value.filter(|_| !name.is_empty() && !name.ends_with('_')) else { continue };
            let value = match value.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next().unwrap(),
                None => value.split([' ', '`', '}', ',', ';', ')']).next().unwrap(),
            };
            // Compose fills these in; and a service link is documented as ignored.
            if ["$", "…", ".."].iter().any(|sign| value.contains(sign))
                || name == "REBERTH_TEST_ROUNDS"
                || value.starts_with("tcp://10.") && name == "REBERTH_PORT"
            {
                continue;
            }
            seen += 1;
            let environ = [(name, value), ("PORT", "8080")].map(|(name, value)| (name.into(), value.into()));
            let words = ["reberth", "run", "--", "true"].map(OsString::from);
            for objection in objections(&words, &environ) {
                wrong.push(format!("{}: {name}={value}: {objection}", path.display()));
            }
        }
    }
    assert!(seen > 60, "the values are found: {seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_command_that_the_program_refuses_would_be_found() {
    let of = |line: &str| objections(&typed(line).unwrap(), &[]);
    assert_eq!(of("reberth run --exit-map 143=0 -- app").len(), 0);
    assert_eq!(of("reberth run --grace 5 --wiat 3s -- app").len(), 2);
    assert_eq!(of("reberth healthcheck --header 'K: V' http://a:b@host/").len(), 1);
    for vague in ["reberth run [OPTIONS] -- app", "reberth who PORT", "--exit-map CODE=0", "--register etcd://…"] {
        assert_eq!(typed(vague), None, "{vague}");
    }
}

#[test]
fn a_flag_that_does_not_exist_would_be_found() {
    let is_flag = |c: char| c.is_ascii_lowercase() || c == '-';
    let found = words("run --wiat 3s `--grace` x--y <!-- a --> [\"--port\"]", "--", is_flag);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["--grace", "--port", "--wiat"]);
    assert!(!flags("run").contains("wiat"));
}
