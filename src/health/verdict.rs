//! Owns the line that a healthcheck prints. Must not know how the verdict was reached.

use std::time::Duration;

use super::probe::answer::Status;
use super::probe::deadline::shown_duration;

/// Docker keeps 4096 bytes of a check's output, newline included (moby, daemon/health.go).
const MAX_LINE: usize = 4096;

/// A longer target is cut, so that the reason always fits into the line. Bytes.
const MAX_TARGET: usize = 1024;

/// The verdict of one attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub healthy: bool,
    /// The target, or `run` if its phase decided.
    pub about: String,
    pub status: Option<Status>,
    pub reason: String,
    /// The verdict depends on settings that are bad.
    pub needs_settings: bool,
}

impl Verdict {
    /// `healthy http://127.0.0.1:8080/ready, status 200, 1.3ms: the status is in 200-399`, with a newline. At most 4096 bytes without control
    /// characters, whatever a server or a file contributed to the reason.
    pub fn line(&self, time: Duration) -> String {
        let verdict = if self.healthy { "healthy" } else { "unhealthy" };
        let status = self.status.map_or_else(|| "no status".to_owned(), |status| format!("status {status}"));
        let about = cut(clean(&self.about), MAX_TARGET);
        let line = format!("{verdict} {about}, {status}, {}: {}", shown_duration(time), clean(&self.reason));
        cut(line, MAX_LINE - 1) + "\n"
    }
}

/// Replaces control characters, which could colour a terminal or fake a second line, and bidirectional ones, which reorder text.
fn clean(text: &str) -> String {
    let bad = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.replace(bad, "?")
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit - "...".len()));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let verdict = |about: &str, reason: &str| {
            let status = about.starts_with("http").then_some(Status::Http(200));
            Verdict {
                healthy: status.is_some(),
                about: about.into(),
                status,
                reason: reason.into(),
                needs_settings: false,
            }
        };
        let line = verdict("http://h/", "fine").line(Duration::from_micros(1300));
        assert_eq!(line, "healthy http://h/, status 200, 1.3ms: fine\n");
        let line = verdict("run", "phase\x1b[31m\r\n\u{202e}x").line(Duration::ZERO);
        assert_eq!(line, "unhealthy run, no status, 0ms: phase?[31m???x\n");
        let line = verdict(&"é".repeat(5000), &"ü".repeat(5000)).line(Duration::ZERO);
        assert!(line.len() <= MAX_LINE && line.ends_with("ü...\n") && line.matches('\n').count() == 1);
    }
}
