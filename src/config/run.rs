//! Owns how the settings of `run` are decided. Must not know what they do.

use std::ffi::OsStr;
use std::time::Duration;

use super::mode::Mode;
use super::ports::{self, Ports, Profile};
use super::reader::{self, Reader, from};
use super::{after, healthcheck, register};
use crate::app::handover::{self, Handover};
use crate::app::settings::{self, Run};
use crate::app::signal::{self, SignalScope};
use crate::app::supervisor::StopPolicy;
use crate::app::{exit_map, templates};
use crate::check::settings::Check;
use crate::cli;
use crate::env::{self, Environ};
use crate::error::Error;
use crate::log::settings::{self as log_settings, Format, Level, Log};
use crate::port::policy::{self, Backoff, Fallback, Wait};
use crate::port::spec;
use crate::setting::source::{Source, Sources};
use crate::setting::value::{boolean, duration, number};
use crate::share::{self, Share};

/// What became of the settings of `run` or `keep`.
pub struct Decided {
    /// The mode, or all errors.
    pub mode: Result<Mode, Error>,
    pub log: Log,
    /// To be logged once the log is open.
    pub warnings: Vec<String>,
}

/// Decides `run`. `usage` holds the errors in the command line itself. If there are any, options may be missing, so the command and
/// whatever depends on several options is not checked.
pub fn decide(cli: &cli::Run, environ: &Environ, usage: Vec<String>) -> Decided {
    decide_as(cli, environ, usage, false)
}

/// The same for `keep`, which has no app.
pub fn keep(cli: &cli::Run, environ: &Environ, usage: Vec<String>) -> Decided {
    decide_as(cli, environ, usage, true)
}

fn decide_as(cli: &cli::Run, environ: &Environ, usage: Vec<String>, keeps: bool) -> Decided {
    let mut reader = Reader::new(environ, "REBERTH_");
    let complete = usage.is_empty();
    reader.errors.extend(usage);
    let mut warnings = environ.warnings();
    let log = log(&mut reader, cli, environ);
    let profile =
        reader.read("profile", from(&cli.profile, &environ.run.profile), ports::profile).unwrap_or(Profile::Prod);
    let ports = ports(&mut reader, cli, environ, profile == Profile::Test, &mut warnings);
    let by_profile = match reader.sources.of("profile") {
        Source::Flag => Source::Profile,
        _ => Source::ProfileVariable,
    };
    let ports = match ports {
        Ports::Unset if profile == Profile::Test => {
            reader.sources.note("port", by_profile);
            Some(vec![ports::any()])
        }
        Ports::Unset => Some(Vec::new()),
        Ports::Set(ports) => Some(ports),
        Ports::Bad => None,
    };
    let run = settings(&mut reader, cli, environ, profile);
    if profile == Profile::Dev {
        reader.sources.note("wait", by_profile);
        reader.sources.note("fallback", by_profile);
    }
    let mut run = Run { ports: ports.clone().unwrap_or_default(), ..run };
    let dry_run = reader.read("check", from(&cli.check, &None), boolean).unwrap_or(false);
    let json = reader.read("json", from(&cli.json, &None), boolean).unwrap_or(false);
    if json && !dry_run {
        reader.errors.push("--json: requires --check".into());
    }
    if dry_run || run.health.is_some() || !run.after.is_empty() || run.exit_on_unhealthy.is_some() {
        // Reported now, instead of by an app that never becomes ready.
        match healthcheck::terms(environ) {
            Ok(terms) => run.terms = Some(Box::new(terms)),
            Err(lines) => reader.errors.extend(lines),
        }
    }
    if complete && keeps {
        check_keep(&mut reader, cli, environ, &run, ports.is_some());
    } else if complete {
        check_run(&mut reader, cli, environ, &run, ports.is_some(), &mut warnings);
    }
    run.sources = std::mem::take(&mut reader.sources);
    if dry_run {
        let run = if reader.errors.is_empty() { Ok(run) } else { Err(reader.errors) };
        let profile = match profile {
            Profile::Prod => "prod",
            Profile::Dev => "dev",
            Profile::Test => "test",
        };
        let check = Check { run, profile, log: log.clone(), warnings: warnings.clone(), json };
        return Decided { mode: Ok(Mode::Check(Box::new(check))), log, warnings };
    }
    let mode = match reader.errors.is_empty() {
        true if keeps => Ok(Mode::Keep(Box::new(run))),
        true => Ok(Mode::Run(Box::new(run))),
        false => Err(Error::Settings(reader.errors)),
    };
    Decided { mode, log, warnings }
}

/// The log comes first and is read separately, because its format applies to the errors of all other settings.
fn log(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ) -> Log {
    let vars = &environ.run;
    Log {
        level: reader.read("log", from(&cli.log, &vars.log), log_settings::level).unwrap_or(Level::Info),
        format: reader
            .read("log-format", from(&cli.log_format, &vars.log_format), log_settings::format)
            .unwrap_or(Format::Text),
        file: reader.path("log-file", from(&cli.log_file, &vars.log_file)),
        color: !environ.no_color,
        live: !environ.dumb,
    }
}

/// `--port`, else the environment. A Kubernetes service link in a variable counts as unset, with a warning.
///
/// `any`: if no port is set, any free port is claimed.
fn ports(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ, any: bool, warnings: &mut Vec<String>) -> Ports {
    if !cli.port.is_empty() {
        // Several `-p` form one list, as in `docker run`.
        let flag = Some(cli.port.join(OsStr::new(",")));
        return reader.read("port", from(&flag, &None), spec::list).map_or(Ports::Bad, Ports::Set);
    }
    let (ports, links) = ports::of_environment(reader, environ);
    let so = if matches!(ports, Ports::Unset) && !any {
        "no port is claimed, and run is a plain init (set --port or REBERTH_PORT)"
    } else {
        "ignored"
    };
    warnings.extend(links.into_iter().map(|(name, text)| {
        format!(
            "{name}={text}: a Kubernetes service link, not a port: {so}; enableServiceLinks: false in the pod spec keeps it out"
        )
    }));
    ports
}

fn settings(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ, profile: Profile) -> Run {
    let vars = &environ.run;
    let (profile_wait, profile_fallback) = match profile {
        Profile::Dev => (Duration::ZERO, Fallback::Next(100)),
        Profile::Prod | Profile::Test => (Duration::from_secs(75), Fallback::None),
    };
    let backoff_default = Backoff { min: Duration::from_millis(10), max: Duration::from_secs(1) };
    let relaunch = |text: &str| number(text, 0, u32::MAX);
    let share = reader.read("share", from(&cli.share, &vars.share), share::name);
    let secret_file = reader.path("share-secret-file", from(&cli.share_secret_file, &vars.share_secret_file));
    let share = share.map(|name| Share { name, secret_file });
    let (handover, prewarm) = handover(reader, cli, vars, share.is_some());
    Run {
        ports: Vec::new(),
        wait: reader.read("wait", from(&cli.wait, &vars.wait), policy::wait).unwrap_or(Wait::For(profile_wait)),
        fallback: reader
            .read("fallback", from(&cli.fallback, &vars.fallback), policy::fallback)
            .unwrap_or(profile_fallback),
        backoff: reader.read("backoff", from(&cli.backoff, &vars.backoff), policy::backoff).unwrap_or(backoff_default),
        handover,
        prewarm,
        share,
        relaunch: reader.read("relaunch", from(&cli.relaunch, &vars.relaunch), relaunch).unwrap_or(3),
        port_file: reader.path("port-file", from(&cli.port_file, &vars.port_file)),
        exec: reader.read("exec", from(&cli.exec, &vars.exec), boolean).unwrap_or(false),
        signal_scope: reader
            .read("signal-scope", from(&cli.signal_scope, &vars.signal_scope), signal::scope)
            .unwrap_or(SignalScope::Child),
        stop: StopPolicy {
            signal_map: reader
                .read("signal-map", from(&cli.signal_map, &vars.signal_map), signal::map)
                .unwrap_or_default(),
            exit_map: reader
                .read("exit-map", from(&cli.exit_map, &vars.exit_map), exit_map::exit_map)
                .unwrap_or_default(),
            drain: reader.read("drain", from(&cli.drain, &vars.drain), duration).unwrap_or_default(),
            grace: reader.read("grace", from(&cli.grace, &vars.grace), duration).unwrap_or(Duration::from_secs(8)),
        },
        parent_death_signal: reader
            .read(
                "parent-death-signal",
                from(&cli.parent_death_signal, &vars.parent_death_signal),
                signal::death_signal,
            )
            .flatten(),
        health: reader.read("health", from(&cli.health, &vars.health), str::parse),
        terms: None,
        liveness: reader.read("liveness", from(&cli.liveness, &vars.liveness), str::parse),
        start_timeout: reader
            .read("start-timeout", from(&cli.start_timeout, &vars.start_timeout), settings::start_timeout)
            .flatten(),
        after: after::targets(reader, cli, environ),
        after_wait: reader
            .read("after-wait", from(&cli.after_wait, &vars.after_wait), policy::wait)
            .unwrap_or(Wait::For(Duration::from_secs(60))),
        exit_on_unhealthy: after::exit_on_unhealthy(reader, cli, environ),
        register: register::read(reader, cli, environ).map(Box::new),
        state_dir: reader.path("state-dir", from(&cli.state_dir, &vars.state_dir)),
        command: cli.command.clone(),
        sources: Sources::default(),
    }
}

/// `--handover` and `--prewarm`. A prewarmed app can wait for its port only in its bind, so prewarm decides what `auto` means.
fn handover(reader: &mut Reader<'_>, cli: &cli::Run, vars: &env::Run, shares: bool) -> (Handover, bool) {
    let raw = from(&cli.handover, &vars.handover);
    let chosen = reader.read("handover", raw, handover::handover).unwrap_or(None);
    let prewarms = from(&cli.prewarm, &vars.prewarm);
    let prewarm = reader.read("prewarm", prewarms, boolean).unwrap_or(false);
    if prewarm && chosen.is_some_and(|way| !way.intercepts_binds()) {
        let (handover, prewarm) = (reader.label("handover", raw), reader.label("prewarm", prewarms));
        reader
            .errors
            .push(format!("{handover}: {prewarm} waits in the app's own bind: set --handover bind, or leave it out"));
    }
    if shares && chosen.is_some_and(|way| !way.gives_sockets()) {
        let (handover, share) = (reader.label("handover", raw), reader.label("share", from(&cli.share, &vars.share)));
        reader
            .errors
            .push(format!("{handover}: {share} gives the app a socket: set --handover bind or on, or leave it out"));
    }
    let auto = Handover::auto(templates::wants_fd(&cli.command), prewarm, shares);
    (chosen.unwrap_or(auto), prewarm)
}

/// What `keep` requires and excludes.
fn check_keep(reader: &mut Reader<'_>, cli: &cli::Run, environ: &Environ, run: &Run, ports_known: bool) {
    let vars = &environ.run;
    if run.share.is_none() && cli.share.is_none() && vars.share.is_none() {
        reader
            .errors
            .push("keep: a name is missing: set --share NAME or REBERTH_SHARE; see 'reberth keep --help'".into());
    }
    if ports_known && run.ports.is_empty() {
        reader.errors.push("keep: there is no port to hold: set --port, REBERTH_PORT or PORT".into());
    }
    if run.fallback != Fallback::None {
        let label = reader.label("fallback", from(&cli.fallback, &vars.fallback));
        reader.errors.push(format!("{label}: keep holds the port that clients are configured with: must be none"));
    }
}

/// Checks what the settings of `run` must agree on. With bad ports, checks that need them are skipped: it is unknown whether there are any.
fn check_run(
    reader: &mut Reader<'_>,
    cli: &cli::Run,
    environ: &Environ,
    run: &Run,
    ports_known: bool,
    warnings: &mut Vec<String>,
) {
    let vars = &environ.run;
    if run.command.is_empty() {
        reader.errors.push(
            "run: a COMMAND is missing: reberth run [OPTIONS] [--] COMMAND [ARG]...; see 'reberth run --help'".into(),
        );
    }
    if !ports_known {
        return;
    }
    reader.errors.extend(templates::check(&run.command, &run.ports, run.handover));
    if run.handover.intercepts_binds() || run.share.is_some() {
        let (name, raw) = if run.share.is_some() {
            ("share", from(&cli.share, &vars.share))
        } else if run.prewarm {
            ("prewarm", from(&cli.prewarm, &vars.prewarm))
        } else {
            ("handover", from(&cli.handover, &vars.handover))
        };
        let label = reader.label(name, raw);
        if run.exec {
            reader.errors.push(format!(
                "{label}: reberth must stay to answer the app's bind, and with --exec (REBERTH_EXEC) it does not: leave one of them out"
            ));
        }
        let tcp = run.ports.iter().any(|spec| spec.protocol == spec::Protocol::Tcp);
        if run.ports.is_empty() || run.handover.intercepts_binds() && !tcp {
            reader.errors.push(format!("{label}: there is no tcp port to hold: set --port, REBERTH_PORT or PORT"));
        }
    }
    register::check(reader, cli, environ, run);
    after::check(reader, cli, environ, run);
    let targets: [(&str, _, reader::RawSetting<'_>); 2] = [
        ("health", &run.health, from(&cli.health, &vars.health)),
        ("liveness", &run.liveness, from(&cli.liveness, &vars.liveness)),
    ];
    for (name, target, raw) in targets {
        if run.ports.is_empty() && target.as_ref().is_some_and(crate::health::target::Target::needs_port) {
            let label = reader.label(name, raw);
            warnings.push(format!(
                "{label}: checks the primary port, and no port is configured: set --port, REBERTH_PORT or PORT, or a full URL"
            ));
        }
    }
    let has_own_target = run.health.as_ref().is_some_and(|target| !target.needs_port());
    // A bad target has its own error already.
    let health_bad = run.health.is_none() && (cli.health.is_some() || vars.health.is_some());
    if run.start_timeout.is_some() && run.ports.is_empty() && !has_own_target && !health_bad {
        let label = reader.label("start-timeout", from(&cli.start_timeout, &vars.start_timeout));
        reader.errors.push(format!(
            "{label}: nothing shows when the app is ready: set a port (--port, REBERTH_PORT) or a full health target (--health http://…)"
        ));
    }
}
