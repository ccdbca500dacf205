//! Owns the map of the straight line, and the exit. Must not know how anything works.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use reberth::config::{Command, Mode, decide};
use reberth::exit::Code;
use reberth::{health, install};

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let environ: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let decision = decide(&argv, &environ);
    let code = match decision.mode {
        Ok(Mode::Healthcheck(terms)) => {
            let said = health::run(&terms);
            said.errors.iter().for_each(|line| complain(line));
            print(&said.line);
            said.code
        }
        Ok(Mode::Install(dest)) => match install::run(&dest) {
            Ok(_) => Code::OK,
            Err(error) => {
                error.lines().iter().for_each(|line| complain(line));
                error.code()
            }
        },
        Ok(Mode::Print(text)) => {
            print(&text);
            Code::OK
        }
        Ok(_) => Code::CANNOT,
        Err(error) => {
            error.lines().iter().for_each(|line| complain(line));
            if decision.command == Command::Healthcheck { Code::NO } else { error.code() }
        }
    };
    ExitCode::from(code)
}

/// Nothing can be done where nobody reads any more; the code still tells.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "reberth: {line}");
}
