//! Owns the man pages and the completions for bash, zsh and fish: `cargo run -p reberth-pages -- FOLDER` writes them.
//! Must not know any setting: all text comes from reberth's own parser and help, so that nothing is missing here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, ValueHint};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

fn main() -> io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("a folder is missing: reberth-pages FOLDER"));
    };
    make(&folder)
}

/// Writes man pages to `man` and completions to `completions`.
fn make(folder: &Path) -> io::Result<()> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let commands = reberth::cli::documented();
    write(&man, whole(&commands), "reberth")?;
    for command in &commands {
        let name = name(command);
        // The page needs a hyphen in its name, but its synopsis shows the command as a user types it.
        let page = command.clone().name(format!("reberth-{name}")).bin_name(format!("reberth {name}"));
        write(&man, page, &format!("reberth-{name}"))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut whole(&commands), "reberth", &completions)?;
    }
    Ok(())
}

/// reberth with its subcommands.
fn whole(commands: &[Command]) -> Command {
    let below = commands.iter().map(|command| {
        // Another command line follows the options; the shell can complete it.
        command.clone().name(name(command)).mut_args(|arg| {
            if arg.get_id() == "command" { arg.value_hint(ValueHint::CommandWithArguments) } else { arg }
        })
    });
    Command::new("reberth")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Waits for its port, starts the app, is its init, and answers its health probes")
        .disable_help_subcommand(true)
        .subcommands(below)
}

/// `run` for `reberth run`.
fn name(command: &Command) -> String {
    command.get_name().rsplit(' ').next().unwrap_or_default().to_owned()
}

fn write(folder: &Path, command: Command, name: &str) -> io::Result<()> {
    let mut page = Vec::new();
    // No date, because the same sources must give the same bytes.
    let version = reberth::cli::version();
    let source = version.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Man::new(command)
        .title(name.to_uppercase())
        .section("1")
        .source(source.trim())
        .manual("reberth")
        .render(&mut page)?;
    fs::write(folder.join(format!("{name}.1")), page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_in_the_pages_and_in_each_shell() {
        let folder = std::env::temp_dir().join(format!("reberth-pages-{}", std::process::id()));
        make(&folder).unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let (page, check) = (read("man/reberth-run.1"), read("man/reberth-healthcheck.1"));
        let shells = [read("completions/reberth.bash"), read("completions/_reberth"), read("completions/reberth.fish")];
        fs::remove_dir_all(&folder).unwrap();
        let run = reberth::setting::table::RUN.iter().map(|setting| (setting, &page));
        let healthcheck = reberth::setting::table::HEALTHCHECK.iter().map(|setting| (setting, &check));
        for (setting, page) in run.chain(healthcheck) {
            // roff writes a hyphen as `\\-`.
            let page = page.replace("\\-", "-");
            let flag = format!("--{}", setting.flag);
            assert!(page.contains(&flag) && page.contains(setting.variable), "{flag} and {}", setting.variable);
            for shell in &shells {
                assert!(shell.contains(&flag) || shell.contains(&format!("-l {}", setting.flag)), "{flag}");
            }
        }
    }
}
