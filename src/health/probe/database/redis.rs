//! Owns Redis' request and answer (RESP, redis.io/docs/reference/protocol-spec). Pure. Must not know connections.

use super::dialect::{Ending, Healthy, Read, quoted};

/// A PING, as redis-cli sends it.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The longest answer to a PING. Bytes.
const LONGEST: usize = 1024;

/// The first line decides: `+PONG`, or an error. Errors that demand a login come from a server that accepts clients.
pub fn read(text: &[u8]) -> Read {
    let Some(end) = text.iter().take(LONGEST).position(|byte| *byte == b'\n') else {
        let redis = matches!(text.first(), None | Some(b'+' | b'-'));
        return if redis && text.len() < LONGEST { Ok(None) } else { Err(other_protocol()) };
    };
    let line = text.get(..end).unwrap_or_default().trim_ascii_end();
    let healthy = |reason: &str| Ok(Some(Healthy { reason: reason.into(), ending: Ending::Silent }));
    match line.split_first() {
        Some((b'+', b"PONG")) => healthy("it answers PONG"),
        Some((b'-', error)) => match error.split(|byte| *byte == b' ').next().unwrap_or_default() {
            b"NOAUTH" | b"WRONGPASS" | b"NOPERM" => healthy("it asks for a login, so it serves"),
            b"LOADING" => Err("it is still loading its data (LOADING)".into()),
            _ => Err(format!("it answers the PING with an error{}", quoted(error))),
        },
        _ => Err(other_protocol()),
    }
}

fn other_protocol() -> String {
    "the answer is not that of a Redis server".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (text, want) in [
            ("+PONG\r\n", Ok(Some("PONG"))),
            ("+PONG\r\n+more", Ok(Some("PONG"))),
            ("-NOAUTH Authentication required.\r\n", Ok(Some("login"))),
            ("-WRONGPASS invalid username-password pair\r\n", Ok(Some("login"))),
            ("-NOPERM this user has no permissions\r\n", Ok(Some("login"))),
            ("-LOADING Redis is loading the dataset in memory\r\n", Err("LOADING")),
            ("-DENIED Redis is running in protected mode\r\n", Err(": DENIED Redis is")),
            ("-MASTERDOWN Link with MASTER is down\r\n", Err("MASTERDOWN")),
            ("-NOAUTHx\r\n", Err("NOAUTHx")),
            ("-\r\n", Err("an error")),
            ("", Ok(None)),
            ("+PON", Ok(None)),
            ("+PONGS\r\n", Err("not that of a Redis")),
            ("+OK\r\n", Err("not that of a Redis")),
            ("$4\r\nPONG\r\n", Err("not that of a Redis")),
            ("SSH-2.0", Err("not that of a Redis")),
            ("HTTP/1.1 400 Bad Request\r\n", Err("not that of a Redis")),
            ("\n", Err("not that of a Redis")),
        ] {
            let got = read(text.as_bytes());
            match (&got, want) {
                (Ok(None), Ok(None)) => {}
                (Ok(Some(healthy)), Ok(Some(part))) if healthy.reason.contains(part) => {}
                (Err(reason), Err(part)) if reason.contains(part) => {}
                _ => panic!("{text:?}: {got:?}"),
            }
        }
        assert_eq!(read(&[b'+'; LONGEST - 1]), Ok(None));
        assert!(read(&[b'+'; LONGEST]).is_err());
        assert!(read(&[&[b'-'; 900][..], b"\r\n"].concat()).unwrap_err().len() < 300);
    }
}
