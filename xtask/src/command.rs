//! Owns how other programs are run, and the error when one fails. Must not know what they do.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program until it exits. If it fails, it has printed the reason on stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", typed(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", typed(command));
    }
    Ok(())
}

/// Runs a program until it exits, and returns its stdout.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {}", typed(command)))?;
    if !output.status.success() {
        bail!("{} failed: {}", typed(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote what is not UTF-8", typed(command)))
}

/// True if the program exists and succeeds. Its output goes to stderr: stdout is for results.
pub fn agrees(command: &mut Command) -> bool {
    command.stdout(std::io::stderr()).status().is_ok_and(|status| status.success())
}

/// The command line, as a user would type it.
fn typed(command: &Command) -> String {
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
