//! Owns a server that answers as etcd's JSON gateway does, or as it should not. Must not know what is expected of the client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How it answers.
#[derive(Debug, Clone)]
pub enum Manner {
    Good,
    /// Accepts requests, and never answers.
    Frozen,
    Slow(Duration),
    /// These bytes, and then a close.
    Saying(Vec<u8>),
    /// A body without an end.
    Flood,
}

/// The server; its thread lives as long as the test program.
pub struct Gateway {
    pub port: u16,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Gateway {
    pub fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let gateway = Self { port, manner: Arc::new(Mutex::new(manner)), asked: Arc::default() };
        let (manner, asked) = (Arc::clone(&gateway.manner), Arc::clone(&gateway.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (manner, asked) = (Arc::clone(&manner), Arc::clone(&asked));
                std::thread::spawn(move || serve(stream, &manner, &asked));
            }
        });
        gateway
    }

    pub fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}/services/api", self.port)
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// The paths requested so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(path, _)| path.clone()).collect()
    }

    pub fn count(&self, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked.ends_with(path)).count()
    }
}

fn serve(stream: TcpStream, manner: &Mutex<Manner>, asked: &Mutex<Vec<(String, String)>>) -> Option<()> {
    let mut out = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|size| *size > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            if header.trim().is_empty() {
                break;
            }
            let (name, value) = header.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        asked.lock().unwrap().push((path.clone(), String::from_utf8_lossy(&body).into_owned()));
        let manner = manner.lock().unwrap().clone();
        match manner {
            Manner::Good => {}
            Manner::Slow(time) => std::thread::sleep(time),
            Manner::Frozen => {
                // Until the client gives up.
                let _ = reader.read(&mut [0]);
                return None;
            }
            Manner::Saying(bytes) => {
                let _ = out.write_all(&bytes);
                return None;
            }
            Manner::Flood => {
                let _ = out.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                while out.write_all(&[b' '; 4096]).is_ok() {}
                return None;
            }
        }
        let text = match path.as_str() {
            "/v3/lease/grant" => r#"{"ID":"7587862094236459273","TTL":"5"}"#,
            "/v3/lease/keepalive" => r#"{"result":{"ID":"7587862094236459273","TTL":"5"}}"#,
            _ => "{}",
        };
        write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).ok()?;
    }
}
