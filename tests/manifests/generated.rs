//! Owns the parts of pages that are generated from the code: the tables of settings, exit codes and phases. Must not know how a setting is
//! read: the tables and the help come from the program itself.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::CommandFactory;
use reberth::cli;
use reberth::setting::table::{self, Group, Setting};

use crate::documents::{flags, read, root};

/// Compares a generated part of a page with the code, or writes it (`UPDATE_DOCS`).
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
    // A switch accepts a value (`--exec=no`), but needs none.
    let switch = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
    let value = arg.get_value_names().filter(|_| !switch).map(|names| format!(" {}", names[0])).unwrap_or_default();
    format!("{short}--{flag}{value}")
}

/// The tables of a command's settings, one for each group: names, forms, defaults and meanings are the code's.
fn settings(command: &clap::Command, coded: &[Setting], meanings: &[&str], groups: &[Group], level: &str) -> String {
    let flags: BTreeSet<&str> = coded.iter().map(|setting| setting.flag).collect();
    assert_eq!(flags.len(), coded.len(), "each flag once");
    assert!(coded.iter().all(|setting| groups.contains(&setting.group)), "each in a group of the page");
    let mut page = String::new();
    for group in groups {
        let heading = group.heading();
        write!(page, "{level} {heading}\n\n| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n")
            .unwrap();
        for (setting, meaning) in coded.iter().zip(meanings).filter(|(setting, _)| setting.group == *group) {
            let form = written(command, setting.flag);
            let default = setting.default.replace(concat!("reberth/", env!("CARGO_PKG_VERSION")), "reberth/VERSION");
            let prose = default.contains(' ') || default == "off" || default == "none" && !form.contains("none|");
            let default = if prose { default } else { format!("`{default}`") };
            let cells = format!("`{form}` | `{}` | {default} | {meaning}", setting.variable);
            writeln!(page, "| {} |", cells.replace('|', "\\|").replace(" \\| ", " | ")).unwrap();
        }
        page.push('\n');
    }
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
    helped(table::RUN, "run");
    helped(table::HEALTHCHECK, "healthcheck");
    let page = [
        settings(&cli::Run::command(), table::RUN, table::MEANINGS_OF_RUN, &Group::OF_RUN, "###"),
        settings(
            &cli::Healthcheck::command(),
            table::HEALTHCHECK,
            table::MEANINGS_OF_HEALTHCHECK,
            &[Group::Healthcheck],
            "##",
        ),
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
        ("128+n".to_owned(), "signal n terminated the app, or reberth while it was waiting"),
        (Code::NO.0.to_string(), "also: the app was unhealthy for too long (`--exit-on-unhealthy`)"),
        (
            Code::TIMEOUT.0.to_string(),
            "timeout: the port was not free, the app not ready, or an `--after` target not healthy in time",
        ),
        (Code::CANNOT.0.to_string(), "reberth failed: bad settings, no permission to bind, …"),
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
        (Phase::Waiting, ": for the port, or for `--after` targets"),
        (Phase::Starting, ": the app is running but not ready"),
        (Phase::Ready, ""),
        (Phase::Draining, ": stop requested"),
        (Phase::Exited, ", or a dead pid"),
        (Phase::Exec, ": `--exec`, no supervision"),
        (Phase::Keeping, ": `keep` holds the ports"),
    ];
    let mut page = String::from("| phase of `run` | startup | liveness | readiness |\n| --- | --- | --- | --- |");
    for (phase, meaning) in phases {
        let words = [Probe::Startup, Probe::Liveness, Probe::Readiness].map(|probe| word(phase, probe));
        write!(page, "\n| {}{meaning} | {} |", format!("{phase:?}").to_lowercase(), words.join(" | ")).unwrap();
    }
    generated("docs/probes.md", "phases", &page);
}
