//! Owns the leave that is taken of servers once the verdict is told: a connection closed in the middle of an answer is, to the app, a
//! client that aborts, with a broken pipe or a count of errors for each probe. Nothing of it changes a verdict. Must not know what was asked.

use std::time::Duration;

use super::body::{self, Body};
use super::carrier::Carrier;
use super::clock::Clock;
use super::database::mysql;
use super::wire::Wire;

/// How long leaving may take, of whatever is left of the clock.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long the other side's close is waited for where nothing else is to come. A server closes at once when it reads our end, and what it
/// sends to a socket that is gone would reset it.
const MOMENT: Duration = Duration::from_millis(10);

/// The connections that are still open when the verdict stands; none in most cases.
#[derive(Debug, Default)]
#[must_use = "dropped, it resets what is still being sent"]
pub struct Parting {
    left: Vec<Left>,
    clock: Option<Clock>,
}

/// One of them, and what is still to be done with it.
#[derive(Debug)]
pub(super) struct Left {
    carrier: Carrier,
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    /// The rest of an answer is to be read and dropped.
    Body(Body),
    /// These bytes are to be said, and the other side's close is worth this time.
    Farewell(Vec<u8>, Duration),
    /// The rest of a login, of which these bytes are the next to be said.
    Login(Vec<u8>),
}

impl Left {
    /// What is left of a connection that has been asked for nothing.
    pub fn silent(wire: Wire) -> Self {
        Self::saying(Carrier::Plain(wire), Vec::new())
    }

    /// What is left of a conversation that ends with these words of ours.
    pub fn saying(carrier: Carrier, farewell: Vec<u8>) -> Self {
        Self { carrier, rest: Rest::Farewell(farewell, MOMENT) }
    }

    /// The same where the server still has something to do before it closes, and minds if we do not wait for it.
    pub fn waiting(carrier: Carrier, farewell: Vec<u8>) -> Self {
        Self { carrier, rest: Rest::Farewell(farewell, PATIENCE) }
    }

    /// What is left of a MySQL server's greeting: a login, which begins with these bytes.
    pub fn login(carrier: Carrier, words: Vec<u8>) -> Self {
        Self { carrier, rest: Rest::Login(words) }
    }

    /// What is left of an answer whose `body` nobody looks at any more; nothing if it came with the head, or is not worth its end. The
    /// connection is closed then: it is the server's turn, or it would be cut off anyway.
    pub fn of_answer(carrier: Carrier, body: Body) -> Option<Self> {
        let open = match carrier {
            Carrier::Plain(_) => body.is_worth_dropping(),
            // TLS has words of its own for the end.
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
                // Read to its end, a plain connection has nothing more to say; with more of it to come, nothing is to be waited for.
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
    /// Takes leave of these within what is left of `clock`, once it is told to.
    pub(super) fn new(left: Vec<Left>, clock: Clock) -> Self {
        Self { left, clock: Some(clock) }
    }

    /// Takes leave of all of them, in 100 ms at most and within the clock of the question.
    pub fn take_leave(self) {
        self.take_leave_in(PATIENCE);
    }

    /// The same in less `time`, if that is less.
    pub fn take_leave_in(self, time: Duration) {
        let Some(clock) = self.clock else { return };
        let clock = clock.part(PATIENCE.min(time));
        let mut others = self.left.len();
        for left in self.left {
            // One that is slow leaves their share to the others.
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

    /// A connection of ours, and the server's end of it. A Unix socket tells its peer of unread bytes at the close, as TCP does.
    fn connection() -> (Carrier, UnixStream) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("reberth-parting-{}-{count}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let wire = Wire::unix(&path, Clock::start(Duration::from_secs(10))).unwrap();
        std::fs::remove_file(&path).unwrap();
        (Carrier::Plain(wire), listener.accept().unwrap().0)
    }

    /// What the server still hears, and how it ends.
    fn heard(mut server: UnixStream) -> (Vec<u8>, Option<ErrorKind>) {
        let mut text = Vec::new();
        let end = server.read_to_end(&mut text).err().map(|error| error.kind());
        (text, end)
    }

    /// Leaves after `answer` has come with the head and `rest` of it behind, on a clock of `time`.
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
            // Nothing to read, and nothing waited for.
            (Framing::Length(2), b"ok", b"", false),
            (Framing::None, b"", b"", false),
        ] {
            let begun = Instant::now();
            assert_eq!(leave(framing, answer, rest, closed, long), None, "{framing:?} {answer:?}");
            assert!(begun.elapsed() < long, "{framing:?} {answer:?}");
        }
        // The control: a server hears of what was not read.
        assert_eq!(leave(Framing::None, b"", b"x", false, long), Some(ErrorKind::ConnectionReset));
    }

    #[test]
    fn an_endless_one_is_not() {
        // More than is dropped; less than the socket takes from a writer whom nobody reads.
        let flood = [b'x'; 64 * 1024];
        for framing in [Framing::UntilClose, Framing::Length(flood.len() as u64)] {
            let reset = leave(framing, b"", &flood, true, Duration::from_secs(10));
            assert_eq!(reset, Some(ErrorKind::ConnectionReset), "{framing:?}");
        }
        // One that never goes on is left after 100 ms, or when the clock is over.
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
