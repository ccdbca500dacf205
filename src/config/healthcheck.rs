//! Owns how the settings of `healthcheck`, `who` and `install` are decided. Each reads only the settings that it uses: a bad value that
//! matters only to `run` is ignored. Must not know what the settings do.

use std::time::Duration;

use super::mode::Mode;
use super::ports::{self, Ports, Profile};
use super::reader::{Reader, from, no_carriage_return};
use crate::cli;
use crate::env::Environ;
use crate::error::Error;
use crate::health::phase::{self, Probe};
use crate::health::settings::{Healthcheck, Subject};
use crate::health::target::Target;
use crate::health::terms::{self, Terms};
use crate::port::policy::{self, Fallback};
use crate::port::spec::{self, Spec};
use crate::setting::value::{boolean, duration, positive, shown};
use crate::who::settings::Who;

const PREFIX: &str = "REBERTH_HEALTH_";

/// Decides `healthcheck`. `usage` holds the errors in the command line itself.
pub fn decide(cli: &cli::Healthcheck, environ: &Environ, usage: Vec<String>) -> Result<Mode, Error> {
    let mut reader = Reader::new(environ, PREFIX);
    reader.errors.extend(usage);
    let target = target(&mut reader, cli);
    let mut settings = health_settings(&mut reader, cli, environ);
    settings.state_dir = reader.path("state-dir", from(&cli.state_dir, &environ.run.state_dir));
    settings.subject = subject(environ, target, settings.subject.probe);
    if reader.errors.is_empty() {
        Ok(Mode::Healthcheck(Box::new(settings)))
    } else {
        Err(Error::Settings(reader.errors.into_iter().chain(settings.subject.deferred_errors).collect()))
    }
}

/// The options that a HEALTHCHECK without arguments would use in this environment, or the errors in them.
pub fn terms(environ: &Environ) -> Result<Terms, Vec<String>> {
    let mut reader = Reader::new(environ, PREFIX);
    let settings = health_settings(&mut reader, &cli::Healthcheck::default(), environ);
    if reader.errors.is_empty() { Ok(settings.terms) } else { Err(reader.errors) }
}

/// All settings with a `REBERTH_HEALTH_*` variable. Of the subject, only the probe is set.
fn health_settings(reader: &mut Reader<'_>, cli: &cli::Healthcheck, environ: &Environ) -> Healthcheck {
    let vars = &environ.healthcheck;
    let probe = reader.read("probe", from(&cli.probe, &vars.probe), phase::probe).unwrap_or_default();
    let timeout = reader.read("timeout", from(&cli.timeout, &vars.timeout), positive);
    let wait = reader.read("wait", from(&cli.wait, &vars.wait), duration);
    let interval = reader.read("interval", from(&cli.interval, &vars.interval), positive);
    let status = reader.read("status", from(&cli.status, &vars.status), terms::status);
    let status_explicit = status.is_some();
    let headers = headers(reader, cli, environ);
    let method = reader.read("method", from(&cli.method, &vars.method), terms::method);
    let body = |text: &str| if text.is_empty() { Err("must not be empty".into()) } else { Ok(text.into()) };
    let body_contains = reader.read("body-contains", from(&cli.body_contains, &vars.body_contains), body);
    let mut ca = reader.path("ca", from(&cli.ca, &vars.ca));
    let mut insecure = reader.read("insecure", from(&cli.insecure, &vars.insecure), boolean).unwrap_or(false);
    if ca.is_some() && insecure {
        match (cli.ca.is_some(), cli.insecure.is_some()) {
            (true, false) => insecure = false,
            (false, true) => ca = None,
            _ => {
                let label = reader.label("insecure", from(&cli.insecure, &vars.insecure));
                reader.errors.push(format!("{label}: contradicts --ca (REBERTH_HEALTH_CA): set one of the two"));
            }
        }
    }
    let (cert_from, key_from) = (from(&cli.cert, &vars.cert), from(&cli.key, &vars.key));
    let before = reader.errors.len();
    let (cert, key) = (reader.path("cert", cert_from), reader.path("key", key_from));
    if reader.errors.len() == before && cert.is_some() != key.is_some() {
        let (has, from, lacks) = if cert.is_some() {
            ("cert", cert_from, "--key (REBERTH_HEALTH_KEY)")
        } else {
            ("key", key_from, "--cert (REBERTH_HEALTH_CERT)")
        };
        let label = reader.label(has, from);
        reader.errors.push(format!("{label}: is half of a client certificate: name the other file with {lacks}"));
    }
    let user_agent = reader.read("user-agent", from(&cli.user_agent, &vars.user_agent), terms::agent);
    let quiet = reader.read("quiet", from(&cli.quiet, &vars.quiet), boolean).unwrap_or(false);
    let terms = Terms {
        timeout: timeout.unwrap_or(Duration::from_millis(900)),
        status: status.unwrap_or_else(|| vec![(200, 399)]),
        status_explicit,
        headers,
        method: method.unwrap_or_else(|| "GET".into()),
        body_contains,
        ca,
        cert,
        key,
        insecure,
        user_agent: user_agent.unwrap_or_else(|| concat!("reberth/", env!("CARGO_PKG_VERSION")).into()),
    };
    Healthcheck {
        subject: Subject { probe, ..Subject::default() },
        terms,
        wait: wait.unwrap_or(Duration::ZERO),
        interval: interval.unwrap_or(Duration::from_millis(250)),
        quiet,
        state_dir: None,
    }
}

/// The positional TARGET. It has no variable: `REBERTH_HEALTH` is a setting of `run`.
fn target(reader: &mut Reader<'_>, cli: &cli::Healthcheck) -> Option<Target> {
    let word = cli.target.as_ref()?;
    match word.to_str().map(|text| no_carriage_return(text).and_then(|()| text.parse())) {
        Some(Ok(target)) => Some(target),
        Some(Err(reason)) => reader.bad(format!("TARGET {}: {reason}", shown(&word.to_string_lossy()))),
        None => reader.bad(format!("TARGET {}: is not UTF-8", shown(&word.to_string_lossy()))),
    }
}

/// The `--header` flags, one header each, or else the lines of the variable.
fn headers(reader: &mut Reader<'_>, cli: &cli::Healthcheck, environ: &Environ) -> Vec<(String, String)> {
    if cli.header.is_empty() {
        return reader.read("header", from(&None, &environ.healthcheck.header), terms::headers).unwrap_or_default();
    }
    let one = |flag: &std::ffi::OsString| reader.read("header", from(&Some(flag.clone()), &None), terms::header);
    cli.header.iter().filter_map(one).collect()
}

/// What the target is chosen from if no state file is trusted. A bad value must not fail a healthcheck that does not need it: a flag of
/// `run` may have overridden the variable, which this process still sees. So errors are kept here, and reported only if the values are used.
fn subject(environ: &Environ, target: Option<Target>, probe: Probe) -> Subject {
    let vars = &environ.run;
    let mut reader = Reader::new(environ, "REBERTH_");
    let (mut health, mut liveness) = (None, None);
    if target.is_none() {
        let live = from(&None, &vars.liveness);
        liveness = (probe == Probe::Liveness).then(|| reader.read("liveness", live, str::parse)).flatten();
        if liveness.is_none() {
            health = reader.read("health", from(&None, &vars.health), str::parse);
        }
    }
    // A full URL or a socket needs no port.
    let on_port = target.as_ref().is_none_or(Target::needs_port);
    let ports = if on_port { ports(&mut reader, environ) } else { Vec::new() };
    let port_may_move = port_may_move(environ);
    Subject { probe, target, health, liveness, ports, port_may_move, deferred_errors: reader.errors }
}

/// The ports from the environment, read as `run` reads them but without its warnings.
fn ports(reader: &mut Reader<'_>, environ: &Environ) -> Vec<Spec> {
    match ports::of_environment(reader, environ).0 {
        Ports::Set(ports) => ports,
        Ports::Bad => Vec::new(),
        // With profile `test`, only `run` knows its port. Port 0 means that it has one.
        Ports::Unset => {
            if profile(environ) == Some(Profile::Test) {
                vec![ports::any()]
            } else {
                Vec::new()
            }
        }
    }
}

fn profile(environ: &Environ) -> Option<Profile> {
    environ.run.profile.as_deref().and_then(|text| ports::profile(text).ok())
}

/// Whether a fallback may have moved `run` to another port. A bad value counts as a fallback.
fn port_may_move(environ: &Environ) -> bool {
    let dev = || profile(environ) == Some(Profile::Dev);
    environ.run.fallback.as_deref().map_or_else(dev, |text| policy::fallback(text) != Ok(Fallback::None))
}

/// Decides `who`.
pub fn who(cli: &cli::Who, environ: &Environ, usage: Vec<String>) -> Result<Mode, Error> {
    let mut reader = Reader::new(environ, "REBERTH_");
    reader.errors.extend(usage);
    let watch = reader.read("watch", from(&cli.watch, &None), boolean).unwrap_or(false);
    let json = reader.read("json", from(&cli.json, &None), boolean).unwrap_or(false);
    let state_dir = reader.path("state-dir", from(&cli.state_dir, &environ.run.state_dir));
    let mut ports: Vec<Spec> = Vec::new();
    for word in &cli.ports {
        let text = word.to_string_lossy();
        match no_carriage_return(text.as_ref()).and_then(|()| spec::list(&text)) {
            // Without duplicates.
            Ok(specs) => specs.into_iter().for_each(|spec| {
                if !ports.contains(&spec) {
                    ports.push(spec)
                }
            }),
            Err(reason) => reader.errors.push(format!("PORT {}: {reason}", shown(&text))),
        }
    }
    if watch && cli.ports.is_empty() {
        reader.errors.push("--watch: name the ports to watch: reberth who --watch PORT...".into());
    }
    if reader.errors.is_empty() {
        Ok(Mode::Who(Who { ports, watch, json, state_dir }))
    } else {
        Err(Error::Settings(reader.errors))
    }
}

/// Decides `install`.
pub fn install(cli: &cli::Install, usage: Vec<String>) -> Result<Mode, Error> {
    match cli.dest.as_ref().filter(|dest| !dest.is_empty()) {
        _ if !usage.is_empty() => Err(Error::Settings(usage)),
        Some(dest) => match no_carriage_return(dest) {
            Ok(()) => Ok(Mode::Install(dest.into())),
            Err(reason) => {
                Err(Error::Settings(vec![format!("install: DEST {}: {reason}", shown(&dest.to_string_lossy()))]))
            }
        },
        None => Err(Error::Settings(vec![
            "install: DEST is missing: reberth install DEST, a file or a folder that exists; see 'reberth install --help'".into(),
        ])),
    }
}
