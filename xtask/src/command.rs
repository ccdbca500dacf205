//! Owns how other programs are run, and what is said when one fails. Must not know what they do.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program to its end. A failing one has said why on stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", told(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", told(command));
    }
    Ok(())
}

/// Runs a program to its end, and gives what it writes to stdout.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {}", told(command)))?;
    if !output.status.success() {
        bail!("{} failed: {}", told(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote what is not UTF-8", told(command)))
}

/// True when the program is there and says yes. What it prints goes to stderr: stdout is for results.
pub fn agrees(command: &mut Command) -> bool {
    command.stdout(std::io::stderr()).status().is_ok_and(|status| status.success())
}

/// The command line, as it would be typed.
fn told(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    format!("`{}`", words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_line_on_one_line() {
        let error = run(Command::new("false").arg("--of-course")).unwrap_err();
        assert_eq!(format!("{error:#}"), "`false --of-course` failed: exit status: 1");
        let error = read(&mut Command::new("/no/such/program")).unwrap_err();
        assert_eq!(format!("{error:#}"), "cannot run `/no/such/program`: No such file or directory (os error 2)");
    }
}
