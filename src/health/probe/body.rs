//! Owns the framing of a body: where it ends, how far `--body-contains` searches it, and how much of an unneeded body is drained.
//! Must not know what a match means.

use super::connection::Connection;
use super::deadline::Deadline;
use super::wire::Broken;

/// How much of a body is searched. Bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// How much of an unneeded body is drained: as much as the kubelet reads (pkg/probe/http/http.go, `maxRespBodyLength`). Bytes.
const MAX_DRAINED: usize = 10 * 1024;

/// The longest line of chunked framing. Bytes.
const MAX_CHUNK_LINE: usize = 1024;

/// Where a body ends (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// The result of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    Found,
    /// Not in the whole body.
    Missing,
    /// Not in the first [`MAX_BODY`] bytes; the rest is not searched.
    TooLong,
}

/// Searches for `wanted` and stops reading as soon as the result is known. `body` already holds what arrived with the head.
// Inlined, the buffer would be in every probe's stack frame, searching or not, and cost a fresh page.
#[inline(never)]
pub(super) fn contains(
    connection: &mut Connection,
    body: &mut Body,
    wanted: &[u8],
    deadline: Deadline,
) -> Result<Search, Broken> {
    let mut buffer = [0; 4096];
    let mut searched = 0usize;
    loop {
        let from = searched.saturating_sub(wanted.len());
        let new = body.text.get(from..).unwrap_or_default();
        if memchr::memmem::find(new, wanted).is_some() {
            return Ok(Search::Found);
        }
        searched = body.text.len();
        if body.text.len() >= MAX_BODY {
            return Ok(Search::TooLong);
        }
        if body.ended {
            return Ok(Search::Missing);
        }
        match connection.receive(&mut buffer, deadline)? {
            0 if body.framing == Framing::UntilClose => (body.ended, body.over) = (true, true),
            0 => return Err(Broken::Error("the server closed the connection".to_owned())),
            size => body.feed(buffer.get(..size).unwrap_or_default())?,
        }
    }
}

/// Drains the rest of `body`: to its end, the deadline or [`MAX_DRAINED`] bytes. Errors no longer matter.
// Not inlined, for the same reason.
#[inline(never)]
pub(super) fn drain(connection: &mut Connection, body: &mut Body, deadline: Deadline) {
    let mut buffer = [0; 4096];
    while !body.over {
        let room = MAX_DRAINED.saturating_sub(body.drained).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else { return };
        match connection.receive(buffer, deadline) {
            Ok(size) if size > 0 && body.feed(buffer.get(..size).unwrap_or_default()).is_ok() => {}
            _ => return,
        }
    }
}

/// A body, parsed as it arrives.
#[derive(Debug)]
pub(crate) struct Body {
    framing: Framing,
    chunk: Chunk,
    /// The incomplete line of chunked framing.
    line: Vec<u8>,
    pub text: Vec<u8>,
    /// `text` is complete.
    pub ended: bool,
    /// Nothing more follows, not even trailers.
    pub over: bool,
    /// Discard the text.
    discarding: bool,
    /// Bytes fed while discarding, framing included.
    drained: usize,
}

/// What comes next in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size,
    Data(u64),
    /// The line break after the data.
    End,
    /// Optional lines after the last chunk, up to an empty one.
    Trailers,
}

impl Body {
    /// A body whose first [`MAX_BODY`] bytes are kept.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            chunk: Chunk::Size,
            line: Vec::new(),
            text: Vec::new(),
            ended: false,
            over: false,
            discarding: false,
            drained: 0,
        }
    }

    /// Discards the text from here on.
    pub fn discarding(self) -> Self {
        Self { text: Vec::new(), discarding: true, ..self }
    }

    /// Whether draining can reach the end: the body is incomplete and may end within [`MAX_DRAINED`] bytes.
    pub(super) fn is_worth_draining(&self) -> bool {
        let room = MAX_DRAINED.saturating_sub(self.drained);
        !self.over && room > 0 && !matches!(self.framing, Framing::Length(left) if left > room as u64)
    }

    /// Parses the next bytes, which may be cut anywhere.
    ///
    /// # Errors
    /// The body is malformed. Do not call `feed` again.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        if self.discarding {
            self.drained += bytes.len();
        }
        match self.framing {
            Framing::None => self.over = true,
            Framing::UntilClose => self.keep(bytes),
            Framing::Length(length) => {
                let (mine, left) = split(bytes, length);
                self.keep(mine);
                self.framing = Framing::Length(left);
                self.over = left == 0;
            }
            // A malformed tail does not matter once all that is searched has arrived.
            Framing::Chunked => match self.feed_chunks(bytes) {
                Err(_) if self.ended || self.text.len() >= MAX_BODY => self.over = true,
                outcome => return outcome,
            },
        }
        self.ended = self.over;
        Ok(())
    }

    fn feed_chunks(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !self.over {
            if let Chunk::Data(length) = self.chunk {
                let (mine, left) = split(bytes, length);
                self.keep(mine);
                bytes = bytes.get(mine.len()..).unwrap_or_default();
                self.chunk = if left == 0 { Chunk::End } else { Chunk::Data(left) };
                if left > 0 {
                    return Ok(());
                }
            }
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                return if self.line.len() > MAX_CHUNK_LINE { Err(bad_chunk()) } else { Ok(()) };
            };
            self.line.extend_from_slice(bytes.get(..end).unwrap_or_default());
            // Checked here too: otherwise it would depend on packet boundaries whether a long line is accepted.
            if self.line.len() > MAX_CHUNK_LINE {
                return Err(bad_chunk());
            }
            bytes = bytes.get(end + 1..).unwrap_or_default();
            let line = std::mem::take(&mut self.line);
            self.take_line(&line)?;
        }
        Ok(())
    }

    /// Parses one line of chunked framing, without its line feed.
    fn take_line(&mut self, line: &[u8]) -> Result<(), Broken> {
        let line = line.trim_ascii_end();
        self.chunk = match self.chunk {
            Chunk::End if line.is_empty() => Chunk::Size,
            Chunk::End => return Err(bad_chunk()),
            // Trailers are ignored; the text is complete without them.
            Chunk::Trailers => {
                self.over = line.is_empty();
                Chunk::Trailers
            }
            _ => {
                let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                let size = std::str::from_utf8(size).map(str::trim).map_err(|_| bad_chunk())?;
                if size.starts_with('+') {
                    return Err(bad_chunk());
                }
                match u64::from_str_radix(size, 16).map_err(|_| bad_chunk())? {
                    0 => {
                        self.ended = true;
                        Chunk::Trailers
                    }
                    length => Chunk::Data(length),
                }
            }
        };
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        if !self.discarding {
            let room = MAX_BODY.saturating_sub(self.text.len());
            self.text.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        }
    }
}

/// At most `length` bytes, and how many of `length` are still missing.
fn split(bytes: &[u8], length: u64) -> (&[u8], u64) {
    let mine = usize::try_from(length).map_or(bytes.len(), |length| length.min(bytes.len()));
    (bytes.get(..mine).unwrap_or_default(), length - mine as u64)
}

fn bad_chunk() -> Broken {
    Broken::Error("the chunked body is malformed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cut_anywhere() {
        let whole = b"4\r\nWiki\r\n00A;x=y\r\npedia in\r\n\r\n0\r\nTrailer: x\r\n\r\n";
        for cut in 0..whole.len() {
            let mut body = Body::new(Framing::Chunked);
            body.feed(&whole[..cut]).unwrap();
            body.feed(&whole[cut..]).unwrap();
            assert!(body.ended && body.over);
            assert_eq!(body.text, b"Wikipedia in\r\n");
        }
    }

    #[test]
    fn malformed_chunks() {
        for text in ["x\r\n", "\r\n", "-1\r\n", "+1\r\n", "+0\r\n", "1\r\nab\r\n", "ffffffffffffffffff\r\n"] {
            assert!(Body::new(Framing::Chunked).feed(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Body::new(Framing::Chunked).feed(&[b'1'; MAX_CHUNK_LINE + 1]).is_err());
        let long = format!("1;{}\r\n", "x".repeat(MAX_CHUNK_LINE));
        assert!(Body::new(Framing::Chunked).feed(long.as_bytes()).is_err());
    }

    #[test]
    fn lengths_and_limits() {
        let mut length = Body::new(Framing::Length(3));
        length.feed(b"ab").unwrap();
        assert!(!length.ended);
        length.feed(b"cde").unwrap();
        assert!(length.ended);
        assert_eq!(length.text, b"abc");
        let mut endless = Body::new(Framing::UntilClose);
        endless.feed(&[b'x'; MAX_BODY * 2]).unwrap();
        assert_eq!(endless.text.len(), MAX_BODY);
        let mut huge = Body::new(Framing::Chunked);
        huge.feed(b"ffffffffffffffff\r\n").unwrap();
        huge.feed(&[b'x'; MAX_BODY * 2]).unwrap();
        assert_eq!(huge.text.len(), MAX_BODY);
    }

    #[test]
    fn what_is_worth_draining() {
        let of = |framing, text: &[u8]| {
            let mut body = Body::new(framing).discarding();
            body.feed(text).unwrap();
            assert!(body.text.is_empty());
            body.is_worth_draining()
        };
        let limit = MAX_DRAINED as u64;
        for (framing, text, worth) in [
            (Framing::None, &b""[..], false),
            (Framing::None, b"x", false),
            (Framing::Length(0), b"", false),
            (Framing::Length(2), b"ok", false),
            (Framing::Length(2), b"o", true),
            (Framing::Length(limit), b"", true),
            (Framing::Length(limit + 1), b"", false),
            // Bytes that arrived with the head count.
            (Framing::Length(limit + 1), b"x", false),
            (Framing::Length(u64::MAX), b"x", false),
            (Framing::UntilClose, b"", true),
            (Framing::UntilClose, &[b'x'; MAX_DRAINED], false),
            (Framing::Chunked, b"", true),
            (Framing::Chunked, b"1\r\na\r\n0\r\n", true),
            (Framing::Chunked, b"1\r\na\r\n0\r\nT: x\r\n", true),
            (Framing::Chunked, b"1\r\na\r\n0\r\n\r\n", false),
        ] {
            assert_eq!(of(framing, text), worth, "{framing:?} {text:?}");
        }
    }
}
