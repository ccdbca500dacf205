//! Measures reberth beside its peers and prints tables in Markdown. Owns the command line and the order of the steps. Must not know how
//! anything is measured.

mod bench;
mod binary;
mod clock;
mod fail;
mod isolate;
mod life;
mod measure;
mod peers;
mod report;
mod rounds;
mod samples;
mod spawn;
mod sys;
mod table;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use bench::{Bench, Options};
use fail::{Context, Outcome};
use measure::{App, Step};
use report::Report;

/// Measures reberth beside its peers and prints tables in Markdown.
///
/// Everything takes about twenty minutes, `--quick` two once the binary is built. Run it as root on Debian: it installs the peers,
/// and gives every measurement a network namespace of its own. Peers take turns, each round in another order, so that what disturbs one
/// disturbs all; read the ratios, not the microseconds.
#[derive(Parser)]
#[command(bin_name = "cargo measure", args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Arguments {
    /// Few rounds
    #[arg(long)]
    quick: bool,
    /// Write docs/benchmarks.md too
    #[arg(long, conflicts_with_all = ["only", "beside"])]
    write: bool,
    /// This step alone; may be given several times
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// Measure this binary instead of the one that is built from these sources
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Let this one take turns with it in the steps start and healthcheck: whether a change made it slower
    #[arg(long, value_name = "PATH")]
    beside: Option<PathBuf>,
    #[command(subcommand)]
    app: Option<Inside>,
}

#[derive(Subcommand)]
enum Inside {
    /// An app for a measurement, run under the measured init
    #[command(hide = true, subcommand)]
    App(App),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.app {
        Some(Inside::App(app)) => app.run(),
        None => measured(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measured(arguments: Arguments) -> Outcome<()> {
    sys::close_inherited();
    let command = format!("cargo measure{}", if arguments.quick { " --quick" } else { "" });
    peers::install()?;
    let folder = Folder::make()?;
    let options = Options { quick: arguments.quick, binary: arguments.binary, beside: arguments.beside };
    let bench = Bench::prepare(options, &folder.0)?;
    // The directory in which apps find their files.
    std::env::set_current_dir(&folder.0).context(folder.0.display())?;
    let mut report = Report::default();
    let steps = if arguments.only.is_empty() { Step::value_variants() } else { &arguments.only };
    for step in steps {
        eprintln!("bench: {}", step.to_possible_value().map_or(String::new(), |step| step.get_name().to_owned()));
        step.measure(&bench, &mut report)?;
    }
    let page = report.page(&report::setting(&command)?);
    println!("{page}");
    if arguments.write {
        let file = binary::root().join("docs/benchmarks.md");
        std::fs::write(&file, page).context(file.display())?;
    }
    Ok(())
}

/// A folder for this run.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Outcome<Self> {
        let folder = std::env::temp_dir().join(format!("reberth-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).context(folder.display())?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
