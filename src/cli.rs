//! Owns the command line: which words are options, which belong to the app, and the help. Must not know defaults, nor what a value
//! means: values stay raw text here, so that all bad ones are reported together, whatever their encoding.
//!
//! `help` prints the help pages, not clap. Overriding a command's page keeps clap's `--help` and `-h` flags.

mod help;
mod options;
mod parse;
mod plain;
mod version;

#[cfg(test)]
mod tests;

pub use options::{Healthcheck, Install, Keep, Run, Who};
pub use parse::{Typed, parse};
pub use plain::Plain;
pub use version::version;

/// The text of `reberth --help`.
pub const HELP: &str = "\
Waits for its port, starts the app, is its init, and answers its health probes.

Usage: reberth COMMAND ...

Commands:
  run          The ENTRYPOINT: claim the ports, launch the app, be its init
  healthcheck  The HEALTHCHECK or exec probe: one verdict, exit 0 or 1
  keep         Hold the ports of a --share name, without an app
  who          Show who holds a port, in which state, and what to do about it
  install      Copy this binary somewhere else

Options:
  -h, --help     Print help; 'reberth COMMAND --help' lists a command's settings
  -V, --version  Print version

In an image: ENTRYPOINT [\"/reberth\", \"run\", \"--\"]
";

/// All commands, for man pages and completions.
pub fn documented() -> [clap::Command; 5] {
    [
        help::documented::<Run>(),
        help::documented::<Healthcheck>(),
        help::documented::<Keep>(),
        help::documented::<Who>(),
        help::documented::<Install>(),
    ]
}
