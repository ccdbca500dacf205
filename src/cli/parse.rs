//! Owns the parsing of options by clap, and clap's errors as one line each. Must not know which options there are.
//!
//! Builds only the parser of the named command, because `healthcheck` runs every few seconds and must not pay for the options of `run`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::FromArgMatches;
use clap::error::{ContextKind, ContextValue, Error as ClapError, ErrorKind};

use super::help::{self, Paged};
use super::version::version;

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed<T> {
    /// The options, all valid.
    Options(T),
    /// Usage errors, one per line, and the options that could be parsed nevertheless.
    Usage(Vec<String>, T),
    /// Help or version, for stdout.
    Print(String),
}

/// Parses the words after the command's name.
pub fn parse<T: Paged>(words: &[OsString]) -> Typed<T> {
    let mut words = words.to_vec();
    let mut lines = Vec::new();
    // Removes an unknown option and parses the rest again, so that all errors are reported at once.
    while !words.is_empty() {
        let error = match matches::<T>(T::command(), &words) {
            Ok(typed) if lines.is_empty() => return Typed::Options(typed),
            Ok(typed) => return Typed::Usage(lines, typed),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let flag =
                    words.iter().take_while(|word| *word != "--").find(|word| *word == "-h" || *word == "--help");
                return Typed::Print(help::page(&T::command(), T::PAGE, flag.is_some_and(|word| word == "--help")));
            }
            ErrorKind::DisplayVersion => return Typed::Print(version()),
            _ => lines.push(usage(&error, T::command().get_name())),
        }
        match unknown_option(&error, &words) {
            Some(position) => {
                words.remove(position);
                // Before a `--` there are only options and their values, so a bare word here was the unknown option's value.
                let bare = words.get(position).is_some_and(|word| !word.as_bytes().starts_with(b"-"));
                if bare && words.iter().skip(position).any(|word| word == "--") {
                    words.remove(position);
                }
            }
            None => return Typed::Usage(lines, matches(T::command().ignore_errors(true), &words).unwrap_or_default()),
        }
    }
    if lines.is_empty() { Typed::Options(T::default()) } else { Typed::Usage(lines, T::default()) }
}

/// The position of the unknown option.
fn unknown_option(error: &ClapError, words: &[OsString]) -> Option<usize> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    let option = option.as_bytes();
    let is_it = |word: &OsString| match word.as_bytes().strip_prefix(option) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"="),
        None => false,
    };
    (error.kind() == ErrorKind::UnknownArgument && option.starts_with(b"--"))
        .then(|| words.iter().position(is_it))
        .flatten()
}

fn matches<T: FromArgMatches>(command: clap::Command, words: &[OsString]) -> Result<T, ClapError> {
    let name = OsStr::new("reberth");
    let argv = std::iter::once(name).chain(words.iter().map(OsString::as_os_str));
    T::from_arg_matches_mut(&mut command.try_get_matches_from(argv)?)
}

/// clap's message on one line: the first line and the tips, without the usage paragraph.
fn usage(error: &ClapError, command: &str) -> String {
    let text = error.render().to_string();
    let mut line = String::new();
    for part in text.lines().map(str::trim).take_while(|part| !part.starts_with("Usage:")) {
        let (tip, part) = match part.strip_prefix("tip: ") {
            Some(part) => (true, part),
            None => (false, part.strip_prefix("error: ").unwrap_or(part)),
        };
        // The tip "to pass '--x' as a value, use '-- --x'" would lead to the next mistake.
        if part.is_empty() || part.starts_with("For more information") || tip && part.starts_with("to pass") {
            continue;
        }
        line.push_str(if line.is_empty() {
            ""
        } else if tip {
            "; "
        } else {
            " "
        });
        line.push_str(part);
    }
    format!("{line}; see '{command} --help'")
}
