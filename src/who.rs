//! Owns the `who` command: each port asked about, free or held, by whom, and what to do, as a table or as JSON. Must not know how a
//! holder is found.

mod watch;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::config::{Source, Who};
use crate::error::{Error, words};
use crate::exit::Code;
use crate::port::advice;
use crate::port::attempt::{Attempt, Tried};
use crate::port::claim::{self, Given, Voice};
use crate::port::holder::{self, Depth, Hidden, Holder, Look, State};
use crate::port::spec::{Protocol, Spec};

#[derive(Debug, Serialize)]
struct Report {
    /// With a watch: when this was so.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    ports: Vec<Port>,
}

/// What is known of one port.
#[derive(Debug, Serialize)]
pub struct Port {
    pub port: u16,
    pub protocol: &'static str,
    /// `free` or `held`: held is what a claim would wait for.
    state: &'static str,
    holders: Vec<Line>,
    pub advice: Vec<String>,
    /// The holders in words, as a log has them.
    #[serde(skip)]
    words: String,
}

impl Port {
    /// A claim would have to wait.
    pub fn is_held(&self) -> bool {
        self.state == HELD
    }

    /// `free`, or by whom it is held.
    pub fn summary(&self) -> String {
        if self.is_held() { format!("held by {}", self.words) } else { self.state.to_owned() }
    }
}

/// One holder, every key always there, unknown values null.
#[derive(Debug, Serialize)]
struct Line {
    pid: Option<i32>,
    command: Option<String>,
    uid: Option<u32>,
    user: Option<String>,
    container: Option<String>,
    state: &'static str,
    address: Option<String>,
    since: Option<String>,
    seconds_left: Option<u64>,
    hidden: Option<String>,
    /// The same as a word: `kernel`, `closed`, `no-proc`, `refused`, `user` or `namespace`.
    hidden_by: Option<&'static str>,
    /// How many sockets this line is for, and whether with SO_REUSEPORT; the table tells, the JSON has had its keys fixed.
    #[serde(skip)]
    sockets: usize,
    #[serde(skip)]
    reuse_port: bool,
}

impl From<Holder> for Line {
    fn from(holder: Holder) -> Self {
        let seconds_left = holder.seconds_left();
        Self {
            pid: holder.pid,
            command: holder.command,
            uid: holder.uid,
            user: holder.user,
            container: holder.container.map(|(id, _)| id),
            state: holder.state.name(),
            address: Some(holder.address.to_string()),
            since: holder.since.map(holder::timestamp),
            seconds_left,
            hidden: holder.hidden.map(|why| why.to_string()),
            hidden_by: holder.hidden.map(Hidden::name),
            sockets: holder.sockets,
            reuse_port: holder.reuse_port == Some(true),
        }
    }
}

/// Prints who has the ports asked about, or every listener when none was.
///
/// `Code::OK`: all free, or a mere list. `Code::NO`: some port is held.
///
/// # Errors
/// `Cannot` (125): it cannot be told, or not be printed. A reader that went away is no error.
#[inline(never)]
pub fn run(asked: &Who) -> Result<Code, Error> {
    if asked.watch {
        return watch::run(asked);
    }
    let (report, code) = if asked.ports.is_empty() {
        (Report { at: None, ports: everybody()? }, Code::OK)
    } else {
        let ports = judge_all(&asked.ports)?;
        let held = ports.iter().any(|port| port.state == HELD);
        (Report { at: None, ports }, if held { Code::NO } else { Code::OK })
    };
    let (text, notes) = if asked.json { (json(&report)?, String::new()) } else { (table(&report), notes(&report)) };
    // A pipe gets the rows alone, for awk and its like; the advice is for people.
    let beside = !std::io::stdout().is_terminal();
    let text = if beside { text } else { text + &notes };
    if beside {
        let _ = std::io::stderr().write_all(notes.as_bytes());
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::cannot(format!("cannot write to stdout: {}", words(&error))))
        }
        _ => Ok(code),
    }
}

/// Who asks may be a person at a shell or in a container, and is told both ways.
const ADVISED: Given = Given {
    voice: Voice::Both,
    port: Source::Default,
    wait: Source::Default,
    fallback: Source::Default,
    handover: Source::Default,
    hands_over: false,
    alone: false,
};

const FREE: &str = "free";
const HELD: &str = "held";

fn everybody() -> Result<Vec<Port>, Error> {
    let all = holder::everybody().map_err(|error| {
        Error::cannot(format!("cannot list sockets: neither netlink nor /proc/net can be read: {}", words(&error)))
    })?;
    let shared = crate::share::all();
    let mut ports: Vec<Port> = Vec::new();
    for holder in all.holders {
        let (number, protocol) = (holder.port, holder.protocol.name());
        let shares = || {
            let of = |place: &&(String, &str, u16)| (place.1, place.2) == (protocol, number);
            let line = |(name, ..): &(String, &str, u16)| format!("shared by the instances of {name} (--share)");
            shared.iter().filter(of).map(line).collect()
        };
        match ports.last_mut().filter(|last| last.port == number && last.protocol == protocol) {
            Some(port) => port.holders.push(holder.into()),
            None => ports.push(Port {
                port: number,
                protocol,
                state: HELD,
                advice: shares(),
                holders: vec![holder.into()],
                words: String::new(),
            }),
        }
    }
    Ok(ports)
}

/// Every spec is judged before the first failure is told, and all failures together.
fn judge_all(specs: &[Spec]) -> Result<Vec<Port>, Error> {
    let (mut ports, mut failures) = (Vec::new(), Vec::new());
    for spec in specs {
        match judge(spec, claim::v6_only(spec, specs)) {
            Ok(port) => ports.push(port),
            Err(line) => failures.push(line),
        }
    }
    if failures.is_empty() { Ok(ports) } else { Err(Error::Cannot(failures)) }
}

/// What is known of the port of `spec`. Held is what a claim would find held, so a claim's own try decides: a bind that never listens, let go at once.
pub fn judge(spec: &Spec, v6_only: bool) -> Result<Port, String> {
    judge_noting(spec, v6_only, &mut Vec::new())
}

/// The same; `own` gets the kernel's name of the socket that tried.
fn judge_noting(spec: &Spec, v6_only: bool, own: &mut Vec<u64>) -> Result<Port, String> {
    let mut attempt = Attempt::new(spec, v6_only);
    let tried = attempt.bind();
    own.extend(attempt.into_socket().map(|(_, _, cookie)| cookie));
    // Any port is free, and nobody in particular has it.
    let look = if spec.port == 0 { Look::default() } else { holder::look(spec, Depth::Programs) };
    let mut notes = Vec::new();
    let held = match tried {
        Tried::Ours => false,
        Tried::Busy => true,
        // Who may not bind may still be told who listens.
        Tried::Never(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            notes.push(advice::never(spec, &error));
            look.holders.iter().any(blocks)
        }
        Tried::Never(error) => return Err(advice::never(spec, &error)),
    };
    notes.extend(look.incomplete.map(|reason| format!("this may not be all: {reason}")));
    if held {
        notes.extend(advice::advice(spec, &look, &ADVISED));
    } else {
        notes.extend(look.holders.iter().map(|holder| format!("this does not block a claim: {holder}")));
    }
    let words = look.to_string();
    let holders = if held { look.holders } else { Vec::new() };
    Ok(Port {
        port: spec.port,
        protocol: spec.protocol.name(),
        state: if held { HELD } else { FREE },
        holders: holders.into_iter().map(Line::from).collect(),
        advice: notes,
        words,
    })
}

fn blocks(holder: &Holder) -> bool {
    holder.state == State::Listening || holder.protocol == Protocol::Udp
}

fn json(report: &Report) -> Result<String, Error> {
    let text = serde_json::to_string(report).map_err(|error| Error::cannot(format!("cannot write JSON: {error}")))?;
    Ok(text + "\n")
}

const HEADINGS: [&str; 9] = ["PORT", "STATE", "HOLDER", "PID", "USER", "ADDRESS", "CONTAINER", "SINCE", "COMMAND"];

fn table(report: &Report) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    for port in &report.ports {
        rows.extend(port.holders.iter().map(|line| cells(port, line)));
        if port.holders.is_empty() {
            let mut cells = HEADINGS.map(|_| "-".to_owned());
            cells[0] = format!("{}/{}", port.port, port.protocol);
            cells[1] = port.state.to_owned();
            rows.push(cells);
        }
    }
    let widths: Vec<usize> = (0..HEADINGS.len()).map(|column| widest(&rows, column)).collect();
    let mut text = String::new();
    for row in &rows {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        // A String takes everything: there is no error to look at.
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
    }
    text
}

/// What is to be said of the ports, a line each.
fn notes(report: &Report) -> String {
    let mut text = String::new();
    for port in &report.ports {
        for advice in &port.advice {
            let _ = writeln!(text, "{}/{}: {advice}", port.port, port.protocol);
        }
    }
    text
}

fn widest(rows: &[[String; 9]], column: usize) -> usize {
    rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
}

fn cells(port: &Port, line: &Line) -> [String; 9] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let first = |id: &String| id.get(..12).unwrap_or(id).to_owned();
    let mut state = line.state.to_owned();
    if line.sockets > 1 {
        state.push_str(&format!(" x{}", line.sockets));
    }
    if line.reuse_port {
        state.push_str(" SO_REUSEPORT");
    }
    if let Some(left) = line.seconds_left {
        state.push_str(&format!(" {left}s"));
    }
    [
        format!("{}/{}", port.port, port.protocol),
        port.state.to_owned(),
        state,
        or_dash(line.pid.map(|pid| pid.to_string())),
        or_dash(line.user.clone().or_else(|| line.uid.map(|uid| uid.to_string()))),
        or_dash(line.address.clone()),
        or_dash(line.container.as_ref().map(first)),
        or_dash(line.since.clone()),
        or_dash(
            line.command.as_deref().map(holder::short).or_else(|| line.hidden.as_ref().map(|why| format!("({why})"))),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Line, Port, Report, json, notes, table};

    fn report() -> Report {
        let line = Line {
            pid: None,
            command: None,
            uid: None,
            user: None,
            container: None,
            state: "TIME_WAIT",
            address: Some("127.0.0.1".to_owned()),
            since: None,
            seconds_left: Some(42),
            hidden: None,
            hidden_by: None,
            sockets: 3,
            reuse_port: false,
        };
        let held = Port {
            port: 80,
            protocol: "tcp",
            state: "held",
            holders: vec![line],
            advice: vec!["wait".to_owned()],
            words: String::new(),
        };
        let free =
            Port { port: 53, protocol: "udp", state: "free", holders: vec![], advice: vec![], words: String::new() };
        Report { at: None, ports: vec![held, free] }
    }

    #[test]
    fn json_has_every_key_and_null_for_the_unknown() {
        let expected = concat!(
            r#"{"ports":[{"port":80,"protocol":"tcp","state":"held","holders":[{"pid":null,"command":null,"uid":null,"user":null,"#,
            r#""container":null,"state":"TIME_WAIT","address":"127.0.0.1","since":null,"seconds_left":42,"hidden":null,"hidden_by":null}],"#,
            r#""advice":["wait"]},{"port":53,"protocol":"udp","state":"free","holders":[],"advice":[]}]}"#,
            "\n"
        );
        assert_eq!(json(&report()).unwrap(), expected);
    }

    #[test]
    fn the_table_names_who_shares_and_the_json_keeps_its_keys() {
        let mut shared = report();
        shared.ports[0].holders[0].reuse_port = true;
        assert!(table(&shared).contains("TIME_WAIT x3 SO_REUSEPORT 42s"), "{}", table(&shared));
        assert_eq!(json(&shared).unwrap(), json(&report()).unwrap());
    }

    #[test]
    fn the_table_lines_up() {
        let expected = "\
PORT    STATE  HOLDER            PID  USER  ADDRESS    CONTAINER  SINCE  COMMAND
80/tcp  held   TIME_WAIT x3 42s  -    -     127.0.0.1  -          -      -
53/udp  free   -                 -    -     -          -          -      -
80/tcp: wait
";
        assert_eq!(table(&report()) + &notes(&report()), expected);
    }
}
