//! Owns the graceful close of connections after the verdict is printed (what nginx calls a lingering close). Closed in mid-response, the
//! app would log an aborted client or a broken pipe for every probe. Changes no verdict. Must not know what was probed.

use std::time::Duration;

use super::body::{self, Body};
use super::connection::Connection;
use super::database::mysql;
use super::deadline::Deadline;
use super::wire::Wire;

/// How long closing may take, within the deadline.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long to wait for the peer's close if nothing else is pending. A server closes as soon as it reads our FIN, and anything that it
/// sends to a socket that no longer exists is answered with a reset.
const MOMENT: Duration = Duration::from_millis(10);

/// Connections that are still open once the verdict is known; usually none.
#[derive(Debug, Default)]
#[must_use = "dropped, it resets what is still being sent"]
pub struct Closing {
    open: Vec<OpenConnection>,
    deadline: Option<Deadline>,
}

/// An open connection, and what is left to do with it.
#[derive(Debug)]
pub(super) struct OpenConnection {
    connection: Connection,
    pending: Pending,
}

#[derive(Debug)]
enum Pending {
    /// Drain the rest of a response.
    Body(Body),
    /// Send these bytes, then wait this long for the peer's close.
    Send(Vec<u8>, Duration),
    /// Complete a login. These bytes are sent next.
    Login(Vec<u8>),
}

impl OpenConnection {
    /// A connection on which nothing was sent.
    pub fn idle(wire: Wire) -> Self {
        Self::sending(Connection::Plain(wire), Vec::new())
    }

    /// Sends `farewell`, then closes.
    pub fn sending(connection: Connection, farewell: Vec<u8>) -> Self {
        Self { connection, pending: Pending::Send(farewell, MOMENT) }
    }

    /// The same with a longer wait, for a server that works before it closes and treats a lost client as an error.
    pub fn sending_and_waiting(connection: Connection, farewell: Vec<u8>) -> Self {
        Self { connection, pending: Pending::Send(farewell, PATIENCE) }
    }

    /// Logs in to a MySQL server that has sent its greeting. `words` are the first bytes to send.
    pub fn login(connection: Connection, words: Vec<u8>) -> Self {
        Self { connection, pending: Pending::Login(words) }
    }

    /// Drains an unneeded `body`. `None` if it is complete or cannot be drained: dropping the connection then is right, because it is the
    /// server's turn to close, or the response is cut off in any case.
    pub fn of_response(connection: Connection, body: Body) -> Option<Self> {
        let open = match connection {
            Connection::Plain(_) => body.is_worth_draining(),
            // TLS has to send its close_notify.
            #[cfg(feature = "tls")]
            Connection::Tls(_) => true,
        };
        open.then_some(Self { connection, pending: Pending::Body(body) })
    }

    fn close(mut self, deadline: Deadline) {
        match self.pending {
            Pending::Body(mut body) => {
                if body.is_worth_draining() {
                    body::drain(&mut self.connection, &mut body, deadline);
                }
                // A plain connection with a complete body has nothing left to send. With an incomplete one, waiting is pointless.
                #[cfg(feature = "tls")]
                if body.over && matches!(self.connection, Connection::Tls(_)) {
                    self.connection.close(deadline.capped(MOMENT));
                }
            }
            Pending::Send(words, time) => {
                if self.connection.send(&words, deadline).is_ok() {
                    self.connection.close(deadline.capped(time));
                }
            }
            Pending::Login(words) => {
                mysql::log_in(&mut self.connection, words, deadline);
                self.connection.close(deadline.capped(MOMENT));
            }
        }
    }
}

impl Closing {
    /// Closes these connections within `deadline`, once `close` is called.
    pub(super) fn new(open: Vec<OpenConnection>, deadline: Deadline) -> Self {
        Self { open, deadline: Some(deadline) }
    }

    /// Closes all connections within the probe's deadline and 100 ms.
    pub fn close(self) {
        self.close_within(PATIENCE);
    }

    /// The same, within `time` if that is shorter.
    pub fn close_within(self, time: Duration) {
        let Some(deadline) = self.deadline else { return };
        let deadline = deadline.capped(PATIENCE.min(time));
        let mut waiting = self.open.len();
        for one in self.open {
            // Each gets a share, so that a slow one leaves time for the others.
            let share = deadline.remaining() / u32::try_from(waiting).unwrap_or(u32::MAX).max(1);
            one.close(deadline.capped(share));
            waiting -= 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the deadlines of these tests are short, and no port is waited for")]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Instant;

    use super::super::body::Framing;
    use super::*;

    /// A client connection and its server end. A Unix socket reports unread bytes at close, as TCP does.
    fn connection() -> (Connection, UnixStream) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("reberth-closing-{}-{count}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let wire = Wire::unix(&path, Deadline::after(Duration::from_secs(10))).unwrap();
        std::fs::remove_file(&path).unwrap();
        (Connection::Plain(wire), listener.accept().unwrap().0)
    }

    /// What the server still receives, and how the stream ends.
    fn received(mut server: UnixStream) -> (Vec<u8>, Option<ErrorKind>) {
        let mut text = Vec::new();
        let end = server.read_to_end(&mut text).err().map(|error| error.kind());
        (text, end)
    }

    /// Closes a connection of which `answer` came with the head and `rest` is still unread.
    fn close(framing: Framing, answer: &[u8], rest: &[u8], closed: bool, time: Duration) -> Option<ErrorKind> {
        let (connection, mut server) = connection();
        let mut body = Body::new(framing).discarding();
        body.feed(answer).unwrap();
        server.write_all(rest).unwrap();
        if closed {
            server.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let open = OpenConnection::of_response(connection, body);
        Closing::new(open.into_iter().collect(), Deadline::after(time)).close();
        received(server).1
    }

    #[test]
    fn a_body_is_drained() {
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
            assert_eq!(close(framing, answer, rest, closed, long), None, "{framing:?} {answer:?}");
            assert!(begun.elapsed() < long, "{framing:?} {answer:?}");
        }
        // The control: unread bytes do reset the connection.
        assert_eq!(close(Framing::None, b"", b"x", false, long), Some(ErrorKind::ConnectionReset));
    }

    #[test]
    fn an_endless_body_is_not_drained() {
        // More than is drained, and less than a socket buffers without a reader.
        let flood = [b'x'; 64 * 1024];
        for framing in [Framing::UntilClose, Framing::Length(flood.len() as u64)] {
            let reset = close(framing, b"", &flood, true, Duration::from_secs(10));
            assert_eq!(reset, Some(ErrorKind::ConnectionReset), "{framing:?}");
        }
        // A body that never continues is given up after 100 ms, or at the deadline.
        for (millis, least) in [(10_000, 100), (30, 30), (0, 0)] {
            let begun = Instant::now();
            let end = close(Framing::UntilClose, b"", b"x", false, Duration::from_millis(millis));
            assert_eq!(end, (millis == 0).then_some(ErrorKind::ConnectionReset), "{millis} ms");
            assert!(begun.elapsed() >= Duration::from_millis(least) && begun.elapsed() < Duration::from_secs(5));
        }
    }

    #[test]
    fn a_slow_connection_leaves_time_for_the_others() {
        let (slow, _slow_server) = connection();
        let (other, mut server) = connection();
        let body = || Body::new(Framing::UntilClose).discarding();
        server.write_all(b"rest").unwrap();
        let open = [slow, other].map(|connection| OpenConnection::of_response(connection, body()).unwrap());
        Closing::new(open.into(), Deadline::after(Duration::from_secs(10))).close();
        assert_eq!(received(server), (Vec::new(), None));
    }

    #[test]
    fn a_greeting_is_read_and_a_farewell_is_sent() {
        let (connection, mut server) = connection();
        server.write_all(b"220 hello\r\n").unwrap();
        let open = OpenConnection::sending(connection, b"QUIT\r\n".to_vec());
        Closing::new(vec![open], Deadline::after(Duration::from_secs(10))).close();
        assert_eq!(received(server), (b"QUIT\r\n".to_vec(), None));
    }
}
