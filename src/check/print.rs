//! Owns how the report of `run --check` is printed for people. Must not know how it is made.

use std::fmt::Write as _;

use super::report::Report;

/// The report as text: errors and warnings, one line per setting, ports, probes, command, outcome.
pub fn page(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut put = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    for error in &report.errors {
        put(format!("error: {error}"));
    }
    for warning in &report.warnings {
        put(format!("warning: {warning}"));
    }
    let width = report.settings.iter().map(|setting| setting.value.chars().count().min(40)).max().unwrap_or_default();
    for setting in &report.settings {
        put(format!("{:20} {:width$}  {}", setting.setting, setting.value, setting.place));
    }
    for port in &report.ports {
        let what = if port.port == 0 { "any free port".to_owned() } else { port.summary() };
        put(format!("{:20} {what}", format!("{}/{}", port.port, port.protocol)));
        port.advice.iter().for_each(|advice| put(format!("{:20} {advice}", "")));
    }
    for question in &report.health {
        put(format!("{:20} asks {}", question.probe, question.asks));
    }
    if !report.command.is_empty() {
        put(format!("{:20} {}", "command", report.command.join(" ")));
    }
    put(format!("{} (exit code {})", report.outcome, report.code));
    text
}
