//! Owns the graceful close of connections after the verdict is printed (what nginx calls a lingering close). Closed in mid-response, the
//! app would log an aborted client or a broken pipe for every probe. Changes no verdict. Must not know what was probed.

use std::time::Duration;

use super::body::{self, Body};
use super::carrier::Carrier;
use super::clock::Clock;
use super::database::mysql;
use super::wire::Wire;

/// How long closing may take, within the deadline.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long to wait for the peer's close if nothing else is pending. A server closes as soon as it reads our FIN, and anything that it
/// sends to a socket that no longer exists is answered with a reset.
const MOMENT: Duration = Duration::from_millis(10);

/// Connections that are still open once the verdict is known; usually none.
#[derive(Debug, Default)]
#[must_use = "dropped, it resets what is still being sent"]
pub struct Parting {
    left: Vec<Left>,
    clock: Option<Clock>,
}

/// An open connection, and what is left to do with it.
#[derive(Debug)]
pub(super) struct Left {
    carrier: Carrier,
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    /// Drain the rest of a response.
    Body(Body),
    /// Send these bytes, then wait this long for the peer's close.
    Farewell(Vec<u8>, Duration),
    /// Complete a login. These bytes are sent next.
    Login(Vec<u8>),
}

impl Left {
    /// A connection on which nothing was sent.
    pub fn silent(wire: Wire) -> Self {
        Self::saying(Carrier::Plain(wire), Vec::new())
    }

    /// Sends `farewell`, then closes.
    pub fn saying(carrier: Carrier, farewell: Vec<u8>) -> Self {
        Self { carrier, rest: Rest::Farewell(farewell, MOMENT) }
    }

    /// The same with a longer wait, for a server that works before it closes and treats a lost client as an error.
    pub fn waiting(carrier: Carrier, farewell: Vec<u8>) -> Self {
        Self { carrier, rest: Rest::Farewell(farewell, PATIENCE) }
    }

    /// Logs in to a MySQL server that has sent its greeting. `words` are the first bytes to send.
    pub fn login(carrier: Carrier, words: Vec<u8>) -> Self {
        Self { carrier, rest: Rest::Login(words) }
    }

    /// Drains an unneeded `body`. `None` if it is complete or cannot be drained: dropping the connection then is right, because it is the
    /// server's turn to close, or the response is cut off in any case.
    pub fn of_answer(carrier: Carrier, body: Body) -> Option<Self> {
        let open = match carrier {
            Carrier::Plain(_) => body.is_worth_dropping(),
            // TLS has to send its close_notify.
            #[cfg(feature = "tls")]
            Carrier::Tls(_) => true,
        };
        open.then_some(Self { carrier, rest: Rest::Body(body) })
    }

    fn take_leave(mut self, clock: Clock) {
        match self.rest {
            Rest::Body(mut body) => {
                if body.is_worth_dropping() {
                    body::drop_rest(&mut self.carrier, &mut body, clock);
                }
                // A plain connection with a complete body has nothing left to send. With an incomplete one, waiting is pointless.
                #[cfg(feature = "tls")]
                if body.over && matches!(self.carrier, Carrier::Tls(_)) {
                    self.carrier.close(clock.part(MOMENT));
                }
            }
            Rest::Farewell(words, time) => {
                if self.carrier.send(&words, clock).is_ok() {
                    self.carrier.close(clock.part(time));
                }
            }
            Rest::Login(words) => {
                mysql::log_in(&mut self.carrier, words, clock);
                self.carrier.close(clock.part(MOMENT));
            }
        }
    }
}

impl Parting {
    /// Closes these connections within `clock`, once `take_leave` is called.
    pub(super) fn new(left: Vec<Left>, clock: Clock) -> Self {
        Self { left, clock: Some(clock) }
    }

    /// Closes all connections within the probe's deadline and 100 ms.
    pub fn take_leave(self) {
        self.take_leave_in(PATIENCE);
    }

    /// The same, within `time` if that is shorter.
    pub fn take_leave_in(self, time: Duration) {
        let Some(clock) = self.clock else { return };
        let clock = clock.part(PATIENCE.min(time));
        let mut others = self.left.len();
        for left in self.left {
            // Each gets a share, so that a slow one leaves time for the others.
            let share = clock.left() / u32::try_from(others).unwrap_or(u32::MAX).max(1);
            left.take_leave(clock.part(share));
            others -= 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the clocks of these tests are short, and nobody waits for a port here")]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Instant;

    use super::super::body::Framing;
    use super::*;

    /// A client connection and its server end. A Unix socket reports unread bytes at close, as TCP does.
    fn connection() -> (Carrier, UnixStream) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("reberth-parting-{}-{count}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let wire = Wire::unix(&path, Clock::start(Duration::from_secs(10))).unwrap();
        std::fs::remove_file(&path).unwrap();
        (Carrier::Plain(wire), listener.accept().unwrap().0)
    }

    /// What the server still receives, and how the stream ends.
    fn heard(mut server: UnixStream) -> (Vec<u8>, Option<ErrorKind>) {
        let mut text = Vec::new();
        let end = server.read_to_end(&mut text).err().map(|error| error.kind());
        (text, end)
    }

    /// Closes a connection of which `answer` came with the head and `rest` is still unread.
    fn leave(framing: Framing, answer: &[u8], rest: &[u8], closed: bool, time: Duration) -> Option<ErrorKind> {
        let (carrier, mut server) = connection();
        let mut body = Body::new(framing).dropping();
        body.feed(answer).unwrap();
        server.write_all(rest).unwrap();
        if closed {
            server.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let left = Left::of_answer(carrier, body);
        Parting::new(left.into_iter().collect(), Clock::start(time)).take_leave();
        heard(server).1
    }

    #[test]
    fn a_body_is_read_to_its_end() {
        let long = Duration::from_secs(10);
        let body = [b'x'; 8000];
        for (framing, answer, rest, closed) in [
            (Framing::Length(8000), &b""[..], &body[..], false),
            (Framing::Length(8002), b"ok", &body, false),
            (Framing::Chunked, b"2\r", b"\nok\r\n0\r\n\r\n", false),
            (Framing::UntilClose, b"ok", &body, true),
            // Nothing to drain and nothing to wait for.
            (Framing::Length(2), b"ok", b"", false),
            (Framing::None, b"", b"", false),
        ] {
            let begun = Instant::now();
            assert_eq!(leave(framing, answer, rest, closed, long), None, "{framing:?} {answer:?}");
            assert!(begun.elapsed() < long, "{framing:?} {answer:?}");
        }
        // The control: unread bytes do reset the connection.
        assert_eq!(leave(Framing::None, b"", b"x", false, long), Some(ErrorKind::ConnectionReset));
    }

    #[test]
    fn an_endless_one_is_not() {
        // More than is drained, and less than a socket buffers without a reader.
        let flood = [b'x'; 64 * 1024];
        for framing in [Framing::UntilClose, Framing::Length(flood.len() as u64)] {
            let reset = leave(framing, b"", &flood, true, Duration::from_secs(10));
            assert_eq!(reset, Some(ErrorKind::ConnectionReset), "{framing:?}");
        }
        // A body that never continues is given up after 100 ms, or at the deadline.
        for (clock, least) in [(10_000, 100), (30, 30), (0, 0)] {
            let begun = Instant::now();
            let end = leave(Framing::UntilClose, b"", b"x", false, Duration::from_millis(clock));
            assert_eq!(end, (clock == 0).then_some(ErrorKind::ConnectionReset), "{clock} ms");
            assert!(begun.elapsed() >= Duration::from_millis(least) && begun.elapsed() < Duration::from_secs(5));
        }
    }

    #[test]
    fn a_slow_one_leaves_the_others_their_time() {
        let (slow, _slow_server) = connection();
        let (other, mut server) = connection();
        let body = || Body::new(Framing::UntilClose).dropping();
        server.write_all(b"rest").unwrap();
        let left = [slow, other].map(|carrier| Left::of_answer(carrier, body()).unwrap());
        Parting::new(left.into(), Clock::start(Duration::from_secs(10))).take_leave();
        assert_eq!(heard(server), (Vec::new(), None));
    }

    #[test]
    fn a_greeting_is_taken_and_last_words_are_said() {
        let (carrier, mut server) = connection();
        server.write_all(b"220 hello\r\n").unwrap();
        let left = Left::saying(carrier, b"QUIT\r\n".to_vec());
        Parting::new(vec![left], Clock::start(Duration::from_secs(10))).take_leave();
        assert_eq!(heard(server), (b"QUIT\r\n".to_vec(), None));
    }
}
