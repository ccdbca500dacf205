//! Owns PostgreSQL's request and answer (postgresql.org/docs/current/protocol-message-formats.html). Pure. Must not know connections.

use super::dialect::{Ending, Healthy, Read, quoted};

/// ERRCODE_CANNOT_CONNECT_NOW: starting up, shutting down, or in recovery without clients. What pg_isready calls "rejecting".
const CANNOT_CONNECT_NOW: &[u8] = b"57P03";

/// libpq's limit for an error, far above any other message before a login (fe-connect.c, `PQconnectPoll`). Bytes.
const LONGEST: usize = 30_000;

const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// A start-up packet of protocol 3.0. An SSLRequest would not do, because the server reports its state only after this packet. Nearly
/// every server has this user and database, so no "role does not exist" is logged.
pub fn startup() -> Vec<u8> {
    let parameters = b"user\0postgres\0database\0postgres\0application_name\0reberth\0\0";
    let length = u32::try_from(4 + 4 + parameters.len()).unwrap_or_default();
    [&length.to_be_bytes()[..], &[0, 3, 0, 0], parameters].concat()
}

/// Any answer but that error comes from a server that accepts clients, as for pg_isready (fe-connect.c, `internal_ping`).
pub fn read(text: &[u8]) -> Read {
    let mut rest = text;
    loop {
        let Some((&kind, after)) = rest.split_first() else { return Ok(None) };
        // Decided by the first byte: a server of another protocol may never send a complete message.
        if !matches!(kind, b'R' | b'E' | b'N' | b'v') {
            return Err(other_protocol());
        }
        let Some((length, after)) = after.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if !(4..=LONGEST).contains(&length) {
            return Err(other_protocol());
        }
        let Some((message, next)) = after.split_at_checked(length - 4) else { return Ok(None) };
        match kind {
            b'R' => return authentication(message).map(Some),
            b'E' => return error(message).map(Some),
            // A notice, or NegotiateProtocolVersion: the answer follows.
            _ => rest = next,
        }
    }
}

fn authentication(message: &[u8]) -> Result<Healthy, String> {
    let (method, _) = message.split_first_chunk::<4>().ok_or_else(other_protocol)?;
    Ok(match u32::from_be_bytes(*method) {
        // The login succeeded, so the session has to be terminated properly.
        0 => Healthy { reason: "it takes clients".into(), ending: Ending::Sending(TERMINATE) },
        _ => Healthy { reason: "it asks for a login, so it takes clients".into(), ending: Ending::Silent },
    })
}

fn error(message: &[u8]) -> Result<Healthy, String> {
    let field = |name: u8| {
        let mut fields = message.split(|byte| *byte == 0);
        fields.find_map(|field| field.strip_prefix(&[name]))
    };
    let message = quoted(field(b'M').unwrap_or_default());
    match field(b'C') {
        Some(CANNOT_CONNECT_NOW) => Err(format!("it takes no clients now (57P03){message}")),
        Some(code) if code.len() == 5 && code.iter().all(u8::is_ascii_alphanumeric) => {
            let reason = format!("it answers, with the error {}{message}", String::from_utf8_lossy(code));
            Ok(Healthy { reason, ending: Ending::Silent })
        }
        _ => Err(format!("it answers with an error that has no SQLSTATE{message}")),
    }
}

fn other_protocol() -> String {
    "the answer is not that of a PostgreSQL server".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
    }

    #[test]
    fn the_request() {
        let packet = startup();
        assert_eq!(packet[..8], [0, 0, 0, packet.len() as u8, 0, 3, 0, 0]);
        assert!(packet.ends_with(b"reberth\0\0"));
    }

    #[test]
    fn answers() {
        let starting = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0Fpostmaster.c\0\0";
        let no_role = b"SFATAL\0VFATAL\0C28000\0Mrole \"postgres\" does not exist\0\0";
        let notice = message(b'N', b"SNOTICE\0C00000\0Mhello\0\0");
        for (text, want) in [
            (message(b'R', &[0, 0, 0, 0]), Ok(Some("takes clients"))),
            (message(b'R', &[0, 0, 0, 10, b'S']), Ok(Some("asks for a login"))),
            ([notice.clone(), message(b'v', &[0; 8]), message(b'R', &[0, 0, 0, 3])].concat(), Ok(Some("a login"))),
            (message(b'E', no_role), Ok(Some("28000: role \"postgres\""))),
            (message(b'E', b"C53300\0Msorry, too many clients already\0\0"), Ok(Some("53300: sorry"))),
            (message(b'E', starting), Err("57P03): the database system is starting up")),
            (message(b'E', b"Mfoo\0\0"), Err("no SQLSTATE: foo")),
            (message(b'E', b"C57P0\0\0"), Err("answers with an error that has no SQLSTATE")),
            (message(b'E', b"C\x1b[31m\0\0"), Err("no SQLSTATE")),
            (message(b'E', b""), Err("no SQLSTATE")),
            (message(b'R', &[0, 0]), Err("not that of a PostgreSQL")),
            (notice, Ok(None)),
            (Vec::new(), Ok(None)),
            (b"R\0\0\0".to_vec(), Ok(None)),
            (b"R\0\0\0\x08\0".to_vec(), Ok(None)),
            (b"R\0\0\0\x03".to_vec(), Err("not that of")),
            (b"R\xff\xff\xff\xff".to_vec(), Err("not that of")),
            // Before 7.4, or if the server cannot fork: plain text instead of a message.
            (b"Ecould not fork new process for connection\n\0".to_vec(), Err("not that of")),
            (b"S".to_vec(), Err("not that of")),
            (b"HTTP/1.1 400".to_vec(), Err("not that of")),
        ] {
            let got = read(&text);
            match (&got, want) {
                (Ok(None), Ok(None)) => {}
                (Ok(Some(healthy)), Ok(Some(part))) if healthy.reason.contains(part) => {
                    assert_eq!(healthy.ending != Ending::Silent, part == "takes clients");
                }
                (Err(reason), Err(part)) if reason.contains(part) => {}
                _ => panic!("{:?}: {got:?}", text.escape_ascii().to_string()),
            }
        }
    }
}
