//! Owns the way from arguments to the exit code. Must not know how any step works.
//!
//! argv, environ → settings → mode → run, keep, healthcheck, who or install → exit code.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use reberth::app::environment::Environment;
use reberth::config::{Command, Decision, Mode, decide};
use reberth::error::{Error, words};
use reberth::exit::Code;
use reberth::log::settings::Log;
use reberth::port::file;
use reberth::sys::signal::{Signals, end_as_pid_1, unblock_all};
use reberth::{app, check, health, install, log, who};

#[global_allocator]
static MEMORY: reberth::sys::arena::Arena = reberth::sys::arena::Arena::new();

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // First of all: the default actions of signals do not apply to PID 1, so a TERM during the next lines would be lost.
    let signals = arguments.get(1).is_some_and(|word| word == "run" || word == "keep").then(Signals::block);
    let environment: Environment = std::env::vars_os().collect();
    let decision = decide(&arguments, &environment);
    ExitCode::from(perform(decision, &environment, signals))
}

/// Runs the decided mode.
fn perform(decision: Decision, environment: &Environment, signals: Option<io::Result<Signals>>) -> Code {
    match &decision.mode {
        Ok(Mode::Run(settings)) => {
            let signals = signals.unwrap_or_else(Signals::block);
            stay(&decision, settings.port_file.as_deref(), signals, |signals| {
                app::run::run(settings, environment, signals)
            })
        }
        Ok(Mode::Check(settings)) => {
            // Nothing reads signals here, so they act as on any program. SIGPIPE stays ignored: a closed pipe is not an error.
            unblock_all();
            end_as_pid_1();
            check::run(settings, environment).unwrap_or_else(|error| refuse(&decision.log, &error))
        }
        Ok(Mode::Keep(settings)) => {
            let signals = signals.unwrap_or_else(Signals::block);
            stay(&decision, settings.port_file.as_deref(), signals, |signals| app::keep::keep(settings, signals))
        }
        Ok(Mode::Healthcheck(settings)) => {
            if !settings.wait.is_zero() {
                end_as_pid_1();
            }
            health::run(settings, |report| {
                if !report.errors.is_empty() {
                    log::settings_error(&decision.log, &report.errors);
                }
                print(&report.line);
            })
        }
        Ok(Mode::Who(settings)) => who::run(settings).unwrap_or_else(|error| refuse(&decision.log, &error)),
        Ok(Mode::Install(destination)) => {
            install::run(destination).map_or_else(|error| refuse(&decision.log, &error), |_| Code::OK)
        }
        Ok(Mode::Print(text)) => print(text),
        // For a HEALTHCHECK, Docker reserves every code except 0 and 1.
        Err(error) if decision.command == Command::Healthcheck => {
            refuse(&decision.log, error);
            Code::NO
        }
        Err(error) => refuse(&decision.log, error),
    }
}

/// Opens the log, then runs a command that stays: `run` or `keep`.
///
/// Not inlined, like the other commands: inlined, their locals would be part of the stack that `healthcheck` touches too, and each page of
/// it costs a microsecond.
#[inline(never)]
fn stay(
    Decision { log, warnings, .. }: &Decision,
    port_file: Option<&Path>,
    signals: io::Result<Signals>,
    work: impl FnOnce(&Signals) -> Result<Code, Error>,
) -> Code {
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            let cure = match error.raw_os_error() {
                Some(libc::EMFILE) => "raise the limit of open files (ulimit -n)",
                Some(libc::ENFILE) => "the host has no more file descriptors (sysctl fs.file-max): free some",
                Some(libc::ENOMEM) => "the kernel is out of memory: raise the container's memory limit, or free some",
                Some(libc::ENOSYS | libc::EPERM | libc::EACCES) => {
                    "the seccomp profile or sandbox refuses signalfd4(2): allow it, as Docker's default profile does"
                }
                _ => "see signalfd(2)",
            };
            return refuse(
                log,
                &Error::cannot(format!("signals cannot be read: signalfd4: {}; {cure}", words(&error))),
            );
        }
    };
    if let Err(error) = log::init(log) {
        // Check the port file too: otherwise its error would appear only at the next start, after the log file has been corrected.
        let other = port_file.and_then(|path| file::check(path).err());
        let code = refuse(log, &error);
        other.iter().for_each(|error| log::settings_error(log, error.lines()));
        return code;
    }
    for line in warnings {
        tracing::warn!("{line}");
    }
    work(&signals).unwrap_or_else(|error| {
        // A path that cannot be written is a bad setting, and bad settings are printed even with `--log off`.
        if matches!(error, Error::Settings(_)) {
            return refuse(log, &error);
        }
        for line in error.lines() {
            tracing::error!("{line}");
        }
        error.code()
    })
}

/// Prints the error, whatever the log level. Returns its exit code.
fn refuse(log: &Log, error: &Error) -> Code {
    log::settings_error(log, error.lines());
    error.code()
}

/// Prints to stdout. A closed pipe is not an error.
fn print(text: &str) -> Code {
    let _ = io::stdout().write_all(text.as_bytes());
    Code::OK
}
