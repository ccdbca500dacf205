//! Owns the reading of one command's settings: a flag beats its variable, and each bad value becomes an error that names its source.
//! Must not know which settings there are.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::env::Environ;
use crate::setting::source::{Source, Sources};
use crate::setting::value::shown;

/// Refuses a final carriage return, which an env file with Windows line endings adds: the path or text would be accepted and never match.
pub fn no_carriage_return<T: AsRef<OsStr> + ?Sized>(value: &T) -> Result<(), String> {
    match value.as_ref().as_encoded_bytes() {
        [.., b'\r'] => Err("ends in a carriage return: save the file it comes from with Unix line endings".into()),
        _ => Ok(()),
    }
}

/// Reads settings one by one and collects the errors.
pub struct Reader<'a> {
    environ: &'a Environ,
    /// `REBERTH_` or `REBERTH_HEALTH_`. The variable of a setting is this prefix and the flag's name in capitals.
    prefix: &'static str,
    pub errors: Vec<String>,
    /// Where the values of the settings that are set came from.
    pub sources: Sources,
}

/// A setting's raw text. The flag beats the variable.
#[derive(Clone, Copy)]
pub struct RawSetting<'a> {
    flag: Option<&'a OsString>,
    variable: Option<&'a String>,
}

/// The raw text of one setting, from `cli` and `env`.
pub fn from<'a>(flag: &'a Option<OsString>, variable: &'a Option<String>) -> RawSetting<'a> {
    RawSetting { flag: flag.as_ref(), variable: variable.as_ref() }
}

impl<'a> Reader<'a> {
    pub fn new(environ: &'a Environ, prefix: &'static str) -> Self {
        Self { environ, prefix, errors: Vec::new(), sources: Sources::default() }
    }

    /// The setting's value, if it is set and valid. A bad value is recorded and counts as unset, so that later settings are still checked.
    pub fn read<T>(
        &mut self,
        name: &'static str,
        raw: RawSetting<'_>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        // Header lines may end in CRLF, as in HTTP.
        let parse =
            |text: &str| if name == "header" { Ok(()) } else { no_carriage_return(text) }.and_then(|()| parse(text));
        if let Some(flag) = raw.flag {
            self.sources.note(name, Source::Flag);
            return match flag.to_str() {
                Some(text) => self.checked(|| flag_label(name, flag), parse(text)),
                None => self.bad(format!("{}: is not UTF-8", flag_label(name, flag))),
            };
        }
        match (raw.variable, self.not_utf8(name)) {
            (_, Some(value)) => {
                let label = format!("{}={}", self.variable(name), shown(&value.to_string_lossy()));
                self.bad(format!("{label}: is not UTF-8"))
            }
            (Some(text), None) => {
                self.sources.note(name, Source::Variable);
                let outcome = parse(text);
                let variable = self.variable(name);
                self.checked(|| format!("{variable}={}", shown(text)), outcome)
            }
            (None, None) => None,
        }
    }

    /// A path. A flag may hold any bytes but none at all; a variable must be UTF-8, as all of reberth's variables.
    pub fn path(&mut self, name: &'static str, raw: RawSetting<'_>) -> Option<PathBuf> {
        match raw.flag {
            Some(flag) if flag.is_empty() => self.bad(format!("{}: must be a path", flag_label(name, flag))),
            Some(flag) => {
                self.sources.note(name, Source::Flag);
                self.checked(|| flag_label(name, flag), no_carriage_return(flag).map(|()| flag.into()))
            }
            None => self.read(name, raw, |text| Ok(text.into())),
        }
    }

    /// The setting's name and value for messages: the flag if it decides, else the variable.
    pub fn label(&self, name: &str, raw: RawSetting<'_>) -> String {
        match (raw.flag, raw.variable) {
            (Some(flag), _) => flag_label(name, flag),
            (None, Some(text)) => format!("{}={}", self.variable(name), shown(text)),
            (None, None) => format!("--{name} ({})", self.variable(name)),
        }
    }

    /// Records an error.
    pub fn bad<T>(&mut self, line: String) -> Option<T> {
        self.errors.push(line);
        None
    }

    fn checked<T>(&mut self, label: impl FnOnce() -> String, outcome: Result<T, String>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(reason) => self.bad(format!("{}: {reason}", label())),
        }
    }

    /// The value of this setting's variable, if it is not UTF-8.
    fn not_utf8(&self, name: &str) -> Option<&'a OsStr> {
        let list = &self.environ.not_utf8;
        if list.is_empty() {
            return None;
        }
        let variable = self.variable(name);
        list.iter().find(|(known, _)| *known == variable).map(|(_, value)| value.as_os_str())
    }

    fn variable(&self, name: &str) -> String {
        let prefix = if name == "state-dir" { "REBERTH_" } else { self.prefix };
        format!("{prefix}{}", name.to_ascii_uppercase().replace('-', "_"))
    }
}

fn flag_label(name: &str, value: &OsStr) -> String {
    format!("--{name} {}", shown(&value.to_string_lossy()))
}
