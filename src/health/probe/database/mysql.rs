//! Owns MySQL's greeting, and the login after it, without which the server counts an interrupted client
//! (dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html). Must not know how the verdict is printed.
//!
//! A client that leaves the greeting unanswered adds one to its host's count against `max_connect_errors` (100): after 100 probes the
//! server would block the app's own host. So the probe completes a login, as `mysqladmin ping` does; a refused login does not count.

use super::dialect::{Ending, Healthy, Read, quoted};
use crate::health::probe::connection::Connection;
use crate::health::probe::deadline::Deadline;

/// The longest greeting, error, or request for another authentication method. Bytes.
const LONGEST: usize = 4096;

/// PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH and LONG_PASSWORD.
const CAPABILITIES: u32 = 0x200 | 0x8000 | 0x8_0000 | 1;

const NATIVE: &[u8] = b"mysql_native_password";

/// The most packets that the client sends in a login.
const TURNS: usize = 3;

/// The greeting of protocol 10. An error in its place is a server that refuses clients.
pub fn read(text: &[u8]) -> Read {
    let Some((sequence, payload)) = packet(text).map_err(|()| other_protocol())? else { return Ok(None) };
    match payload.split_first() {
        Some((10, rest)) if sequence == 0 => {
            let end = rest.iter().position(|byte| *byte == 0).ok_or_else(other_protocol)?;
            let version =
                rest.get(..end).filter(|version| !version.is_empty() && version.iter().all(u8::is_ascii_graphic));
            let version = String::from_utf8_lossy(version.ok_or_else(other_protocol)?).into_owned();
            // MariaDB adds this prefix for replicas that know no version above 5.
            let version = version.strip_prefix("5.5.5-").unwrap_or(&version);
            let reason = format!("it greets as {}", version.get(..100).unwrap_or(version));
            Ok(Some(Healthy { reason, ending: Ending::Login(login()) }))
        }
        Some((0xff, [low, high, message @ ..])) => {
            let code = u16::from_le_bytes([*low, *high]);
            Err(format!("it refuses clients with the error {code}{}", quoted(message)))
        }
        _ => Err(other_protocol()),
    }
}

/// The first packet: sequence number and payload. `None`: it is incomplete. Fails at the first byte that cannot start one.
fn packet(text: &[u8]) -> Result<Option<(u8, &[u8])>, ()> {
    let Some(([a, b, c, sequence], rest)) = text.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
    if !(1..=LONGEST).contains(&length) {
        return Err(());
    }
    Ok(rest.get(..length).map(|payload| (*sequence, payload)))
}

fn framed(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = u32::try_from(payload.len()).unwrap_or_default().to_le_bytes();
    [&[a, b, c, sequence], payload].concat()
}

/// HandshakeResponse41: no password, no database, utf8.
fn login() -> Vec<u8> {
    let mut payload = CAPABILITIES.to_le_bytes().to_vec();
    payload.extend_from_slice(&(1u32 << 24).to_le_bytes());
    payload.push(33);
    payload.extend_from_slice(&[0; 23]);
    payload.extend_from_slice(b"reberth\0\0");
    payload.extend_from_slice(NATIVE);
    payload.push(0);
    framed(1, &payload)
}

/// The client's reply in a login. `None`: nothing more to send.
fn reply(sequence: u8, payload: &[u8]) -> Option<Vec<u8>> {
    match payload.split_first()? {
        // The empty password was accepted: COM_QUIT.
        (0, _) => Some(framed(0, &[1])),
        // AuthSwitchRequest: an empty password in the form of the requested method.
        (0xfe, rest) => {
            let plugin = rest.split(|byte| *byte == 0).next().unwrap_or_default();
            Some(framed(sequence.wrapping_add(1), if plugin == NATIVE { b"" } else { b"\0" }))
        }
        _ => None,
    }
}

/// Sends `words`, and replies to the server until the login ends. Errors no longer matter.
pub(in crate::health::probe) fn log_in(connection: &mut Connection, mut words: Vec<u8>, deadline: Deadline) {
    let mut buffer = [0; 1024];
    for _ in 0..TURNS {
        if connection.send(&words, deadline).is_err() {
            return;
        }
        let mut text = Vec::new();
        words = loop {
            match packet(&text) {
                Ok(Some((sequence, payload))) => match reply(sequence, payload) {
                    Some(words) => break words,
                    None => return,
                },
                Ok(None) => {}
                Err(()) => return,
            }
            match connection.receive(&mut buffer, deadline) {
                Ok(size) if size > 0 => text.extend_from_slice(buffer.get(..size).unwrap_or_default()),
                _ => return,
            }
        };
        // Nothing follows COM_QUIT.
        if words.get(3) == Some(&0) {
            let _ = connection.send(&words, deadline);
            return;
        }
    }
}

fn other_protocol() -> String {
    "the answer is not that of a MySQL server".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let greeting = framed(0, b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0");
        for (text, want) in [
            (greeting.clone(), Ok(Some("it greets as 8.0.36"))),
            (framed(0, b"\x0a5.5.5-10.11.6-MariaDB\0\x01"), Ok(Some("it greets as 10.11.6-MariaDB"))),
            ([&greeting[..], b"more"].concat(), Ok(Some("it greets as 8.0.36"))),
            (greeting[..greeting.len() - 1].to_vec(), Ok(None)),
            (greeting[..3].to_vec(), Ok(None)),
            (Vec::new(), Ok(None)),
            (framed(0, b"\xff\x10\x04Too many connections"), Err("1040: Too many connections")),
            (framed(0, b"\xff\x69\x04Host '10.0.0.9' is blocked"), Err("1129: Host")),
            (framed(0, b"\xff\x10"), Err("not that of")),
            (framed(0, b"\x098.0\0"), Err("not that of")),
            (framed(1, b"\x0a8.0\0"), Err("not that of")),
            (framed(0, b"\x0a8.0"), Err("not that of")),
            (framed(0, b"\x0a\0"), Err("not that of")),
            (framed(0, b"\x0a\x1b[31m\0"), Err("not that of")),
            (framed(0, b""), Err("not that of")),
            (b"\xff\xff\xff\0".to_vec(), Err("not that of")),
            (b"SSH-2.0-x\r\n".to_vec(), Err("not that of")),
            (b"HTTP/1.1 ".to_vec(), Err("not that of")),
        ] {
            let got = read(&text);
            match (&got, want) {
                (Ok(None), Ok(None)) => {}
                (Ok(Some(healthy)), Ok(Some(part))) if healthy.reason == part => {}
                (Err(reason), Err(part)) if reason.contains(part) => {}
                _ => panic!("{:?}: {got:?}", text.escape_ascii().to_string()),
            }
        }
    }

    #[test]
    fn a_login_is_completed() {
        let words = login();
        assert_eq!(words[..4], [words.len() as u8 - 4, 0, 0, 1]);
        for (sequence, payload, want) in [
            (2, &b"\0\0\0\x02\0\0\0"[..], Some(&b"\x01\0\0\0\x01"[..])),
            (2, b"\xff\x15\x04#28000Access denied", None),
            (2, b"\xfemysql_native_password\0salt\0", Some(b"\0\0\0\x03")),
            (2, b"\xfecaching_sha2_password\0salt\0", Some(b"\x01\0\0\x03\0")),
            (255, b"\xfe", Some(b"\x01\0\0\0\0")),
            (2, b"\x01\x04", None),
        ] {
            assert_eq!(reply(sequence, payload).as_deref(), want, "{payload:?}");
        }
    }
}
