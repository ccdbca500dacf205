//! Owns the promise that the docs match the code: what the pages have of settings, exit codes and phases, every flag and variable they and
//! docker/, k8s/ and examples/ name, and every link. Must not know how a setting is read: it compares with the program's own tables and help.
//!
//! `UPDATE_DOCS=1 cargo test --test manifests` writes the generated parts of the pages anew; without it they are only compared.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use reberth::cli;
use reberth::config::decide;
use reberth::config::meaning::{self, Group};
use reberth::setting::table::{self, Setting};

/// Flags in the docs that are other programs': each is known here by name, so that a slip of ours is not taken for one of theirs.
#[rustfmt::skip]
const FOREIGN: &[&str] = &[
    // docker, podman, compose
    "arch", "build-arg", "cap-add", "filter", "format", "from", "health-cmd", "init", "interval", "name", "network", "no-deps", "no-recreate", "platform", "push",
    "retries", "rm", "scale", "start-interval", "start-period", "sysctl", "tmpfs", "user", "verbose", "wait",
    // cargo, its subcommands, the tests
    "all", "all-targets", "check", "db", "dry-run", "features", "locked", "manifest-path", "no-fetch", "offline", "path", "release", "show-output", "test",
    "workspace",
    // cargo xtask, bench/run, dpkg, pip, etcdctl
    "no-tls", "quick", "print-architecture", "no-cache-dir", "prefix", "print-value-only",
    // uvicorn, hypercorn, gunicorn, dumb-init, curl
    "bind", "fd", "host", "no-control-socket", "worker-tmp-dir", "workers", "rewrite", "single-child", "noproxy", "unix-socket",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a folder of the repository; none where there is no such folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().path())
        // What Python leaves beside an app that was tried is no document.
        .filter(|path| !path.ends_with("__pycache__"))
        .flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] })
        .collect()
}

/// The pages: everything that is written for readers.
fn pages() -> Vec<(PathBuf, String)> {
    let top = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let folders = ["docs", "examples"].into_iter().flat_map(|folder| below(&root().join(folder)));
    let paths: Vec<_> = top.chain(folders).filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    assert!(paths.len() > 15, "the pages are there: {paths:?}");
    paths.into_iter().map(|path| (path.clone(), read(path))).collect()
}

/// Everything that shows a user how to call reberth: the pages, images and manifests.
fn documents() -> Vec<(PathBuf, String)> {
    let mut all = pages();
    let others: Vec<_> =
        ["docker", "k8s", "examples"].into_iter().flat_map(|folder| below(&root().join(folder))).collect();
    assert!(others.len() > 8, "the manifests are there: {others:?}");
    all.extend(
        others
            .into_iter()
            .filter(|path| path.extension().is_none_or(|e| e != "md"))
            .map(|path| (path.clone(), read(path))),
    );
    all
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

/// Compares a generated part of a page with what the code says, or writes it (`UPDATE_DOCS`).
fn generated(page: &str, name: &str, content: &str) {
    let text = read(page);
    let (opening, closing) = (format!("<!-- generated: {name} -->\n"), "\n<!-- end -->");
    let start = text.find(&opening).unwrap_or_else(|| panic!("{page}: no line '{}'", opening.trim())) + opening.len();
    let length = text[start..].find(closing).unwrap_or_else(|| panic!("{page}: '{name}' has no line '<!-- end -->'"));
    let found = &text[start..start + length];
    if found == content {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let new = format!("{}{content}{}", &text[..start], &text[start + length..]);
        std::fs::write(root().join(page), new).unwrap();
        return;
    }
    let differs = content.lines().zip(found.lines()).find(|(want, found)| want != found);
    panic!(
        "{page}: '{name}' is not what the code says (first difference, code and page: {differs:?}); \
         UPDATE_DOCS=1 cargo test --test manifests writes it"
    );
}

/// How a command's option is written: `-p, --port SPECS`.
fn written(command: &clap::Command, flag: &str) -> String {
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
    let arg = arg.unwrap_or_else(|| panic!("{} has no --{flag}", command.get_name()));
    let short = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    // A switch may be given a value (`--exec=no`), and nobody needs to.
    let switch = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
    let value = arg.get_value_names().filter(|_| !switch).map(|names| format!(" {}", names[0])).unwrap_or_default();
    format!("{short}--{flag}{value}")
}

/// A table of settings: names, forms and defaults are the code's.
fn settings(command: &clap::Command, coded: &[Setting], groups: &[Group], level: &str) -> String {
    let mut left: BTreeMap<&str, &Setting> = coded.iter().map(|setting| (setting.flag, setting)).collect();
    assert_eq!(left.len(), coded.len(), "each flag once");
    let mut page = String::new();
    for group in groups {
        write!(page, "{level} {}\n\n| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n", group.title)
            .unwrap();
        for (flag, meaning) in group.settings {
            let setting = left
                .remove(flag)
                .unwrap_or_else(|| panic!("meaning of --{flag}, which is no setting, or is there twice"));
            let form = written(command, flag);
            let default = setting.default.replace(concat!("reberth/", env!("CARGO_PKG_VERSION")), "reberth/VERSION");
            let prose = default.contains(' ') || default == "off" || default == "none" && !form.contains("none|");
            let default = if prose { default } else { format!("`{default}`") };
            let cells = format!("`{form}` | `{}` | {default} | {meaning}", setting.variable);
            writeln!(page, "| {} |", cells.replace('|', "\\|").replace(" \\| ", " | ")).unwrap();
        }
        page.push('\n');
    }
    assert!(left.is_empty(), "settings without a meaning (src/config/meaning.rs): {:?}", left.keys());
    page.trim_end().to_owned()
}

/// The table and the help of a command list the same flags.
fn helped(coded: &[Setting], command: &str) {
    let flags = flags(command);
    for setting in coded {
        assert!(flags.contains(setting.flag), "--{} is in the table and not in the help of {command}", setting.flag);
    }
    let extra: Vec<_> =
        flags.iter().filter(|flag| !coded.iter().any(|s| s.flag == **flag)).map(String::as_str).collect();
    let shared =
        if command == "run" { vec!["check", "help", "json", "version"] } else { vec!["help", "state-dir", "version"] };
    assert_eq!(extra, shared, "flags in the help of {command} that no table has");
}

#[test]
fn the_settings_are_those_on_the_page() {
    helped(&table::RUN, "run");
    helped(&table::HEALTHCHECK, "healthcheck");
    let page = [
        settings(&cli::Run::command(), &table::RUN, &meaning::RUN, "###"),
        settings(&cli::Healthcheck::command(), &table::HEALTHCHECK, &meaning::HEALTHCHECK, "##"),
    ];
    let mut others = String::from("| command | options |\n| --- | --- |\n");
    for (name, command) in [("keep", cli::Keep::command()), ("who", cli::Who::command())] {
        let options: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| arg.get_long())
            .map(|flag| format!("`{}`", written(&command, flag).replace('|', "\\|")))
            .collect();
        writeln!(others, "| `{name}` | {} |", options.join(", ")).unwrap();
    }
    // One after the other: each writes the page that it has read.
    generated("docs/settings.md", "settings of run", &page[0]);
    generated("docs/settings.md", "settings of healthcheck", &page[1]);
    generated("docs/settings.md", "options of keep and who", others.trim_end());
    let codes = exit_codes();
    generated("docs/settings.md", "exit codes", &codes);
}

/// The table of exit codes: the numbers are the code's.
fn exit_codes() -> String {
    use reberth::exit::Code;
    assert_eq!(Code::signalled(15).0, 128 + 15);
    let rows = [
        ("the app's own".to_owned(), "the app exited"),
        ("128+n".to_owned(), "the app, or reberth while it waited, was ended by signal n"),
        (Code::NO.0.to_string(), "also: the app was unhealthy for too long (`--exit-on-unhealthy`)"),
        (
            Code::TIMEOUT.0.to_string(),
            "not in time: the port was not free, the app not ready, or what it comes after not healthy",
        ),
        (Code::CANNOT.0.to_string(), "reberth itself could not: bad settings, no permission to bind, …"),
        (Code::NOT_EXECUTABLE.0.to_string(), "COMMAND cannot be executed"),
        (Code::NOT_FOUND.0.to_string(), "COMMAND is not found"),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(code, meaning)| format!("| {code} | {meaning} |")).collect();
    format!("| code | `run` |\n| --- | --- |\n{}", rows.join("\n"))
}

#[test]
fn the_phases_are_those_on_the_page() {
    use reberth::health::phase::Probe;
    use reberth::health::phase::{Ruling, rule};
    use reberth::state::Phase;
    let word = |phase, probe| match rule(phase, probe) {
        Ruling::Ask => "ask",
        Ruling::Pass(_) => "pass",
        Ruling::Fail(_) => "fail",
    };
    let phases = [
        (Phase::Waiting, ": for the port, or for what `--after` names"),
        (Phase::Starting, ": the app runs, and is not ready yet"),
        (Phase::Ready, ""),
        (Phase::Draining, ": a stop was asked for"),
        (Phase::Exited, ", or a dead pid"),
        (Phase::Exec, ": `--exec`, nobody watches"),
        (Phase::Keeping, ": `keep` holds the ports"),
    ];
    let mut page = String::from("| phase of `run` | startup | liveness | readiness |\n| --- | --- | --- | --- |");
    for (phase, meaning) in phases {
        let words = [Probe::Startup, Probe::Liveness, Probe::Readiness].map(|probe| word(phase, probe));
        write!(page, "\n| {}{meaning} | {} |", format!("{phase:?}").to_lowercase(), words.join(" | ")).unwrap();
    }
    generated("docs/probes.md", "phases", &page);
}

#[test]
fn the_readme_is_short() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines < 200, "README.md has {lines} lines: what not everybody needs belongs into docs/");
    let wide: Vec<_> = readme.lines().filter(|line| line.chars().count() > 120).collect();
    assert!(wide.is_empty(), "README.md: lines of more than 120 characters: {wide:#?}");
}

#[test]
fn the_changelog_begins_with_this_version() {
    let changelog = read("CHANGELOG.md");
    let first = changelog.lines().find_map(|line| line.strip_prefix("## ")).unwrap();
    assert_eq!(first.split(' ').next(), Some(env!("CARGO_PKG_VERSION")));
}

/// A page without what stands in code: fenced blocks and `spans`.
fn prose(page: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.extend(line.split('`').enumerate().map(|(n, part)| if n % 2 == 0 { part } else { "code" }));
        }
        prose.push('\n');
    }
    prose
}

/// The targets of a page's links.
fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    prose.match_indices("](").map(|(at, _)| prose[at + 2..].split(')').next().unwrap().to_owned()).collect()
}

/// The anchors of a page's headings, by GitHub's rule.
fn anchors(page: &str) -> Vec<String> {
    let mut fenced = false;
    let mut anchors = Vec::new();
    for line in page.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let letters = title.trim().to_lowercase();
        let kept = letters.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        anchors.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    anchors
}

/// What is wrong with a page's links.
fn dead(path: &Path, page: &str) -> Vec<String> {
    let outside = ["https://", "http://", "mailto:"];
    let is_dead = |link: &String| {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { path.to_owned() } else { path.parent().unwrap().join(file) };
        !target.exists() || !anchor.is_empty() && !anchors(&read(&target)).iter().any(|a| a == anchor)
    };
    links(page).into_iter().filter(|link| !outside.iter().any(|o| link.starts_with(o))).filter(is_dead).collect()
}

#[test]
fn no_link_is_dead() {
    for (path, text) in pages() {
        assert_eq!(dead(&path, &text), [""; 0], "{}: links that lead nowhere", path.display());
        let mut seen = BTreeSet::new();
        for anchor in anchors(&text) {
            // A second heading of the same words would get another anchor than the one that is checked here. A changelog repeats its own.
            assert!(
                seen.insert(anchor.clone()) || path.ends_with("CHANGELOG.md"),
                "{}: two headings #{anchor}",
                path.display()
            );
        }
    }
}

#[test]
fn every_page_is_found_from_the_readme() {
    let mut found = BTreeSet::new();
    let mut open = vec![root().join("README.md")];
    while let Some(path) = open.pop() {
        if found.insert(path.clone()) && path.extension().is_some_and(|e| e == "md") {
            let targets = links(&read(&path)).into_iter().filter(|link| !link.contains("://"));
            let targets = targets.map(|link| path.parent().unwrap().join(link.split('#').next().unwrap()));
            // A link to a folder shows its README.
            let targets = targets.flat_map(|target| [target.join("README.md"), target]);
            open.extend(targets.filter(|target| target.exists()).map(|target| target.canonicalize().unwrap()));
        }
    }
    let lost: Vec<_> = pages().into_iter().map(|(path, _)| path).filter(|path| !found.contains(path)).collect();
    assert!(lost.is_empty(), "pages that no link leads to: {lost:?}");
}

#[test]
fn a_dead_link_would_be_found() {
    let page = "# One, two\n[a](README.md) [b](#one-two) [c](READYOU.md) [d](#one)\n```\n[e](no)\n```\n`[f](no)` [g](README.md#no)\n";
    let path = root().join("README.md");
    // Anchors of the page itself are those of the file, so `#one-two` is none either.
    assert_eq!(dead(&path, page), ["#one-two", "READYOU.md", "#one", "README.md#no"]);
    assert_eq!(anchors(page), ["one-two"]);
}

#[test]
fn every_variable_in_the_docs_exists() {
    let mut known: BTreeSet<_> = table::variables().collect();
    // The tests' own.
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

/// What a page shows as code: spans, and lines of blocks without their prompt.
fn code(page: &str) -> Vec<String> {
    let mut fenced = false;
    let mut code = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            let line = line.trim();
            code.push(line.strip_prefix("$ ").unwrap_or(line).to_owned());
        } else {
            code.extend(line.replace("\\|", "|").split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    code
}

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

/// What the program has against a command line in an environment, without doing anything.
fn objections(words: &[OsString], environ: &[(OsString, OsString)]) -> Vec<String> {
    let decision = decide(words, environ);
    let errors = decision.mode.err().map(|error| error.lines().to_vec()).unwrap_or_default();
    errors.into_iter().chain(decision.warnings).collect()
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
                // A command that is only named is not one that lacks something.
                let named = words.len() == 2;
                if named { Vec::new() } else { objections(&words, &[]) }
            } else if words.len() > 1
                && first.strip_prefix("--").is_some_and(|flag| known.contains(flag))
                && !line.contains('{')
            {
                // Flags without their command: of `run` or of `healthcheck`. One with a `{port}` is the app's.
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
            // Compose fills these in, and of a service link it is said that it is ignored.
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
