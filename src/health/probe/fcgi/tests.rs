//! Tables of FastCGI requests and responses.

use super::*;

fn sent(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    record(&mut text, kind, content);
    text
}

fn over(status: u8) -> Vec<u8> {
    sent(END_REQUEST, &[0, 0, 0, 0, status, 0, 0, 0])
}

#[test]
fn heads() {
    for (head, want) in [
        ("Content-type: text/plain\r\n\r\n", Ok(200)),
        ("Status: 503 Busy\r\nContent-type: a\r\n\r\n", Ok(503)),
        ("X: y\nstatus:404\n\n", Ok(404)),
        ("Status: 20\r\n\r\n", Err("no status")),
        ("Status: 1000\r\n\r\n", Err("no status")),
        ("Status: abc\r\n\r\n", Err("no status")),
        ("HTTP/1.1 200 OK\r\n\r\n", Err("no CGI head")),
    ] {
        let got = status(head.as_bytes());
        let same = match (&got, want) {
            (Ok(got), Ok(want)) => *got == want,
            (Err(got), Err(want)) => got.contains(want),
            _ => false,
        };
        assert!(same, "{head:?}: {got:?}");
    }
}

#[test]
fn answers() {
    let ok = sent(STDOUT, b"Content-type: text/plain\r\n\r\npong");
    let cut = [sent(STDOUT, b"Status: 5"), sent(STDERR, b"oh"), sent(STDOUT, b"03 X\r\n\r\n")].concat();
    // Padding, and a management record.
    let padded =
        [&[1, STDOUT, 0, 1, 0, 8, 3, 0][..], b"A: b\r\n\r\nxxx", &[1, 10, 0, 0, 0, 0, 0, 0], &over(0)].concat();
    for (text, wanted, want) in [
        (ok.clone(), None, Ok(Some((200, None)))),
        (ok.clone(), Some("pong"), Ok(Some((200, Some(true))))),
        (ok.clone(), Some("ping"), Ok(None)),
        ([ok.clone(), over(0)].concat(), Some("ping"), Ok(Some((200, Some(false))))),
        (cut.clone(), None, Ok(Some((503, None)))),
        (padded, Some("x"), Ok(Some((200, Some(false))))),
        (sent(STDOUT, b"A: b\r\n"), None, Ok(None)),
        (Vec::new(), None, Ok(None)),
        (vec![1, STDOUT], None, Ok(None)),
        (over(0), None, Err("without an answer")),
        (over(1), None, Err("no more requests")),
        (over(2), None, Err("overloaded")),
        (over(3), None, Err("no responder")),
        (over(4), None, Err("not that of a FastCGI")),
        (sent(END_REQUEST, &[0]), None, Err("not that of a FastCGI")),
        (sent(99, b""), None, Err("not that of a FastCGI")),
        (b"HTTP/1.1 400".to_vec(), None, Err("not that of a FastCGI")),
        ([ok.clone(), b"x".to_vec()].concat(), Some("y"), Err("not that of a FastCGI")),
        // Bytes after a complete answer are ignored.
        ([cut, b"x".to_vec()].concat(), None, Ok(Some((503, None)))),
    ] {
        let got = read(&text, wanted.map(str::as_bytes));
        match (&got, want) {
            (Ok(None), Ok(None)) => {}
            (Ok(Some(response)), Ok(Some((status, found)))) if (response.status, response.found) == (status, found) => {
            }
            (Err(reason), Err(part)) if reason.contains(part) => {}
            _ => panic!("{:?}: {got:?}, {want:?}", text.escape_ascii().to_string()),
        }
    }
}

#[test]
fn parameters() {
    let mut params = Vec::new();
    param(&mut params, "A", "bc");
    assert_eq!(params, b"\x01\x02Abc");
    params.clear();
    param(&mut params, "A", &"x".repeat(128));
    assert_eq!(params[..6], [1, 0x80, 0, 0, 128, b'A']);
}
