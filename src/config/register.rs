//! Owns how `--register` and the settings that go with it are decided. Must not know what they do.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Reader, from, no_carriage_return};
use crate::app::settings::Run;
use crate::cli;
use crate::env::{Environ, Etcdctl};
use crate::register::place::{self, Credentials, Register, Registry};

const TTL: Duration = Duration::from_secs(15);

/// Reads them. The others are checked even without `--register`.
pub fn read(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ) -> Option<Register> {
    let vars = &environ.run;
    let registries = registries(reader, cli, environ);
    // Without the feature every URL is a bad value and has its error, so the other settings are pointless.
    if cfg!(not(feature = "register")) {
        return None;
    }
    let advertise = reader.read("advertise", from(&cli.advertise, &vars.advertise), place::advertise);
    let metadata = from(&cli.register_metadata, &vars.register_metadata);
    let metadata = reader.read("register-metadata", metadata, place::metadata).unwrap_or_default();
    let ttl = reader.read("register-ttl", from(&cli.register_ttl, &vars.register_ttl), place::ttl).unwrap_or(TTL);
    if registries.is_empty() {
        return None;
    }
    let credentials = credentials(reader, &environ.etcdctl);
    Some(Register { registries, advertise, metadata, ttl, credentials })
}

/// The `--register` flags, or else the URLs of the variable, separated by white space because their endpoints contain commas.
fn registries(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ) -> Vec<Registry> {
    let mut found: Vec<Registry> = Vec::new();
    let mut take = |reader: &mut Reader<'_>, flag: Option<OsString>, variable: Option<String>| {
        let text = flag
            .as_ref()
            .map(|flag| flag.to_string_lossy())
            .or(variable.as_deref().map(Into::into))
            .unwrap_or_default();
        // A login must not reach a log. It may be anywhere in the value, so no part of the value is shown.
        if text.contains('@') {
            let name = if flag.is_some() { "--register" } else { "REBERTH_REGISTER" };
            return reader
                .errors
                .push(format!("{name}: a URL with a login or an @ is not accepted: set ETCDCTL_USER=USER:PASSWORD"));
        }
        let urls: Vec<&str> = if text.trim().is_empty() { vec![""] } else { text.split_whitespace().collect() };
        if flag.as_ref().is_some_and(|flag| flag.to_str().is_none()) {
            reader.read("register", from(&flag, &None), place::registry);
            return;
        }
        for url in urls {
            let (flag, variable) = match &flag {
                Some(_) => (Some(OsString::from(url)), None),
                None => (None, Some(url.to_owned())),
            };
            let registry = reader.read("register", from(&flag, &variable), place::registry);
            found.extend(registry.filter(|registry| !found.contains(registry)));
        }
    };
    for flag in &cli.register {
        take(reader, Some(flag.clone()), None);
    }
    if cli.register.is_empty() {
        if let Some(text) = &environ.run.register {
            take(reader, None, Some(text.clone()));
        } else {
            // Reports a value that is not UTF-8.
            reader.read("register", from(&None, &None), place::registry);
        }
    }
    found
}

/// The settings from etcdctl's variables. Their values are never shown.
fn credentials(reader: &mut Reader<'_>, vars: &Etcdctl) -> Credentials {
    let mut text = |name: &str, value: &Option<OsString>| {
        let text = value.as_deref().map(OsStr::to_str);
        if text == Some(None) {
            reader.errors.push(format!("{name}: is not UTF-8"));
        }
        if value.as_ref().is_some_and(|value| no_carriage_return(value).is_err()) {
            reader
                .errors
                .push(format!("{name}: ends in a carriage return: save the file it comes from with Unix line endings"));
        }
        text.flatten().map(str::to_owned)
    };
    let (user, password) = (text("ETCDCTL_USER", &vars.user), text("ETCDCTL_PASSWORD", &vars.password));
    // As in etcdctl: if ETCDCTL_PASSWORD is set, a colon belongs to the name.
    let user = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (Some(user), None) => match user.split_once(':') {
            Some((user, password)) => Some((user.to_owned(), password.to_owned())),
            None => reader.bad("ETCDCTL_USER: has no password: must be USER:PASSWORD, or set ETCDCTL_PASSWORD".into()),
        },
        (None, Some(_)) => reader.bad("ETCDCTL_PASSWORD: there is no user: set ETCDCTL_USER".into()),
        (None, None) => None,
    };
    if vars.cert.is_some() != vars.key.is_some() {
        reader.errors.push("ETCDCTL_CERT, ETCDCTL_KEY: one is of no use without the other: set both, or none".into());
    }
    let path = |value: &Option<OsString>| value.clone().map(PathBuf::from);
    Credentials { user, ca: path(&vars.cacert), cert: path(&vars.cert), key: path(&vars.key) }
}

/// What `--register` requires and excludes.
pub fn check(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ, run: &Run) {
    if run.register.is_none() {
        return;
    }
    let label = reader.label("register", from(&cli.register.first().cloned(), &environ.run.register));
    if run.ports.is_empty() {
        reader.errors.push(format!("{label}: there is no port to announce: set --port, REBERTH_PORT or PORT"));
    }
    if run.exec {
        reader.errors.push(format!(
            "{label}: reberth must stay to withdraw the entry, and with --exec (REBERTH_EXEC) it does not: leave one of them out"
        ));
    }
}
