//! Owns the fast path for common command lines, which avoids building clap's parser. Must not know what is wrong with a word: anything
//! unusual is left to the parser, and both agree on the rest (checked by the fuzz target `arguments`).

use std::ffi::OsString;

use super::help::Paged;
use super::options::{Healthcheck, Run};
use super::parse::{Typed, parse};

/// Commands with a fast path. Building the parser takes longer than everything else that `healthcheck` does.
pub trait Plain: Paged {
    /// Sets an option that was written as `--name value` or `--name=value`. `false`: leave the command line to the parser.
    fn set(&mut self, name: &str, value: OsString) -> bool;

    /// Takes the first word that is not an option, and all after it. `false`: leave the command line to the parser.
    fn rest(&mut self, words: &[OsString]) -> bool;

    /// Parses the words of the command, on the fast path if possible.
    fn from_words(words: &[OsString]) -> Typed<Self> {
        plain(words).map_or_else(|| parse(words), Typed::Options)
    }
}

/// The options of a common command line. `None`: it is unusual or wrong, so the parser has to read it.
pub(super) fn plain<T: Plain>(words: &[OsString]) -> Option<T> {
    let mut typed = T::default();
    let mut words = words;
    while let Some((word, after)) = words.split_first() {
        let Some(option) = word.as_encoded_bytes().strip_prefix(b"-") else {
            return typed.rest(words).then_some(typed);
        };
        let option = std::str::from_utf8(option).ok()?;
        let (name, value) = match option.strip_prefix('-') {
            Some("") => return (!after.is_empty() && typed.rest(after)).then_some(typed),
            Some(long) => long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value.into()))),
            None if option.len() == 1 => (option, None),
            _ => return None,
        };
        // `--p` is not `-p`.
        if option.starts_with('-') && name.len() < 2 {
            return None;
        }
        let (value, after) = match value {
            Some(value) => (value, after),
            None => after.split_first().map(|(value, after)| (value.clone(), after))?,
        };
        if value.is_empty() || value.as_encoded_bytes().starts_with(b"-") {
            return None;
        }
        if !typed.set(name, value) {
            return None;
        }
        words = after;
    }
    Some(typed)
}

impl Plain for Run {
    fn set(&mut self, name: &str, value: OsString) -> bool {
        let field = match name {
            "p" | "port" => {
                self.port.push(value);
                return true;
            }
            "profile" => &mut self.profile,
            "wait" => &mut self.wait,
            "fallback" => &mut self.fallback,
            "handover" => &mut self.handover,
            "port-file" => &mut self.port_file,
            "log" => &mut self.log,
            "drain" => &mut self.drain,
            "grace" => &mut self.grace,
            "health" => &mut self.health,
            "start-timeout" => &mut self.start_timeout,
            "state-dir" => &mut self.state_dir,
            _ => return false,
        };
        *field = Some(value);
        true
    }

    fn rest(&mut self, words: &[OsString]) -> bool {
        self.command = words.to_vec();
        true
    }
}

impl Plain for Healthcheck {
    fn set(&mut self, name: &str, value: OsString) -> bool {
        let field = match name {
            "probe" => &mut self.probe,
            "timeout" => &mut self.timeout,
            "status" => &mut self.status,
            "state-dir" => &mut self.state_dir,
            _ => return false,
        };
        *field = Some(value);
        true
    }

    fn rest(&mut self, words: &[OsString]) -> bool {
        match words {
            [target] if !target.is_empty() => {
                self.target = Some(target.clone());
                true
            }
            _ => false,
        }
    }
}
