//! Owns the body of an answer: how it is framed, the look into it for `--body-contains`, and how what is left of it is let go. Must not know
//! what a match means.

use std::time::Duration;

use super::Carrier;
use super::clock::Clock;
use super::wire::Broken;

/// No more of a body is read. Bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// kubelet's limit on what it reads of a body (pkg/probe/http/http.go, `maxRespBodyLength`). Bytes.
const LETS_GO: usize = 10 * 1024;

/// How long the rest of a body is waited for.
const MOMENT: Duration = Duration::from_millis(100);

/// How long one line of chunked framing may be. Bytes.
const MAX_CHUNK_LINE: usize = 1024;

/// Where a body ends (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Whether the text was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    Found,
    /// Not in the whole body.
    Missing,
    /// Not in the part that may be read.
    TooLong,
}

/// What may still come of an answer whose verdict is known. A server whose client goes before the end logs an aborted request, so the rest
/// is read and dropped, as kubelet and curl do.
pub struct Rest {
    pub(super) carrier: Carrier,
    pub(super) body: Body,
}

/// The rests of one question: of its answer, and of the redirects on the way to it.
#[derive(Default)]
pub struct Rests(pub(super) Vec<(Rest, Clock)>);

impl Rests {
    /// Reads them to their ends and drops them: at most 10 KiB of each, within 100 ms in all and within the question's own clock. Takes no
    /// time where the body came with the head.
    pub fn let_go(&mut self) {
        let whole = Clock::start(MOMENT);
        for (mut rest, clock) in self.0.drain(..) {
            rest.let_go(clock.part(whole.left()));
        }
    }
}

impl Rest {
    // In line, its buffer would be in the frame of every probe: a fresh page of stack.
    #[inline(never)]
    fn let_go(&mut self, clock: Clock) {
        let mut buffer = [0; 4096];
        let mut read = self.body.text.len();
        while !self.body.ended && read < LETS_GO {
            self.body.text.clear();
            match self.carrier.receive(&mut buffer, clock) {
                Ok(size) if size > 0 => {
                    read += size;
                    if self.body.feed(buffer.get(..size).unwrap_or_default()).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }
}

/// Looks for `wanted` in the body whose first bytes are `rest`, and stops reading as soon as it knows.
// In line, its buffer would be in the frame of every probe, asked for a body or not: a fresh page of stack.
#[inline(never)]
pub(super) fn contains(carrier: &mut Carrier, body: &mut Body, wanted: &[u8], clock: Clock) -> Result<Search, Broken> {
    let until_close = body.framing == Framing::UntilClose;
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
        match carrier.receive(&mut buffer, clock)? {
            0 if until_close => body.ended = true,
            0 => return Err(Broken::Error("the server closed the connection".to_owned())),
            size => body.feed(buffer.get(..size).unwrap_or_default())?,
        }
    }
}

/// A body that comes in pieces.
#[derive(Debug)]
pub(crate) struct Body {
    framing: Framing,
    chunk: Chunk,
    /// The line of chunked framing that is being read.
    line: Vec<u8>,
    pub text: Vec<u8>,
    pub ended: bool,
}

/// What comes next in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size,
    Data(u64),
    /// The line break after the data.
    End,
}

impl Body {
    pub fn new(framing: Framing) -> Self {
        Self { framing, chunk: Chunk::Size, line: Vec::new(), text: Vec::new(), ended: false }
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        match self.framing {
            Framing::None => self.ended = true,
            Framing::UntilClose => self.keep(bytes),
            Framing::Length(length) => {
                let (mine, left) = split(bytes, length);
                self.keep(mine);
                self.framing = Framing::Length(left);
                self.ended = left == 0;
            }
            Framing::Chunked => self.feed_chunks(bytes)?,
        }
        Ok(())
    }

    fn feed_chunks(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !self.ended && self.text.len() < MAX_BODY {
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
            // Here too, or it would depend on the packets whether a long line passes.
            if self.line.len() > MAX_CHUNK_LINE {
                return Err(bad_chunk());
            }
            bytes = bytes.get(end + 1..).unwrap_or_default();
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            let line = line.split(';').next().unwrap_or_default().trim();
            self.chunk = match self.chunk {
                Chunk::End if line.is_empty() => Chunk::Size,
                Chunk::End => return Err(bad_chunk()),
                _ if line.starts_with('+') => return Err(bad_chunk()),
                _ => match u64::from_str_radix(line, 16) {
                    // Trailers may follow; nobody reads them.
                    Ok(0) => {
                        self.ended = true;
                        Chunk::Size
                    }
                    Ok(length) => Chunk::Data(length),
                    _ => return Err(bad_chunk()),
                },
            };
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_BODY.saturating_sub(self.text.len());
        self.text.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }
}

/// At most `length` of `bytes`, and how much of `length` is still to come.
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
            assert!(body.ended);
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
}
