//! Owns the help pages: the groups of options, an example for each group, and the layout. Must not know what a value means: names and
//! descriptions are the parser's, variables and defaults the table's.
//!
//! clap's own help would add 45 KB to every binary, most of it for wrapping text to a terminal. `pages/` makes man pages and completions
//! from the same text and is in no binary.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory, FromArgMatches};

use crate::setting::table::{self, Group};

/// The page of one command.
#[derive(Debug)]
pub struct Page {
    pub about: &'static str,
    pub usage: &'static str,
    /// The options of `-h`, each with a short description. Empty: `-h` prints everything.
    pub short: &'static [(&'static str, &'static str)],
    /// The sections of `--help`. Empty: all options form one.
    pub sections: &'static [Section],
    /// The text below the options.
    pub notes: &'static str,
}

/// A group of options, with an example.
#[derive(Debug)]
pub struct Section {
    /// `None`: the options that are no settings, and have no variable.
    pub about: Option<Group>,
    pub example: &'static str,
}

impl Section {
    fn heading(&self) -> &'static str {
        self.about.map_or("Dry run", Group::heading)
    }

    pub fn has(&self, flag: &str) -> bool {
        table::of_flag(flag, false).map(|setting| setting.group) == self.about
    }
}

/// A command with a page.
pub trait Paged: CommandFactory + FromArgMatches + Default {
    const PAGE: &'static Page;
}

pub static RUN: Page = Page {
    about: "Claim the ports, launch the app, be its init",
    usage: "reberth run [OPTIONS] [--] COMMAND [ARG]...",
    short: &[
        ("port", "[NAME=][ADDR:]PORT[/udp],... to claim"),
        ("profile", "prod|dev|test; dev: no wait, next free port"),
        ("wait", "DURATION|forever for a busy port"),
        ("fallback", "none|next[:N]|any, after the wait"),
        ("handover", "auto|on|off|bind: give the app the socket"),
        ("health", "/path, tcp, a URL: what readiness checks"),
        ("start-timeout", "DURATION for the app to become ready"),
        ("drain", "DURATION from the first TERM to the app's"),
        ("grace", "DURATION from the app's TERM to KILL"),
        ("log", "off|error|warn|info|debug|trace"),
        ("check", "print what a run would do, and do nothing"),
    ],
    sections: &[
        Section {
            about: Some(Group::Ports),
            example: "reberth run --port web=8080,admin=127.0.0.1:9090 --wait 2m -- app --listen {addr}",
        },
        Section {
            about: Some(Group::Handover),
            example: "reberth run --port 0.0.0.0:8080 --handover bind --prewarm -- gunicorn app:app",
        },
        Section {
            about: Some(Group::Signals),
            example: "reberth run --port 80 --signal-map TERM=QUIT --drain 5s --grace 20s -- nginx -g 'daemon off;'",
        },
        Section {
            about: Some(Group::Health),
            example: "reberth run --port 8080 --health /ready --exit-on-unhealthy 10s -- app",
        },
        Section {
            about: Some(Group::BeforeTheApp),
            example: "reberth run --after postgres://db,redis://cache --port 8080 -- app",
        },
        Section {
            about: Some(Group::Registry),
            example: "reberth run --register etcd://etcd:2379/services/api --port 8080 -- app",
        },
        Section { about: Some(Group::Log), example: "reberth run --log debug --log-format json -- app" },
        Section { about: None, example: "reberth run --check --port 8080 -- app" },
    ],
    notes: "\
In the arguments of COMMAND, {port}, {port.NAME}, {addr}, {host}, {fd} and {fd.NAME} are replaced.
A flag beats its variable, then PORT (for ports), the profile and the default. Durations: 250ms, 10s, 1m30s, 2h.
Exit codes: the app's own, 128+n for signal n, 124 timeout, 125 reberth failed, 126 and 127 as in a shell.",
};

pub static KEEP: Page = Page {
    about: "Hold the ports of a --share name, without an app, until TERM",
    usage: "reberth keep [OPTIONS]",
    short: &[],
    sections: &[],
    notes: "\
Run it in its own container or sidecar: it outlives restarts, crashes and deployments of the app, and clients wait meanwhile
instead of being refused.
Exit codes: 0 after TERM, INT or QUIT; 124 the port was not free in time, 125 reberth failed.
Example: reberth keep --share api --port 0.0.0.0:8080",
};

pub static HEALTHCHECK: Page = Page {
    about: "Check once whether the app is healthy: exit 0 (healthy) or 1 (anything else)",
    usage: "reberth healthcheck [OPTIONS] [TARGET]",
    short: &[],
    sections: &[],
    notes: "\
Without TARGET it checks what 'reberth run' in the same container is configured with, on the port actually taken;
if none is running, REBERTH_HEALTH, REBERTH_LIVENESS, REBERTH_PORT and PORT decide.
Example: reberth healthcheck --probe liveness --timeout 2s",
};

pub static WHO: Page = Page {
    about: "Show who holds a port, in which state, and what to do about it",
    usage: "reberth who [OPTIONS] [PORT]...",
    short: &[],
    sections: &[],
    notes: "\
Exit codes: 0 the ports are free, 1 some port is held, 125 reberth failed.
Examples: reberth who 8080 53/udp; reberth who --watch 8080",
};

pub static INSTALL: Page = Page {
    about: "Copy this binary to DEST, or to DEST/reberth if DEST is a folder",
    usage: "reberth install DEST",
    short: &[],
    sections: &[],
    notes: "Example: reberth install /shared",
};

/// The page of `-h`, or of `--help` (`long`).
pub fn page(command: &Command, page: &Page, long: bool) -> String {
    let mut text = format!("{}\n\nUsage: {}\n\n", page.about, page.usage);
    let of = |flag: &str| command.get_arguments().find(|arg| arg.get_long() == Some(flag));
    if !long && !page.short.is_empty() {
        for (flag, words) in page.short {
            if let Some(arg) = of(flag) {
                let default = table::of_flag(flag, false).map(|setting| setting.default);
                let default = default.map(|default| format!(" [{default}]")).unwrap_or_default();
                line(&mut text, &name(arg), &format!("{words}{default}"));
            }
        }
        line(&mut text, "  -h, --help", "print this; --help shows all settings, with examples");
        line(&mut text, "  -V, --version", "print the version");
        // Writing to a String cannot fail.
        let _ = write!(text, "\nEach also has a variable: --log-file is REBERTH_LOG_FILE.\n{}\n", page.notes);
        return text;
    }
    let healthcheck = command.get_name().ends_with("healthcheck");
    for arg in command.get_arguments().filter(|arg| arg.is_positional()) {
        let name = arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
        let _ = writeln!(text, "  {name:20} {}", words(arg));
    }
    let entry = |text: &mut String, arg: &Arg| {
        let setting = arg.get_long().and_then(|long| table::of_flag(long, healthcheck));
        if !long {
            let _ = writeln!(text, "{:36} {}", named(arg), words(arg));
            return;
        }
        let _ = writeln!(text, "{}\n          {}", named(arg), words(arg));
        if let Some(setting) = setting {
            let _ = writeln!(text, "          [{}, default: {}]", setting.variable, setting.default);
        }
    };
    let options = || command.get_arguments().filter(|arg| !arg.is_positional());
    for section in page.sections {
        let _ = writeln!(text, "\n{}:", section.heading());
        let own = |arg: &&Arg| arg.get_long().is_some_and(|flag| section.has(flag));
        options().filter(own).for_each(|arg| entry(&mut text, arg));
        let _ = writeln!(text, "  Example: {}", section.example);
    }
    if page.sections.is_empty() {
        let _ = writeln!(text, "\nOptions:");
        options().for_each(|arg| entry(&mut text, arg));
    } else {
        let _ = writeln!(text);
    }
    line(&mut text, "  -h, --help", "Print help");
    line(&mut text, "  -V, --version", "Print version");
    let _ = write!(text, "\n{}\n", page.notes);
    text
}

/// A line with two columns.
fn line(text: &mut String, left: &str, right: &str) {
    let _ = writeln!(text, "{left:22} {right}");
}

/// `  -p, --port`
fn name(arg: &Arg) -> String {
    let short = arg.get_short().map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    format!("  {short}--{}", arg.get_long().unwrap_or_default())
}

/// `  -p, --port <SPECS>`
fn named(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
    // The value of a BOOL is optional.
    let value = if value == "BOOL" { "[=<BOOL>]".to_owned() } else { format!(" <{value}>") };
    name(arg) + &value
}

fn words(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

/// The command for man pages and completions: the page's text, and the variable and default of each option.
pub fn documented<T: Paged>() -> Command {
    let command = T::command();
    let healthcheck = command.get_name().ends_with("healthcheck");
    let page = T::PAGE;
    let heading = |flag: &str| page.sections.iter().find(|section| section.has(flag)).map(Section::heading);
    let examples: Vec<&str> = page.sections.iter().map(|section| section.example).collect();
    let examples =
        if examples.is_empty() { String::new() } else { format!("\n\nExamples:\n\n{}", examples.join("\n\n")) };
    let notes = format!("{}{examples}", page.notes.replace('\n', "\n\n"));
    command.about(page.about).override_usage(page.usage).after_help(notes).mut_args(|arg| {
        let Some(flag) = arg.get_long().map(str::to_owned) else { return arg };
        let words = words(&arg);
        let arg = match table::of_flag(&flag, healthcheck) {
            Some(setting) => arg.long_help(format!("{words}\n[{}, default: {}]", setting.variable, setting.default)),
            None => arg,
        };
        arg.help_heading(heading(&flag))
    })
}
