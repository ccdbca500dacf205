//! Owns the app whose calls are intercepted: this test binary itself, whose arguments name the test to connect to. Must not know what is
//! tested.
//!
//! It runs before `main`, from `.init_array`, so that it has one thread and is as an app is at its start. It connects to the test by an
//! abstract socket, reads one command per line and replies with one line each: no file, no pipe, nothing inherited.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as Name, UnixStream};

use crate::supervisor::Supervisor;

/// The first argument that turns this binary into the app; the second is the name of the test's socket.
pub const MARK: &str = "--app";

#[used]
// SAFETY: the section holds pointers to functions without arguments that run before main; this is one.
#[unsafe(link_section = ".init_array")]
static ENTRY: extern "C" fn() = entry;

extern "C" fn entry() {
    // Not `env::args`: with musl it is not available before main.
    let command = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let mut words = command.split(|&byte| byte == 0).skip(1);
    if words.next() == Some(MARK.as_bytes()) {
        obey(words.next().unwrap_or_default());
        leave(0);
    }
}

fn leave(code: i32) -> ! {
    // SAFETY: _exit ends the process immediately; it has nothing to clean up.
    unsafe { libc::_exit(code) }
}

fn obey(name: &[u8]) {
    let connected = UnixStream::connect_addr(&Name::from_abstract_name(name).unwrap()).unwrap();
    let mut stream = far(&connected);
    let mut lines = BufReader::new(far(&connected));
    drop(connected);
    let mut supervisor = Supervisor::default();
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|size| size > 0) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["fork", words @ ..] = &words[..] {
            fork(&mut stream, &mut supervisor, words);
        } else {
            let reply = perform(&mut supervisor, &words);
            writeln!(stream, "{reply}").unwrap();
        }
        line.clear();
    }
}

/// A copy with a number outside the range that the tests use.
fn far(stream: &UnixStream) -> UnixStream {
    // SAFETY: the kernel has just made the copy, and this code owns it.
    unsafe { UnixStream::from_raw_fd(libc::fcntl(stream.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 900)) }
}

/// A child that reads one command and replies to it.
fn fork(stream: &mut UnixStream, supervisor: &mut Supervisor, words: &[&str]) {
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        if libc::fork() == 0 {
            let reply = perform(supervisor, words);
            writeln!(stream, "child {}: {reply}", libc::getpid()).unwrap();
            leave(0);
        }
    }
}

/// 0, or the errno of the call just made.
fn outcome(result: i32) -> String {
    if result < 0 { errno().to_string() } else { "0".to_owned() }
}

pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub fn number(text: &str) -> i32 {
    text.parse().unwrap()
}

fn perform(supervisor: &mut Supervisor, words: &[&str]) -> String {
    // SAFETY: calls on numbers, or on memory that outlives them.
    unsafe {
        match *words {
            ["socket", kind, at, flags] => socket(kind, number(at), flags),
            ["bind", at, address] => outcome(bind(number(at), &laid_out(address, 0))),
            // With this many bytes of address, of which only the first ones are an address.
            ["bind", at, address, length] => outcome(bind(number(at), &laid_out(address, length.parse().unwrap()))),
            ["bind-at", at, pointer, length] => {
                let pointer = pointer.parse::<usize>().unwrap() as *const libc::sockaddr;
                outcome(libc::bind(number(at), pointer, length.parse().unwrap()))
            }
            ["listen", at, backlog] => outcome(libc::listen(number(at), number(backlog))),
            ["option", at, level, name, value] => {
                let value = number(value);
                let size = size_of::<i32>() as libc::socklen_t;
                let set = libc::setsockopt(number(at), number(level), number(name), (&raw const value).cast(), size);
                outcome(set)
            }
            ["close", at] => outcome(libc::close(number(at))),
            ["exec", name] => {
                let (program, mark) = (c("/proc/self/exe"), c(MARK));
                let name = c(name);
                let words = [program.as_ptr(), mark.as_ptr(), name.as_ptr(), std::ptr::null()];
                outcome(libc::execv(program.as_ptr(), words.as_ptr()))
            }
            ["greet", at] => {
                let connection = libc::accept(number(at), std::ptr::null_mut(), std::ptr::null_mut());
                let text = b"hello";
                libc::write(connection, text.as_ptr().cast(), text.len());
                outcome(libc::close(connection))
            }
            ["state", at] => state(number(at)),
            ["fds"] => descriptors().join(" "),
            ["status", name] => status(name),
            ["threads", count, port] => threads(number(count), port.parse().unwrap()),
            ["repeat", count, port] => repeat(number(count), port.parse().unwrap()),
            ["catch", signal, flag] => catch(number(signal), flag),
            ["timer", microseconds] => timer(number(microseconds)),
            ["undumpable"] => outcome(libc::prctl(libc::PR_SET_DUMPABLE, 0)),
            _ => supervisor.perform(words),
        }
    }
}

pub fn c(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).unwrap()
}

/// `tcp4`, `tcp6`, `udp4` or `unix`, at this number; `n` in the flags: O_NONBLOCK, `c`: close-on-exec.
fn socket(kind: &str, at: RawFd, flags: &str) -> String {
    let (family, kind) = match kind {
        "tcp4" => (libc::AF_INET, libc::SOCK_STREAM),
        "tcp6" => (libc::AF_INET6, libc::SOCK_STREAM),
        "udp4" => (libc::AF_INET, libc::SOCK_DGRAM),
        _ => (libc::AF_UNIX, libc::SOCK_STREAM),
    };
    let nonblocking = if flags.contains('n') { libc::SOCK_NONBLOCK } else { 0 };
    let close_on_exec = if flags.contains('c') { libc::O_CLOEXEC } else { 0 };
    // SAFETY: calls on numbers.
    unsafe {
        let made = libc::socket(family, kind | nonblocking, 0);
        // Elsewhere first: it may already have the requested number, which dup3(2) refuses.
        let far = libc::fcntl(made, libc::F_DUPFD, 950);
        libc::close(made);
        let placed = libc::dup3(far, at, close_on_exec);
        libc::close(far);
        outcome(placed)
    }
}

/// An address in the form that bind(2) takes, padded to `length` bytes.
fn laid_out(address: &str, length: usize) -> Vec<u8> {
    let mut bytes = if let Some(path) = address.strip_prefix('@') {
        let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        bytes.push(0);
        bytes.extend(path.as_bytes());
        bytes
    } else {
        match address.parse().unwrap() {
            SocketAddr::V4(v4) => {
                let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
                bytes.extend(v4.port().to_be_bytes());
                bytes.extend(v4.ip().octets());
                bytes.extend([0; 8]);
                bytes
            }
            SocketAddr::V6(v6) => {
                let mut bytes = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
                bytes.extend(v6.port().to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(v6.ip().octets());
                bytes.extend(v6.scope_id().to_ne_bytes());
                bytes
            }
        }
    };
    if length > 0 {
        bytes.resize(length, 0);
    }
    bytes
}

fn bind(fd: RawFd, address: &[u8]) -> i32 {
    // SAFETY: the address has the length passed.
    unsafe { libc::bind(fd, address.as_ptr().cast(), address.len() as libc::socklen_t) }
}

/// The socket at `fd`: its inode, `n` if it is non-blocking, `c` if it is close-on-exec.
fn state(fd: RawFd) -> String {
    // SAFETY: calls on numbers; `stat` is valid for writing.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &mut stat) < 0 {
            return outcome(-1);
        }
        let nonblocking = libc::fcntl(fd, libc::F_GETFL) & libc::O_NONBLOCK != 0;
        let close_on_exec = libc::fcntl(fd, libc::F_GETFD) & libc::FD_CLOEXEC != 0;
        let flags = format!("{}{}", if nonblocking { "n" } else { "" }, if close_on_exec { "c" } else { "" });
        format!("{} {flags}", stat.st_ino).trim_end().to_owned()
    }
}

/// `NUMBER:TARGET` each, except the connection to the test and the directory being read.
pub fn descriptors() -> Vec<String> {
    let mut found: Vec<(RawFd, String)> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().replace(' ', "-");
        let fd = entry.file_name().to_string_lossy().parse().unwrap();
        if !target.starts_with("/proc/") && fd < 900 {
            found.push((fd, target));
        }
    }
    found.sort();
    found.into_iter().map(|(fd, target)| format!("{fd}:{target}")).collect()
}

fn status(name: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or("missing").trim().to_owned()
}

/// This many threads bind in parallel, on consecutive ports from this one on; the outcome of each.
fn threads(count: i32, port: u16) -> String {
    let one = |index: i32| {
        move || {
            // SAFETY: calls on numbers.
            let fd = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)) };
            let bound = bind(fd.as_raw_fd(), &laid_out(&format!("127.0.0.1:{}", i32::from(port) + index), 0));
            let outcome = outcome(bound);
            format!("{outcome}:{}", state(fd.as_raw_fd()))
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|index| scope.spawn(one(index))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>().join(" ")
    })
}

/// Binds a new socket to this port this many times, again after each EINTR; returns how many were bound, how many descriptors there are at
/// the end, and the total time in microseconds.
fn repeat(count: i32, port: u16) -> String {
    let address = laid_out(&format!("127.0.0.1:{port}"), 0);
    let (mut bound, mut interrupted) = (0, 0);
    let before = descriptors().len();
    let from = std::time::Instant::now();
    for _ in 0..count {
        // SAFETY: calls on numbers.
        let fd =
            unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)) };
        while bind(fd.as_raw_fd(), &address) < 0 {
            if errno() != libc::EINTR {
                return format!("errno {} after {bound}", errno());
            }
            interrupted += 1;
        }
        bound += 1;
    }
    let took = from.elapsed().as_micros();
    format!("{bound} bound, {} left, {interrupted} interrupted, {took}", descriptors().len() - before)
}

/// Installs a handler that does nothing; `restart`: an interrupted call is restarted.
fn catch(signal: i32, flag: &str) -> String {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a valid action, whose handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        action.sa_flags = if flag == "restart" { libc::SA_RESTART } else { 0 };
        outcome(libc::sigaction(signal, &action, std::ptr::null_mut()))
    }
}

/// A periodic SIGALRM, with this many microseconds in between.
fn timer(microseconds: i32) -> String {
    let interval = libc::timeval { tv_sec: 0, tv_usec: microseconds.into() };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the timer outlives the call, which copies it.
    outcome(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) })
}
