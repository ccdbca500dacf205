//! Owns the `who` command: for each port, whether it is free, who holds it and what to do, as a table or as JSON. Must not know how a
//! holder is found.

mod print;
pub mod report;
pub mod settings;
mod watch;

use std::io::{IsTerminal as _, Write as _};

use crate::error::{Error, words};
use crate::exit::Code;
use print::{json, notes, table};
use report::{HELD, Report, all_listeners, check_all};
use settings::Who;

/// Prints who holds the requested ports, or every listener if none is requested.
///
/// `Code::OK`: all are free, or it is only a list. `Code::NO`: some port is held.
///
/// # Errors
/// `Cannot` (125): a port could not be checked, or the report could not be printed. A closed pipe is not an error.
#[inline(never)]
pub fn run(settings: &Who) -> Result<Code, Error> {
    if settings.watch {
        return watch::run(settings);
    }
    let (report, code) = if settings.ports.is_empty() {
        (Report { at: None, ports: all_listeners()? }, Code::OK)
    } else {
        let ports = check_all(&settings.ports)?;
        let held = ports.iter().any(|port| port.state == HELD);
        (Report { at: None, ports }, if held { Code::NO } else { Code::OK })
    };
    let (text, notes) = if settings.json { (json(&report)?, String::new()) } else { (table(&report), notes(&report)) };
    // A pipe gets only the rows, for awk and others; the advice goes to stderr.
    let piped = !std::io::stdout().is_terminal();
    let text = if piped { text } else { text + &notes };
    if piped {
        let _ = std::io::stderr().write_all(notes.as_bytes());
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::cannot(format!("cannot write to stdout: {}", words(&error))))
        }
        _ => Ok(code),
    }
}
