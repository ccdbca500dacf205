//! Owns `run --check`: prints the settings and their sources, the ports, probes and command of a run, and its exit code if it would end
//! before the app starts. Must not know how a run does any of it.

mod outcome;
mod print;
mod report;
pub mod settings;
mod values;

use std::io::Write as _;

use crate::app::environment::Environment;
use crate::error::{Error, words};
use crate::exit::Code;
use outcome::judge;
use print::page;
use report::Report;
use settings::Check;

/// Prints what a run would do. Returns the exit code that the run would have.
///
/// # Errors
/// `Cannot` (125): stdout cannot be written. A closed pipe is not an error.
pub fn run(check: &Check, environment: &Environment) -> Result<Code, Error> {
    let report = match &check.run {
        Ok(run) => judge(check, run, environment),
        Err(lines) => Report {
            code: Code::CANNOT.0,
            outcome: "nothing would be launched: bad settings".to_owned(),
            errors: lines.clone(),
            warnings: check.warnings.clone(),
            ..Report::new()
        },
    };
    let text = if check.json {
        let text = serde_json::to_string(&report);
        text.map_err(|error| Error::cannot(format!("cannot write JSON: {error}")))? + "\n"
    } else {
        page(&report)
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::cannot(format!("cannot write to stdout: {}", words(&error))))
        }
        _ => Ok(Code(report.code)),
    }
}
