//! Owns how the settings of `healthcheck`, `who` and `install` are decided. They look only at what they use: what only `run` needs is
//! never judged here. Must not know what the settings do.

use std::time::Duration;

use super::reader::{Reader, from, no_carriage_return};
use super::run::{Profile, any_port, fallback, plain_port, profile};
use super::value::{boolean, duration, positive, shown, word};
use super::{Fallback as Falls, Healthcheck, Mode, Probe, Who, http};
use crate::cli;
use crate::env::{Environ, service_link};
use crate::error::Error;
use crate::health::target::Target;
use crate::port::spec::{self, Spec};

/// Decides `healthcheck`. `usage` is what was wrong with the command line itself.
pub fn decide(cli: &cli::Healthcheck, environ: &Environ, usage: Vec<String>) -> Result<Mode, Error> {
    let vars = &environ.healthcheck;
    let mut reader = Reader::new(environ, "REBERTH_HEALTH_");
    reader.errors.extend(usage);
    let target = target(&mut reader, cli);
    let probe = reader.read("probe", from(&cli.probe, &vars.probe), probe).unwrap_or(Probe::Readiness);
    let timeout = reader.read("timeout", from(&cli.timeout, &vars.timeout), positive);
    let wait = reader.read("wait", from(&cli.wait, &vars.wait), duration);
    let interval = reader.read("interval", from(&cli.interval, &vars.interval), positive);
    let status = reader.read("status", from(&cli.status, &vars.status), http::status);
    let status_explicit = status.is_some();
    let headers = headers(&mut reader, cli, environ);
    let method = reader.read("method", from(&cli.method, &vars.method), http::method);
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
    let user_agent = reader.read("user-agent", from(&cli.user_agent, &vars.user_agent), http::agent);
    let quiet = reader.read("quiet", from(&cli.quiet, &vars.quiet), boolean).unwrap_or(false);
    let state_dir = reader.path("state-dir", from(&cli.state_dir, &environ.run.state_dir));
    let fallback = Fallback::read(environ, target.as_ref(), probe);
    if !reader.errors.is_empty() {
        return Err(Error::Settings(reader.errors.into_iter().chain(fallback.unreadable).collect()));
    }
    Ok(Mode::Healthcheck(Box::new(Healthcheck {
        probe,
        target,
        health: fallback.health,
        liveness: fallback.liveness,
        ports: fallback.ports,
        port_may_move: port_may_move(environ),
        unreadable: fallback.unreadable,
        timeout: timeout.unwrap_or(Duration::from_millis(900)),
        wait: wait.unwrap_or(Duration::ZERO),
        interval: interval.unwrap_or(Duration::from_millis(250)),
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
        quiet,
        state_dir,
    })))
}

fn probe(text: &str) -> Result<Probe, String> {
    word(text, &[("readiness", Probe::Readiness), ("liveness", Probe::Liveness), ("startup", Probe::Startup)])
}

/// The positional TARGET. It has no variable of its own: `REBERTH_HEALTH` is what `run` was told.
fn target(reader: &mut Reader<'_>, cli: &cli::Healthcheck) -> Option<Target> {
    let word = cli.target.as_ref()?;
    match word.to_str().map(|text| no_carriage_return(text).and_then(|()| text.parse())) {
        Some(Ok(target)) => Some(target),
        Some(Err(reason)) => reader.bad(format!("TARGET {}: {reason}", shown(&word.to_string_lossy()))),
        None => reader.bad(format!("TARGET {}: is not UTF-8", shown(&word.to_string_lossy()))),
    }
}

/// `--header` flags, one header each, or else the variable's lines.
fn headers(reader: &mut Reader<'_>, cli: &cli::Healthcheck, environ: &Environ) -> Vec<(String, String)> {
    if cli.header.is_empty() {
        return reader.read("header", from(&None, &environ.healthcheck.header), http::headers).unwrap_or_default();
    }
    let one = |flag: &std::ffi::OsString| reader.read("header", from(&Some(flag.clone()), &None), http::header);
    cli.header.iter().filter_map(one).collect()
}

/// What decides where no state of a `run` is believed. A bad value here must not fail a check that never needs it: `run --port 80` may
/// have beaten a variable that this process still sees. So the errors are kept, and are told only when the values are needed.
#[derive(Default)]
struct Fallback {
    health: Option<Target>,
    liveness: Option<Target>,
    ports: Vec<Spec>,
    unreadable: Vec<String>,
}

impl Fallback {
    fn read(environ: &Environ, target: Option<&Target>, probe: Probe) -> Self {
        let vars = &environ.run;
        let mut reader = Reader::new(environ, "REBERTH_");
        let mut found = Self::default();
        if target.is_none() {
            let live = from(&None, &vars.liveness);
            found.liveness = (probe == Probe::Liveness).then(|| reader.read("liveness", live, str::parse)).flatten();
            if found.liveness.is_none() {
                found.health = reader.read("health", from(&None, &vars.health), str::parse);
            }
        }
        // A full URL or a socket says itself where it is.
        if target.is_none_or(Target::needs_port) {
            found.ports = ports(&mut reader, environ);
        }
        Self { unreadable: reader.errors, ..found }
    }
}

/// The ports of the environment, with `run`'s precedence but without its warnings.
fn ports(reader: &mut Reader<'_>, environ: &Environ) -> Vec<Spec> {
    let own = environ.run.port.clone().filter(|text| !service_link(text));
    let before = reader.errors.len();
    if let Some(ports) = reader.read("port", from(&None, &own), spec::list) {
        return ports;
    }
    if reader.errors.len() > before {
        return Vec::new();
    }
    match environ.port.as_deref().filter(|text| !service_link(text)).map(plain_port) {
        Some(Ok(ports)) => return ports,
        Some(Err(line)) => return reader.bad(line).unwrap_or_default(),
        None => {}
    }
    // Profile `test` claims a port that only `run` knows: a port of 0 says that there is one.
    let test = environ.run.profile.as_deref().and_then(|text| profile(text).ok()) == Some(Profile::Test);
    if test { vec![any_port()] } else { Vec::new() }
}

/// Whether `run`'s fallback leaves the port open: a bad value of it is as unsure as a good one.
fn port_may_move(environ: &Environ) -> bool {
    let dev = || environ.run.profile.as_deref().and_then(|text| profile(text).ok()) == Some(Profile::Dev);
    environ.run.fallback.as_deref().map_or_else(dev, |text| fallback(text) != Ok(Falls::None))
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
            // The same port asked for twice is looked at once.
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
