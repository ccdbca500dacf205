//! Owns how a `who` report is printed: as JSON, or as a table with notes. Must not know how a port is checked.

use std::fmt::Write as _;

use super::report::{Line, Port, Report};
use crate::error::Error;
use crate::port::holder;

/// One line of JSON.
///
/// # Errors
/// `Cannot` (125): a value cannot be written as JSON.
pub fn json(report: &Report) -> Result<String, Error> {
    let text = serde_json::to_string(report).map_err(|error| Error::cannot(format!("cannot write JSON: {error}")))?;
    Ok(text + "\n")
}

const HEADINGS: [&str; 9] = ["PORT", "STATE", "HOLDER", "PID", "USER", "ADDRESS", "CONTAINER", "SINCE", "COMMAND"];

/// The table, with its headings.
pub fn table(report: &Report) -> String {
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
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
    }
    text
}

/// The advice for all ports, one per line.
pub fn notes(report: &Report) -> String {
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
    use super::*;

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
    fn the_table_shows_so_reuseport_and_the_json_keeps_its_keys() {
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
