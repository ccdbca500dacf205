//! Owns one HTTP/2 exchange as a state machine over bytes (RFC 9113): takes the bytes received, and yields the replies to send and,
//! finally, the response. Pure: no sockets, no deadline. Must not know gRPC beyond the names of its headers.

use super::hpack;

/// The client's connection preface (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is read in all. A real response has about 200 bytes. It fits into the initial window, so no
/// WINDOW_UPDATE is needed.
pub const MAX_ANSWER: usize = 64 * 1024 - 1;

/// The longest frame before other settings are agreed (RFC 9113, 4.2). Bytes.
pub const MAX_FRAME: usize = 16 * 1024;

const FRAME_HEAD: usize = 9;

/// The one stream that is opened.
const STREAM: u32 = 1;

pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Frame types (RFC 9113, 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// Error codes (RFC 9113, 7).
const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// Appends a frame. `payload` has at most [`MAX_FRAME`] bytes.
pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, payload: &[u8]) {
    let stream = if matches!(kind, SETTINGS | PING | GOAWAY) { 0 } else { STREAM };
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A complete response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// `:status`.
    pub status: Option<u16>,
    /// `grpc-status`.
    pub code: Option<u32>,
    /// `grpc-message`, as sent.
    pub message: Vec<u8>,
    pub data: Vec<u8>,
}

/// An incomplete header block.
#[derive(Debug)]
struct Block {
    stream: u32,
    text: Vec<u8>,
    ends_stream: bool,
}

#[derive(Debug, Default)]
pub struct Exchange {
    /// The incomplete frame.
    pending: Vec<u8>,
    /// Bytes of complete frames so far.
    taken: usize,
    /// A first frame has arrived: the server speaks HTTP/2.
    pub greeted: bool,
    block: Option<Block>,
    response: Response,
    /// To be sent before the next wait.
    pub replies: Vec<u8>,
}

impl Exchange {
    /// Whether part of the response has arrived.
    pub fn begun(&self) -> bool {
        self.response.status.is_some()
    }

    /// How many received bytes are kept.
    #[cfg(any(test, fuzzing))]
    pub fn kept(&self) -> usize {
        let block = self.block.as_ref().map_or(0, |block| block.text.len());
        self.pending.len() + block + self.response.data.len() + self.response.message.len()
    }

    /// Parses the next bytes, which may be cut anywhere. Returns the response once it is complete. Do not call it again after that, or
    /// after an error.
    ///
    /// # Errors
    /// Why there will be no response, in words.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Response>, String> {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        if !self.greeted {
            speaks_http2(rest)?;
        }
        while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD>() {
            let [a, b, c, kind, flags, stream @ ..] = *head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
            // A server that is out of capacity may send GOAWAY instead of SETTINGS.
            if !self.greeted && (!matches!(kind, SETTINGS | GOAWAY) || stream != 0) {
                return Err(not_http2());
            }
            self.greeted = true;
            if length > MAX_FRAME {
                return Err(format!("a frame of {length} bytes, and at most {MAX_FRAME} are allowed"));
            }
            if self.taken + FRAME_HEAD + length > MAX_ANSWER {
                return Err(format!(
                    "the server sent more than {} KiB without ending its answer",
                    MAX_ANSWER / 1024 + 1
                ));
            }
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            self.taken += FRAME_HEAD + length;
            rest = after;
            if self.take(kind, flags, stream, payload)? {
                return Ok(Some(std::mem::take(&mut self.response)));
            }
        }
        self.pending = rest.to_vec();
        Ok(None)
    }

    /// Handles one frame. True: it completes the response.
    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<bool, String> {
        // A header block must not be interrupted (RFC 9113, 4.3).
        if let Some(block) = &mut self.block {
            if kind != CONTINUATION || stream != block.stream {
                return Err(broken("its headers are interrupted"));
            }
            block.text.extend_from_slice(payload);
            return self.end_block(flags);
        }
        match kind {
            HEADERS => {
                let text = unpadded(payload, flags, flags & PRIORITY != 0)?.to_vec();
                self.block = Some(Block { stream, text, ends_stream: flags & END_STREAM != 0 });
                return self.end_block(flags);
            }
            DATA if stream == STREAM => {
                self.response.data.extend_from_slice(unpadded(payload, flags, false)?);
                return Ok(flags & END_STREAM != 0);
            }
            SETTINGS if flags & ACK == 0 => frame(&mut self.replies, SETTINGS, ACK, &[]),
            PING if flags & ACK == 0 && payload.len() == 8 => frame(&mut self.replies, PING, ACK, payload),
            RST_STREAM if stream == STREAM => {
                return Err(format!("the server reset the call: {}", error(payload)));
            }
            GOAWAY => {
                let (last, why) = payload.split_at_checked(4).ok_or_else(|| broken("a GOAWAY that is too short"))?;
                // On a graceful shutdown the server still answers streams that it has accepted, and ours is one of them.
                let answers = last.iter().any(|byte| *byte != 0) && why.starts_with(&[0; 4]);
                if !answers {
                    return Err(format!("the server is closing the connection (GOAWAY): {}", error(why)));
                }
            }
            PUSH_PROMISE | CONTINUATION => return Err(broken("an unexpected frame")),
            _ => {}
        }
        Ok(false)
    }

    /// Reads the header block, if it is complete.
    fn end_block(&mut self, flags: u8) -> Result<bool, String> {
        if flags & END_HEADERS == 0 {
            return Ok(false);
        }
        let Some(block) = self.block.take().filter(|block| block.stream == STREAM) else { return Ok(false) };
        let response = &mut self.response;
        let found = |name: &[u8], value: &[u8]| match name {
            b":status" => response.status = number(value).and_then(|status| u16::try_from(status).ok()),
            b"grpc-status" => response.code = number(value),
            b"grpc-message" => response.message = value.to_vec(),
            _ => {}
        };
        hpack::read(&block.text, found).ok_or_else(|| broken("its headers cannot be read"))?;
        // 100 and 103 precede the final response.
        if response.status.is_some_and(|status| status < 200) {
            response.status = None;
        }
        Ok(block.ends_stream)
    }
}

/// Checks the first bytes before a whole frame has arrived: a server of another protocol may never send that much.
fn speaks_http2(first: &[u8]) -> Result<(), String> {
    match first {
        // The first frame is short, so the first byte of its length is zero.
        [] | [0, ..] => Ok(()),
        [0x15 | 0x16, ..] => {
            Err("this port speaks TLS: grpc:// is plaintext, as in the kubelet's grpc probe".to_owned())
        }
        first if first.starts_with(b"HTTP/") => Err("this port answers in HTTP/1, and gRPC is HTTP/2".to_owned()),
        first if b"HTTP/".starts_with(first) => Ok(()),
        _ => Err(not_http2()),
    }
}

fn not_http2() -> String {
    "the answer is not HTTP/2, so it is not gRPC".to_owned()
}

fn broken(why: &str) -> String {
    format!("the server's HTTP/2 is broken: {why}")
}

/// The payload without padding, and without the deprecated priority (RFC 9113, 6.1, 6.2).
fn unpadded(payload: &[u8], flags: u8, priority: bool) -> Result<&[u8], String> {
    let (padding, rest) = match payload.split_first() {
        Some((padding, rest)) if flags & PADDED != 0 => (usize::from(*padding), rest),
        // A frame too short for the padding length also has more padding than payload.
        None if flags & PADDED != 0 => (1, payload),
        _ => (0, payload),
    };
    let from = if priority { 5 } else { 0 };
    let to = rest.len().checked_sub(padding);
    to.and_then(|to| rest.get(from..to)).ok_or_else(|| broken("more padding than frame"))
}

/// An error code by name, and the server's own text.
fn error(payload: &[u8]) -> String {
    let Some((code, words)) = payload.split_first_chunk() else { return "no reason given".to_owned() };
    let code = u32::from_be_bytes(*code);
    let name = usize::try_from(code).ok().and_then(|code| ERRORS.get(code));
    let name = name.map_or_else(|| format!("code {code}"), |name| (*name).to_owned());
    if words.is_empty() { name } else { format!("{name}, {}", shortened(words)) }
}

/// Text from a server, at most 200 bytes of it.
pub fn shortened(words: &[u8]) -> String {
    const LONGEST: usize = 200;
    let more = if words.len() > LONGEST { "..." } else { "" };
    String::from_utf8_lossy(words.get(..LONGEST).unwrap_or(words)).into_owned() + more
}

fn number(text: &[u8]) -> Option<u32> {
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::hpack::tests::bytes;
    use super::*;

    /// What grpcio 1.85 (Python) sends for a Check that finds SERVING, captured, one frame per line: SETTINGS, WINDOW_UPDATE, the ACK of
    /// ours, WINDOW_UPDATE, PING, HEADERS, DATA, trailers.
    const REAL: &str = include_str!("serving.hex");

    fn real() -> Vec<u8> {
        bytes(REAL)
    }

    /// A frame on any stream.
    fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame(&mut out, kind, flags, payload);
        out[5..9].copy_from_slice(&stream.to_be_bytes());
        out
    }

    fn play(pieces: &[&[u8]]) -> (Result<Option<Response>, String>, Vec<u8>) {
        let mut exchange = Exchange::default();
        for piece in pieces {
            match exchange.feed(piece) {
                Ok(None) => {}
                outcome => return (outcome, exchange.replies),
            }
        }
        (Ok(None), exchange.replies)
    }

    #[test]
    fn a_real_answer_cut_anywhere() {
        let whole = real();
        let want =
            Response { status: Some(200), code: Some(0), message: Vec::new(), data: b"\0\0\0\0\x02\x08\x01".to_vec() };
        let (_, replies) = play(&[&whole]);
        assert!(replies.starts_with(&raw(SETTINGS, ACK, 0, &[])), "{replies:?}");
        for cut in 0..whole.len() {
            let (early, late) = whole.split_at(cut);
            assert_eq!(play(&[early]).0, Ok(None), "{cut}");
            assert_eq!(play(&[early, late]), (Ok(Some(want.clone())), replies.clone()), "{cut}");
        }
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(play(&single).0, Ok(Some(want)));
    }

    #[test]
    fn frames_a_server_may_send() {
        let settings = raw(SETTINGS, 0, 0, &[]);
        let status = [0x88];
        let trailers = b"\0\x0bgrpc-status\x0212\0\x0cgrpc-message\x04a%20";
        let end = END_STREAM | END_HEADERS;
        let all = [
            settings.clone(),
            raw(8, 0, 0, &[0, 0, 0, 1]),
            raw(99, 0xff, 7, b"of another time"),
            raw(PING, 0, 0, b"12345678"),
            raw(PING, ACK, 0, b"12345678"),
            raw(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
            raw(HEADERS, END_HEADERS, 1, b"\x08\x03103"),
            raw(HEADERS, PADDED | PRIORITY, 1, &[&[2, 0, 0, 0, 0, 0], &status[..], &[0, 0]].concat()),
            raw(CONTINUATION, END_HEADERS, 1, &[]),
            raw(DATA, PADDED, 1, b"\x01data\0"),
            raw(DATA, END_STREAM, 3, b"of another stream"),
            raw(HEADERS, END_STREAM, 1, &trailers[..9]),
            raw(CONTINUATION, 0, 1, &trailers[9..20]),
            raw(CONTINUATION, END_HEADERS, 1, &trailers[20..]),
        ];
        let want = Response { status: Some(200), code: Some(12), message: b"a%20".to_vec(), data: b"data".to_vec() };
        let replies = [raw(SETTINGS, ACK, 0, &[]), raw(PING, ACK, 0, b"12345678")].concat();
        assert_eq!(play(&[&all.concat()]), (Ok(Some(want)), replies));
        // A response that ends without trailers.
        let bare = [settings.clone(), raw(HEADERS, end, 1, b"\x8d")].concat();
        assert_eq!(play(&[&bare]).0, Ok(Some(Response { status: Some(404), ..Response::default() })));
    }

    #[test]
    fn what_is_refused() {
        let after = |frame: Vec<u8>| [raw(SETTINGS, 0, 0, &[]), frame].concat();
        for (sent, reason) in [
            (b"HTTP/1.1 400".to_vec(), "HTTP/1,"),
            (b"HELO".to_vec(), "not HTTP/2"),
            (b"\x15\x03\x01".to_vec(), "TLS"),
            (b"SSH-2.0".to_vec(), "not HTTP/2"),
            (vec![0; 9], "not HTTP/2"),
            (raw(SETTINGS, 0, 1, &[]), "not HTTP/2"),
            (raw(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\x0bcalm down"), "ENHANCE_YOUR_CALM, calm down"),
            (after(raw(GOAWAY, 0, 0, &[0; 8])), "closing the connection (GOAWAY): NO_ERROR"),
            (after(raw(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 2])), "INTERNAL_ERROR"),
            (after(raw(GOAWAY, 0, 0, &[0])), "too short"),
            (after(raw(RST_STREAM, 0, 1, &[0, 0, 0, 7])), "reset the call: REFUSED_STREAM"),
            (after(raw(RST_STREAM, 0, 1, &[0, 0, 1, 0])), "code 256"),
            (after(raw(RST_STREAM, 0, 1, &[])), "no reason"),
            (after(raw(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])), "an unexpected frame"),
            (after(raw(CONTINUATION, END_HEADERS, 1, &[])), "an unexpected frame"),
            (after([raw(HEADERS, 0, 1, &[0x88]), raw(DATA, 0, 1, &[])].concat()), "interrupted"),
            (after([raw(HEADERS, 0, 1, &[0x88]), raw(CONTINUATION, 0, 3, &[])].concat()), "interrupted"),
            (after(raw(HEADERS, END_HEADERS, 1, &[0xbe])), "cannot be read"),
            (after(raw(DATA, PADDED, 1, &[5, 0])), "more padding"),
            (after(raw(DATA, PADDED, 1, &[])), "more padding"),
            (after(raw(HEADERS, PRIORITY, 1, &[0; 4])), "more padding"),
            (after(vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]), "16777215 bytes"),
            (raw(SETTINGS, 0, 0, &[]).repeat(MAX_ANSWER / 9 + 1), "64 KiB"),
            (after(raw(DATA, 0, 1, &[0; MAX_FRAME]).repeat(4)), "64 KiB"),
            (
                after(
                    [vec![raw(HEADERS, 0, 1, &[0x88])], vec![raw(CONTINUATION, 0, 1, &[0x88; 1000]); 70]]
                        .concat()
                        .concat(),
                ),
                "64 KiB",
            ),
        ] {
            let (outcome, replies) = play(&[&sent]);
            assert!(outcome.as_ref().is_err_and(|why| why.contains(reason)), "{reason}: {outcome:?}");
            assert!(replies.len() <= MAX_ANSWER);
        }
    }
}
