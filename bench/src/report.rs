//! Owns the page: its head, the promises and a section for each question. Must not know how anything is measured.

use nix::sys::utsname::uname;

use crate::fail::{Context, Outcome};
use crate::row;
use crate::table::markdown;

/// What has been measured so far.
#[derive(Default)]
pub struct Report {
    promises: Vec<Vec<String>>,
    sections: Vec<String>,
}

impl Report {
    /// A sentence with a number in it, and whether the promise was kept.
    pub fn promise(&mut self, what: impl ToString, promised: impl ToString, measured: impl ToString, kept: bool) {
        self.promises.push(row![what, promised, measured, if kept { "yes" } else { "**no**" }]);
    }

    pub fn section(&mut self, title: &str, text: &str, head: &[&str], rows: &[Vec<String>]) {
        self.sections.push(format!("## {title}\n\n{}\n\n{}", text.trim(), markdown(head, rows)));
    }

    /// The page in Markdown. `circumstances`: how, where and when it was made.
    pub fn page(&self, circumstances: &str) -> String {
        let head = format!(
            "# Benchmarks\n\n{circumstances}\n\nAll peers are measured in the same run, in turns, each round in another order. \
             Times are of this machine on that day: read the ratios.\n"
        );
        let promises = markdown(&["what", "promised", "measured (medians)", "kept"], &self.promises);
        let parts = [head, format!("## Promises\n\n{promises}")];
        parts.into_iter().chain(self.sections.iter().cloned()).collect::<Vec<_>>().join("\n")
    }
}

/// The day, the command and the machine, for the head of the page.
///
/// # Errors
/// The machine cannot be identified.
pub fn circumstances(command: &str) -> Outcome<String> {
    let date = std::process::Command::new("date").arg("+%F").output().context("date")?;
    let machine = uname().context("uname")?;
    let release = machine.release().to_string_lossy();
    Ok(format!(
        "{}, `{command}`, {} cores, Linux {}, {}.",
        String::from_utf8_lossy(&date.stdout).trim(),
        std::thread::available_parallelism().map_or(1, usize::from),
        release.split('-').next().unwrap_or_default(),
        machine.machine().to_string_lossy()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_its_head_the_promises_and_then_the_sections() {
        let mut report = Report::default();
        report.section("One", " A text. ", &["a", "b"], &[row!["x", 1]]);
        report.promise("small", "≤ 1", 2, false);
        let expected = "# Benchmarks\n\nToday.\n\nAll peers are measured in the same run, in turns, each round in another order. \
                        Times are of this machine on that day: read the ratios.\n\n## Promises\n\n\
                        | what | promised | measured (medians) | kept |\n| --- | ---: | ---: | ---: |\n| small | ≤ 1 | 2 | **no** |\n\n\
                        ## One\n\nA text.\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n";
        assert_eq!(report.page("Today."), expected);
    }
}
