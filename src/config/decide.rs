//! Owns the decision: from arguments and variables to a command with its settings, or to all errors in them.
//! Pure: knows nothing but its two arguments.

use std::ffi::OsString;

use super::mode::Mode;
use super::{healthcheck, run};
use crate::check::settings::Check;
use crate::cli::{self, Plain, Typed};
use crate::env::Environ;
use crate::error::Error;
use crate::log::settings::{self, Format, Level, Log};
use crate::setting::value::{distance, nearest, one_line, shown};

/// The named command. It decides which exit code a failure has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Run,
    Keep,
    Healthcheck,
    Who,
    Install,
    /// No command, or an unknown one.
    None,
}

/// What reberth does, decided once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub command: Command,
    pub mode: Result<Mode, Error>,
    /// Valid even if `mode` is an error: settings errors are printed in the configured format.
    pub log: Log,
    /// To be logged once the log is open, one per line. Only from `run`.
    pub warnings: Vec<String>,
}

const NAMES: [(&str, Command); 5] = [
    ("run", Command::Run),
    ("keep", Command::Keep),
    ("healthcheck", Command::Healthcheck),
    ("who", Command::Who),
    ("install", Command::Install),
];

/// Decides from the arguments, including the program's name, and the environment.
pub fn decide(argv: &[OsString], environ: &[(OsString, OsString)]) -> Decision {
    let environ = Environ::read(environ);
    let (name, words) =
        argv.get(1..).and_then(<[OsString]>::split_first).map_or((None, &[][..]), |(name, words)| (Some(name), words));
    let command = name
        .and_then(|name| NAMES.iter().find(|(known, _)| name == known))
        .map_or(Command::None, |(_, command)| *command);
    let mut log = quiet_log(&environ);
    let mut warnings = Vec::new();
    let mode = match command {
        Command::Run => match cli::Run::from_words(words) {
            Typed::Print(text) => Ok(Mode::Print(text)),
            typed => {
                let (options, usage) = split(typed);
                let broken = !usage.is_empty();
                let decided = run::decide(&options, &environ, usage);
                (log, warnings) = (decided.log, decided.warnings);
                if broken {
                    log.format = typed_format(words).unwrap_or(log.format);
                }
                decided.mode
            }
        },
        Command::Keep => match cli::parse::<cli::Keep>(words) {
            Typed::Print(text) => Ok(Mode::Print(text)),
            typed => {
                let (options, usage) = split(typed);
                let decided = run::keep(&options.into(), &environ, usage);
                (log, warnings) = (decided.log, decided.warnings);
                decided.mode
            }
        },
        Command::Healthcheck => match cli::Healthcheck::from_words(words) {
            Typed::Print(text) => Ok(Mode::Print(text)),
            typed => {
                let (options, usage) = split(typed);
                healthcheck::decide(&options, &environ, usage)
            }
        },
        Command::Who => match cli::parse::<cli::Who>(words) {
            Typed::Print(text) => Ok(Mode::Print(text)),
            typed => {
                let (options, usage) = split(typed);
                healthcheck::who(&options, &environ, usage)
            }
        },
        Command::Install => match cli::parse::<cli::Install>(words) {
            Typed::Print(text) => Ok(Mode::Print(text)),
            typed => {
                let (options, usage) = split(typed);
                healthcheck::install(&options, usage)
            }
        },
        Command::None => no_command(name, words),
    };
    // Here for all lines: some quote names and arguments verbatim.
    let one_line = |lines: Vec<String>| lines.iter().map(|line| one_line(line)).collect();
    let mode = mode.map_err(|error| match error {
        Error::Settings(lines) => Error::Settings(one_line(lines)),
        other => other,
    });
    let mode = mode.map(|mode| match mode {
        Mode::Check(check) => {
            let (run, warnings) = (check.run.map_err(one_line), one_line(check.warnings));
            Mode::Check(Box::new(Check { run, warnings, ..*check }))
        }
        other => other,
    });
    Decision { command, mode, log, warnings: one_line(warnings) }
}

fn split<T: Default>(typed: Typed<T>) -> (T, Vec<String>) {
    match typed {
        Typed::Options(options) => (options, Vec::new()),
        Typed::Usage(lines, options) => (options, lines),
        Typed::Print(_) => Default::default(),
    }
}

/// The log of commands that keep none: errors only, in the environment's format if that is valid.
fn quiet_log(environ: &Environ) -> Log {
    let format = environ.run.log_format.as_deref().and_then(|text| settings::format(text).ok());
    Log {
        level: Level::Error,
        format: format.unwrap_or(Format::Text),
        file: None,
        color: !environ.no_color,
        live: !environ.dumb,
    }
}

/// `--log-format` from a command line that failed to parse, at any place before COMMAND.
fn typed_format(words: &[OsString]) -> Option<Format> {
    let mut found = None;
    let mut words = words.iter().map(|word| word.to_str().unwrap_or_default());
    while let Some(word) = words.next().filter(|word| *word != "--") {
        let value = if word == "--log-format" { words.next() } else { word.strip_prefix("--log-format=") };
        found = value.and_then(|text| settings::format(text).ok()).or(found);
    }
    found
}

/// `reberth`, `reberth --help`, or an unknown command.
fn no_command(name: Option<&OsString>, words: &[OsString]) -> Result<Mode, Error> {
    let fail = |line: String| Err(Error::Settings(vec![line]));
    let Some(name) = name else {
        let mut lines = vec!["no command given: reberth run|healthcheck|keep|who|install ...".to_string()];
        lines.push("usage: reberth run [OPTIONS] [--] COMMAND [ARG]...; see 'reberth --help'".into());
        return Err(Error::Settings(lines));
    };
    let text = name.to_string_lossy();
    match text.as_ref() {
        "-h" | "--help" => return Ok(Mode::Print(cli::HELP.into())),
        "-V" | "--version" => return Ok(Mode::Print(cli::version())),
        "help" => {
            // Several tools accept `help COMMAND`, and it costs one line here.
            let known = words.first().filter(|word| NAMES.iter().any(|(name, _)| word == name));
            let Some(word) = known else { return Ok(Mode::Print(cli::HELP.into())) };
            return decide(&["reberth".into(), word.clone(), "--help".into()], &[]).mode;
        }
        _ => {}
    }
    let commands = "the commands are run, healthcheck, keep, who and install";
    if text.starts_with('-') {
        return fail(format!(
            "{}: comes before the command; {commands}: reberth run [OPTIONS] [--] COMMAND [ARG]...",
            shown(&text)
        ));
    }
    // The shorter the word, the fewer edits are a typo: `sh` is not meant to be `who`.
    let near =
        nearest(&text, NAMES.iter().map(|(name, _)| *name)).filter(|near| distance(&text, near) * 3 <= near.len());
    let hint = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
    fail(format!("{0}: no such command; {commands} ({hint}to start an app: reberth run -- {0})", shown(&text)))
}
