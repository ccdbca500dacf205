//! Owns the command line of `cargo measure`, which measures reberth and its peers and prints tables in Markdown, and the order of the steps.
//! Must not know how anything is measured: each question has a file in `measure`.

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

/// Measures reberth and its peers, and prints tables in Markdown. Needs root on Debian: it installs the peers with apt-get
///
/// Everything takes about twenty minutes, `--quick` two once the binary is built. Every measurement has a network namespace of its own.
/// Peers take turns, each round in another order, so that what disturbs one disturbs all; read the ratios, not the microseconds.
#[derive(Parser)]
#[command(bin_name = "cargo measure", args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Arguments {
    /// Few rounds
    #[arg(long)]
    quick: bool,
    /// Write docs/benchmarks.md too
    #[arg(long, conflicts_with_all = ["only", "against"])]
    write: bool,
    /// This step alone; may be given several times
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// Measure this binary instead of the one that is built from these sources
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Compare with this binary, in the steps start and healthcheck: both take turns, which shows whether a change made one slower
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Inner>,
}

#[derive(Subcommand)]
enum Inner {
    /// The app that a measured program starts
    #[command(hide = true, subcommand)]
    App(App),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Inner::App(app)) => app.run(),
        None => measure(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Outcome<()> {
    sys::close_inherited();
    let command = format!("cargo measure{}", if arguments.quick { " --quick" } else { "" });
    peers::install()?;
    let folder = Folder::make()?;
    let options = Options { quick: arguments.quick, binary: arguments.binary, against: arguments.against };
    let bench = Bench::prepare(options, &folder.0)?;
    // Measured apps look for their files in the working directory.
    std::env::set_current_dir(&folder.0).context(folder.0.display())?;
    let mut report = Report::default();
    let steps = if arguments.only.is_empty() { Step::value_variants() } else { &arguments.only };
    for step in steps {
        eprintln!("bench: {}", step.to_possible_value().map_or(String::new(), |step| step.get_name().to_owned()));
        step.measure(&bench, &mut report)?;
    }
    let page = report.page(&report::circumstances(&command)?);
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
