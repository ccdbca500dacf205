//! Real programs, in another language and with the habits of another C library.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use reberth::sys::exec::Image;
use reberth::sys::notify::{Call, Listener, Pending, set_nonblocking, socket_of};
use reberth::sys::process::end;

use crate::fixture::{call, launch, readable};
use crate::harness::launch::program;
use crate::supervisor::address;

/// Answers the calls of an app until it listens on the port of `held`, which it is given; everything else is let through.
#[track_caller]
fn supervise(listener: &Listener, held: &TcpListener) {
    loop {
        let call = call(listener);
        match call.call {
            Call::Bind { fd, .. } => match (address(&call).unwrap(), socket_of(call.tid, fd)) {
                (Some(address), Ok(socket)) if address == held.local_addr().unwrap() => {
                    set_nonblocking(held.as_fd(), socket.nonblocking);
                    listener.put(call.id, held.as_fd(), fd, socket.cloexec).unwrap();
                    listener.answer(call.id, 0);
                }
                _ => listener.let_through(call.id),
            },
            Call::Listen { .. } => {
                listener.answer(call.id, 0);
                return;
            }
            Call::V6Only { .. } | Call::Listening { .. } => listener.let_through(call.id),
        }
    }
}

#[track_caller]
fn serve_and_ask(words: &[&str], held: &TcpListener, request: &[u8], expected: &str) {
    let words: Vec<_> = words.iter().map(Into::into).collect();
    let (pid, listener) = launch(&mut Image::new(&words, &[], false).unwrap(), true);
    let listener = listener.unwrap();
    supervise(&listener, held);
    let mut client = TcpStream::connect(held.local_addr().unwrap()).unwrap();
    client.write_all(request).unwrap();
    readable("the app replies", &client);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with(expected), "{text}");
    end(pid).unwrap();
    crate::harness::until("nobody is left", || listener.pending() == Pending::Over);
}

#[test]
fn python_serves_from_blocking_and_nonblocking_sockets() {
    let python = program("python3").to_string_lossy().into_owned();
    for (family, address) in [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")] {
        let held = TcpListener::bind((address, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let plain = format!(
            "import socket\ns = socket.create_server(({address:?}, {port}), family=socket.{family})\n\
             c, _ = s.accept()\nc.recv(9)\nc.sendall(b'plain')\n"
        );
        serve_and_ask(&[&python, "-c", &plain], &held, b"x", "plain");
        let held = TcpListener::bind((address, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let asynchronous = format!(
            "import asyncio\nasync def serve(r, w):\n  await r.read(1)\n  w.write(b'async')\n  await w.drain()\n  w.close()\n\
             async def main():\n  s = await asyncio.start_server(serve, {address:?}, {port})\n  await s.serve_forever()\n\
             asyncio.run(main())\n"
        );
        serve_and_ask(&[&python, "-c", &asynchronous], &held, b"x", "async");
    }
}
