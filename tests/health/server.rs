//! Owns the servers of this suite: threads that live as long as the test program. Must not know what is expected of a probe.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A server that answers requests.
pub struct Server {
    pub port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers each request head with the result of `answer`, on 127.0.0.1.
    pub fn new(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    pub fn on(listener: TcpListener, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let port = serve(listener, move |mut stream| {
            let head = read_head(&mut stream);
            let text = answer(&head);
            seen.lock().unwrap().push(head);
            let _ = stream.write_all(text.as_bytes());
            // Until the client closes: the client has to be first.
            let _ = stream.read(&mut [0]);
        });
        Self { port, heads }
    }

    /// Always the same answer.
    pub fn saying(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        Self::new(move |_| answer.clone())
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The request heads so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// A listener on a port of `::1` whose twin on 127.0.0.1 refuses: that one is bound as well, because another test could take it.
pub fn only_v6() -> (TcpListener, Socket) {
    loop {
        let listener =
            TcpListener::bind(("::1", crate::harness::place::free_port())).expect("IPv6 on this machine's loopback");
        let twin = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if socket.bind(&twin.into()).is_ok() {
            return (listener, socket);
        }
    }
}

/// Calls `act` with each connection, each in its own thread, and returns the port.
pub fn serve(listener: TcpListener, act: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let port = listener.local_addr().unwrap().port();
    let act = Arc::new(act);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let act = Arc::clone(&act);
            std::thread::spawn(move || act(stream));
        }
    });
    port
}

/// The same on any port of 127.0.0.1, as a URL.
pub fn hostile(act: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    format!("http://127.0.0.1:{}/", serve(TcpListener::bind("127.0.0.1:0").unwrap(), act))
}

pub fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|size| size > 0) {
        head.extend_from_slice(&byte);
    }
    String::from_utf8(head).unwrap()
}

/// A status line and headers, with a body of that length.
pub fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Words\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Waits while the client is connected; false once it has left.
pub fn pace(stream: &mut TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    match stream.read(&mut [0; 4096]) {
        Ok(size) => size > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}
