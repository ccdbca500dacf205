//! Owns the map of the straight line, and the exit. Must not know how anything works.
//!
//! argv, environ → settings → mode → run, healthcheck, who or install → exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use reberth::config::{self, Decision, Log, Mode};
use reberth::error::Error;
use reberth::exit::Code;
use reberth::sys::signal::Signals;
use reberth::{app, health, install, log, who};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let decision = config::decide(&arguments, &environment);
    ExitCode::from(perform(decision, &environment))
}

/// Does what was decided.
fn perform(decision: Decision, environment: &app::launch::Environment) -> Code {
    match decision.mode {
        Ok(Mode::Run(run, log)) => {
            // Signals first: from here on none is lost, and TERM ends even a start that has not begun to wait.
            let started = Signals::block()
                .map_err(|error| Error::cannot(format!("signals cannot be blocked: {error}")))
                .and_then(|signals| {
                    log::init(&log)?;
                    decision.warnings.iter().for_each(|line| tracing::warn!("{line}"));
                    app::run::run(&run, environment, &signals)
                });
            started.unwrap_or_else(|error| report(&decision.log, &error))
        }
        Ok(Mode::Healthcheck(healthcheck)) => health::run(&healthcheck),
        Ok(Mode::Who(who)) => who::run(&who).unwrap_or_else(|error| report(&decision.log, &error)),
        Ok(Mode::Install(destination)) => {
            install::run(&destination).map_or_else(|error| report(&decision.log, &error), |()| Code::OK)
        }
        Ok(Mode::Print(text)) => log::print(&text),
        Err(error) => {
            log::settings_error(&decision.log, error.lines());
            decision.usage_code
        }
    }
}

/// Says why reberth could not, and gives the code for it.
fn report(log: &Log, error: &Error) -> Code {
    log::failure(log, error.lines());
    error.code()
}
