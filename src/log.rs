//! Owns the log: one line per event on stderr, and in `--log-file` too, as text or JSON. Must not know what is logged.
//!
//! The log of PID 1 must never fail, panic or block: a closed stderr, a full disk or a pipe without a reader loses
//! lines, not the container.

pub mod settings;

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::error::{Error, words};
use crate::setting::value::one_line;
use crate::sys::output::Output;
use crate::sys::terminal::{self, Terminal};
use settings::{Format, Level, Log};

const TARGET: &str = "reberth";

static SINK: OnceLock<Sink> = OnceLock::new();

/// Starts the log; a second call changes nothing. Fails (125) if the log file cannot be opened: nothing is launched
/// then, because the user relies on that file.
pub fn init(log: &Log) -> Result<(), Error> {
    let file = log.file.as_ref().map(|path| open(path)).transpose().map_err(|error| {
        let path = log.file.as_deref().unwrap_or(std::path::Path::new("")).display();
        Error::cannot(format!(
            "--log-file (REBERTH_LOG_FILE) {path}: cannot be appended to: {}; give a file in a folder that uid {} can write to",
            words(&error),
            nix::unistd::geteuid()
        ))
    })?;
    let sink = SINK.get_or_init(|| Sink::new(log, file));
    let level = match log.level {
        Level::Off => return Ok(()),
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let subscriber = Lines { level, format: log.format, sink };
    // Fails only if a subscriber is set already, and that one stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Logs errors whatever the level, one per line, whether or not the log has been started. They go to the log file too
/// if it can be opened.
pub fn settings_error(log: &Log, lines: &[String]) {
    let own;
    let sink = match SINK.get() {
        Some(sink) => sink,
        None => {
            own = Sink::new(log, log.file.as_ref().and_then(|path| open(path).ok()));
            &own
        }
    };
    for line in lines {
        let logged = render(log.format, now(), "ERROR", line, Vec::new());
        // A user at a terminal needs no timestamp.
        if log.format == Format::Text && io::stderr().is_terminal() {
            sink.file(&logged);
            let red = if sink.color { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
            sink.stderr(&format!("{}error:{} {}\n", red.0, red.1, one_line(line)));
        } else {
            sink.line(&logged);
        }
    }
}

/// A status line that is redrawn in place during a wait, and erased when dropped. A log line replaces it, and the next
/// redraw comes below. Only on a terminal whose foreground is ours, with the text format and a level that logs waits.
#[derive(Debug)]
pub struct Live(&'static Sink);

impl Live {
    /// `None`: status lines are off.
    pub fn begin() -> Option<Self> {
        SINK.get().filter(|sink| sink.live).map(Self)
    }

    /// Draws it, truncated to the width of the terminal: a line that wraps cannot be redrawn.
    pub fn draw(&self, text: &str) {
        // A background job must not overwrite the shell's line, and an app with the terminal draws there itself.
        if !Terminal::controlling().is_some_and(|terminal| terminal.is_ours()) {
            return self.erase();
        }
        let width = terminal::columns().unwrap_or(80).saturating_sub(1);
        let line: String = one_line(text).chars().take(width).collect();
        self.0.drawn.store(true, Ordering::Relaxed);
        self.0.stderr.put(io::stderr().as_fd(), format!("\r{line}{REST}").as_bytes());
    }

    fn erase(&self) {
        if self.0.drawn.swap(false, Ordering::Relaxed) {
            self.0.stderr.put(io::stderr().as_fd(), ERASED.as_bytes());
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.erase();
    }
}

/// Erases from the cursor to the end of the line (ECMA-48, EL).
const REST: &str = "\x1b[K";
const ERASED: &str = "\r\x1b[K";

/// The log's open descriptors: the log file, and those that writing to stderr takes.
pub fn descriptors<'a>() -> Vec<BorrowedFd<'a>> {
    let Some(sink) = SINK.get() else { return Vec::new() };
    sink.file.iter().map(AsFd::as_fd).chain(sink.stderr.descriptors()).collect()
}

/// Opens for appending. Without O_NONBLOCK, a named pipe without a reader would block here; with it, the open fails.
fn open(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// Where log lines are written.
struct Sink {
    file: Option<File>,
    stderr: Output,
    format: Format,
    color: bool,
    /// Lines lost since stderr last accepted one.
    dropped: AtomicU64,
    /// The last line was written in part: the next one starts on a new line.
    torn: AtomicBool,
    /// Whether [`Live`] lines are shown, and whether one is on the screen.
    live: bool,
    drawn: AtomicBool,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

impl Sink {
    fn new(log: &Log, file: Option<File>) -> Self {
        let terminal = log.format == Format::Text && (log.color || log.live) && io::stderr().is_terminal();
        Self {
            file,
            stderr: Output::default(),
            format: log.format,
            color: log.color && terminal,
            dropped: AtomicU64::new(0),
            torn: AtomicBool::new(false),
            live: log.live && terminal && log.level >= Level::Info,
            drawn: AtomicBool::new(false),
        }
    }

    fn line(&self, line: &str) {
        self.file(line);
        self.stderr(&self.colored(line));
    }

    fn file(&self, line: &str) {
        if let Some(file) = &self.file {
            // A full disk or a pipe without a reader loses the line.
            let _ = (&mut &*file).write(line.as_bytes());
        }
    }

    /// Writes the whole line with one write(2), or loses it. Lost lines are reported before it, in the same write.
    fn stderr(&self, line: &str) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let mut text = String::new();
        if self.drawn.swap(false, Ordering::Relaxed) {
            text.push_str(ERASED);
        }
        if self.torn.load(Ordering::Relaxed) {
            text.push('\n');
        }
        if dropped > 0 {
            let note = format!("{dropped} log lines dropped: stderr did not accept them");
            text.push_str(&self.colored(&render(self.format, now(), "WARN", &note, Vec::new())));
        }
        text.push_str(line);
        match self.stderr.put(io::stderr().as_fd(), text.as_bytes()) {
            written if written == text.len() => {
                self.dropped.store(0, Ordering::Relaxed);
                self.torn.store(false, Ordering::Relaxed);
            }
            written => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                self.torn.fetch_or(written > 0, Ordering::Relaxed);
            }
        }
    }

    /// Colours the first two words of a text line, time and level, on a terminal.
    fn colored(&self, line: &str) -> String {
        let mut words = line.splitn(3, ' ');
        match (self.color, words.next(), words.next(), words.next()) {
            (true, Some(time), Some(level), Some(rest)) => {
                let color = match level {
                    "ERROR" => 31,
                    "WARN" => 33,
                    "INFO" => 32,
                    "DEBUG" => 34,
                    _ => 35,
                };
                format!("\x1b[2m{time}\x1b[0m \x1b[{color}m{level}\x1b[0m {rest}")
            }
            _ => line.into(),
        }
    }
}

/// Writes each event as one line. There are no spans here, so a filter and a formatter suffice; tracing-subscriber's
/// registry for spans would cost 62 KiB of the binary and more than 100 KiB of dirty memory while the app runs.
struct Lines {
    level: LevelFilter,
    format: Format,
    sink: &'static Sink,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.sink.line(&render(self.format, now(), event.metadata().level().as_str(), &fields.message, fields.rest));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The fields of one event, with the message separate.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.rest.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}

/// Milliseconds since 1970, 0 if the clock is earlier.
#[allow(clippy::disallowed_methods, reason = "the time of day is what a log is read by")]
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

/// One line with its newline: `TIME LEVEL reberth: message key=value`, or a JSON object with the fields beside the
/// message.
fn render(format: Format, millis: u64, level: &str, message: &str, fields: Vec<(&'static str, Value)>) -> String {
    let time = timestamp(millis);
    if format == Format::Json {
        let head = [("timestamp", time.as_str()), ("level", level), ("target", TARGET), ("message", message)];
        let mut line = String::from("{");
        for (name, value) in head {
            // The Display form of a JSON value is JSON. Written one by one, the fields keep a readable order.
            let _ = write!(line, "\"{name}\":{},", Value::from(value));
        }
        for (name, value) in fields {
            // A field must not shadow one that every line has.
            let taken = if head.iter().any(|(head, _)| *head == name) { "_" } else { "" };
            let _ = write!(line, "{}:{value},", Value::from(format!("{name}{taken}")));
        }
        line.pop();
        line.push_str("}\n");
        return line;
    }
    let mut line = format!("{time} {level} {TARGET}: ");
    line.push_str(&one_line(message));
    for (name, value) in fields {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        match value {
            Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
                line.push('"');
                line.push_str(&one_line(&text.replace('\\', "\\\\").replace('"', "\\\"")));
                line.push('"');
            }
            Value::String(text) => line.push_str(&one_line(&text)),
            other => line.push_str(&other.to_string()),
        }
    }
    line.push('\n');
    line
}

/// `2026-11-22T09:27:05.123Z`.
fn timestamp(millis: u64) -> String {
    // Later years have five digits, which RFC 3339 does not allow.
    let time = UNIX_EPOCH + Duration::from_millis(millis.min(LAST_MILLISECOND));
    humantime::format_rfc3339_millis(time).to_string()
}

/// The last millisecond of the year 9999, since 1970.
const LAST_MILLISECOND: u64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        // date -u -d @N +%FT%T
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_709_164_800, "2024-02-29T00:00:00.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (1_795_339_625, "2026-11-22T09:27:05.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(timestamp(seconds * 1000 + 7), want);
        }
        assert_eq!(timestamp(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn lines() {
        let fields = || {
            vec![
                ("port", Value::from(8080)),
                ("exec", Value::from(true)),
                ("command", Value::from("a b\n\"c\" \\")),
                ("plain", Value::from("x\x1by")),
                ("level", Value::from("y")),
                ("empty", Value::from("")),
            ]
        };
        assert_eq!(
            render(Format::Text, 0, "INFO", "port\nfree", fields()),
            "1970-01-01T00:00:00.000Z INFO reberth: port\\nfree port=8080 exec=true command=\"a b\\n\\\"c\\\" \\\\\" \
             plain=x\\u{1b}y level=y empty=\"\"\n"
        );
        let json = render(Format::Json, 0, "INFO", "port\nfree", fields());
        assert_eq!(json.matches('\n').count(), 1);
        let object: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["timestamp"], "1970-01-01T00:00:00.000Z");
        assert_eq!(
            (&object["level"], &object["target"], &object["message"]),
            (&"INFO".into(), &"reberth".into(), &"port\nfree".into())
        );
        assert_eq!((&object["port"], &object["exec"], &object["level_"]), (&8080.into(), &true.into(), &"y".into()));
    }

    #[test]
    fn color_only_if_allowed() {
        let sink = |color| Sink {
            file: None,
            stderr: Output::default(),
            format: Format::Text,
            color,
            dropped: 0.into(),
            torn: false.into(),
            live: false,
            drawn: false.into(),
        };
        let line = "T WARN reberth: x y\n";
        assert_eq!(sink(false).colored(line), line);
        assert_eq!(sink(true).colored(line), "\x1b[2mT\x1b[0m \x1b[33mWARN\x1b[0m reberth: x y\n");
    }
}
