//! Owns the app that the tests launch: this test binary itself, controlled by its arguments, one word per step. Must not know who launched
//! it.
//!
//! It runs before `main`, from `.init_array`: neither Rust's runtime (which ignores SIGPIPE and catches SIGSEGV) nor the test harness
//! (which has threads) has started yet, so the app sees its process exactly as it was started.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The first argument that turns this binary into the app.
pub const MARK: &str = "--app";

/// The path of this binary, which is also the app.
pub fn program() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

/// The command line of an app with these steps, program first.
pub fn words(steps: &str) -> Vec<OsString> {
    let mut words = vec![program().into_os_string(), MARK.into()];
    words.extend(steps.split_whitespace().map(OsString::from));
    words
}

#[used]
// SAFETY: the section holds pointers to functions without arguments that run before main; this is one.
#[unsafe(link_section = ".init_array")]
static ENTRY: extern "C" fn() = entry;

extern "C" fn entry() {
    // Not `env::args`: with musl it is not available before main.
    let command = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let mut words = command.split(|&b| b == 0).skip(1);
    if words.next() != Some(MARK.as_bytes()) {
        return;
    }
    let mut steps: Vec<String> = words.map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    // The last NUL ends the last word; it does not start another.
    steps.pop();
    perform(&steps);
    leave(0);
}

fn leave(code: i32) -> ! {
    // SAFETY: _exit ends the process immediately; it has nothing to clean up.
    unsafe { libc::_exit(code) }
}

/// One write per line, so that lines of several processes never mix.
fn say(text: &str) {
    let line = format!("{text}\n");
    // SAFETY: the text has the length passed.
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
}

fn number(text: &str) -> i32 {
    text.parse().unwrap_or_else(|_| {
        say(&format!("not a number: {text}"));
        leave(119)
    })
}

/// The steps up to the `end` of a block just begun, and the steps after it.
fn block(steps: &[String]) -> (&[String], &[String]) {
    let mut depth = 0;
    for (i, step) in steps.iter().enumerate() {
        match step.as_str() {
            "fork" | "daemon" | "group" => depth += 1,
            "end" if depth == 0 => return (&steps[..i], &steps[i + 1..]),
            "end" => depth -= 1,
            _ => {}
        }
    }
    say("a block has no end");
    leave(119)
}

fn perform(mut steps: &[String]) {
    while let Some((step, rest)) = steps.split_first() {
        steps = rest;
        let (name, value) = step.split_once('=').unwrap_or((step, ""));
        match name {
            // Executes another program: the remaining words are its command line.
            "exec" => execute(steps),
            // A child. `group`: it leads its own process group; `daemon`: a double fork with its own session.
            "fork" | "group" | "daemon" => {
                let (inner, after) = block(steps);
                child(name, inner);
                steps = after;
            }
            _ => one(name, value),
        }
    }
}

fn fork() -> i32 {
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    unsafe { libc::fork() }
}

fn child(kind: &str, steps: &[String]) {
    // SAFETY: calls on numbers only, in a process with one thread.
    unsafe {
        if fork() != 0 {
            if kind == "daemon" {
                // The process in between exits immediately.
                libc::wait(std::ptr::null_mut());
            }
            return;
        }
        match kind {
            "group" => {
                libc::setpgid(0, 0);
            }
            "daemon" => {
                libc::setsid();
                if fork() != 0 {
                    leave(0);
                }
            }
            _ => {}
        }
    }
    perform(steps);
    leave(0);
}

/// All signals, as the kernel represents them. Not a `sigset_t`: C libraries reserve signals (musl: 34) that can be sent all the same. For
/// the same reason system calls are used instead of their wrappers.
static ALL: u64 = u64::MAX;

fn mask(how: i32) {
    // SAFETY: the set is eight bytes, as passed.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const ALL, std::ptr::null::<u8>(), 8) };
}

/// The next of the blocked signals, which are all signals.
fn next_signal() -> i32 {
    // SAFETY: the set is eight bytes, as passed; nothing is written.
    let signal = unsafe {
        libc::syscall(libc::SYS_rt_sigtimedwait, &raw const ALL, std::ptr::null::<u8>(), std::ptr::null::<u8>(), 8)
    };
    i32::try_from(signal).unwrap_or(-1)
}

fn one(name: &str, value: &str) {
    // SAFETY: every call below gets numbers, or memory that outlives it, in a process with one thread.
    unsafe {
        match name {
            "say" => say(value),
            "ready" => say(&format!("{value}ready (pid {})", libc::getpid())),
            "exit" => leave(number(value)),
            // Dies of this signal, without a core file.
            "die" => {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &none);
                libc::signal(number(value), libc::SIG_DFL);
                mask(libc::SIG_UNBLOCK);
                libc::raise(number(value));
                libc::pause();
            }
            "block" => mask(libc::SIG_BLOCK),
            "ignore" => {
                libc::signal(number(value), libc::SIG_IGN);
            }
            // `SIGNAL[:WHO]`: prints every signal received, prefixed with WHO, and continues after SIGNAL. Needs `block` before `ready`.
            "until" => {
                let (last, who) = value.split_once(':').unwrap_or((value, ""));
                let who = if who.is_empty() { String::new() } else { format!("{who} ") };
                loop {
                    let signal = next_signal();
                    if signal > 0 {
                        say(&format!("{who}signal {signal}"));
                    }
                    if signal == number(last) {
                        break;
                    }
                }
            }
            "pause" => {
                libc::pause();
            }
            // Sends its parent a signal.
            "kick" => {
                libc::kill(libc::getppid(), number(value));
            }
            "stop" => {
                libc::raise(libc::SIGSTOP);
            }
            "reap" => while libc::wait(std::ptr::null_mut()) > 0 {},
            "line" => {
                let mut byte = 0u8;
                while libc::read(0, (&raw mut byte).cast(), 1) == 1 && byte != b'\n' {}
            }
            "orphans" => orphans(value),
            "uid" => {
                libc::setgroups(0, std::ptr::null());
                let id = number(value).cast_unsigned();
                if libc::setresgid(id, id, id) != 0 || libc::setresuid(id, id, id) != 0 {
                    say("cannot become another user");
                    leave(119)
                }
            }
            "refuse" => refuse(value),
            "deny" => deny(value),
            // This many additional descriptors, which an exec leaves open.
            "dup" => (0..number(value)).for_each(|_| {
                libc::dup(0);
            }),
            "forks" => forks(number(value)),
            _ => report(name, value),
        }
    }
}

/// `BATCHESxSIZE`: in each batch, SIZE orphans exit at the same moment.
fn orphans(value: &str) {
    let (batches, size) = value.split_once('x').unwrap_or(("1", value));
    for _ in 0..number(batches) {
        // SAFETY: calls on numbers and on memory that outlives them, in a process with one thread.
        unsafe {
            let mut gate = [0; 2];
            libc::pipe(gate.as_mut_ptr());
            let parent = fork();
            if parent == 0 {
                for _ in 0..number(size) {
                    if fork() == 0 {
                        // Until every writer has exited: that opens the gate for all of them at the same moment.
                        let mut byte = 0u8;
                        libc::close(gate[1]);
                        libc::read(gate[0], (&raw mut byte).cast(), 1);
                        leave(0);
                    }
                }
                leave(0);
            }
            libc::waitpid(parent, std::ptr::null_mut(), 0);
            libc::close(gate[0]);
            libc::close(gate[1]);
        }
    }
    say("orphaned");
}

/// Never more than one or two processes at a time, but for this many seconds each has forked and exited before anything can inspect it.
fn forks(seconds: i32) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(u64::from(seconds.cast_unsigned()));
    while std::time::Instant::now() < end {
        if fork() > 0 {
            leave(0);
        }
    }
}

fn execute(words: &[String]) -> ! {
    let words: Vec<std::ffi::CString> = words.iter().flat_map(|w| std::ffi::CString::new(w.as_str())).collect();
    let pointers: Vec<_> = words.iter().map(|w| w.as_ptr()).chain([std::ptr::null()]).collect();
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    // SAFETY: a list of C strings that ends in null, as execveat requires; the environment is this program's own. Not execve, which a test
    // may deny for what comes after.
    unsafe { libc::syscall(libc::SYS_execveat, libc::AT_FDCWD, pointers[0], pointers.as_ptr(), environ, 0) };
    say("cannot execute");
    leave(119)
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// `CALL:ERRNO`: from here on, even after an exec, the system call with this number fails, as under a sandbox or an old kernel.
fn deny(value: &str) {
    let (call, error) = value.split_once(':').unwrap_or((value, "1"));
    filter(&mut [
        step(0x20, 0, 0, 0),
        step(0x15, 0, 1, number(call).cast_unsigned()),
        step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | number(error).cast_unsigned()),
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]);
}

/// `FAMILY:ERRNO`: from here on, even after an exec, socket(2) fails for this address family, as under a sandbox.
fn refuse(value: &str) {
    let (family, error) = value.split_once(':').unwrap_or((value, "1"));
    filter(&mut [
        step(0x20, 0, 0, 0),
        step(0x15, 0, 3, u32::try_from(libc::SYS_socket).unwrap_or_default()),
        step(0x20, 0, 0, 16),
        step(0x15, 0, 1, number(family).cast_unsigned()),
        step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | number(error).cast_unsigned()),
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]);
}

fn filter(steps: &mut [libc::sock_filter]) {
    let len = u16::try_from(steps.len()).unwrap_or_default();
    let program = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
    // SAFETY: the program outlives the calls, which copy it.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if refused {
        say("no filter");
        leave(119)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Prints what the app sees of itself, and handles its ports.
fn report(name: &str, value: &str) {
    match name {
        "status" => {
            let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let wanted = ["SigBlk", "SigIgn", "SigCgt"];
            text.lines().filter(|l| wanted.iter().any(|w| l.starts_with(w))).for_each(|l| say(&l.replace('\t', " ")));
        }
        "cwd" => {
            let cwd = std::fs::read_link("/proc/self/cwd").unwrap_or_default();
            say(&format!("cwd {}", hex(&cwd.into_os_string().into_vec())));
        }
        "environ" => say(&format!("environ {}", hex(&std::fs::read("/proc/self/environ").unwrap_or_default()))),
        "cmdline" => say(&format!("cmdline {}", hex(&std::fs::read("/proc/self/cmdline").unwrap_or_default()))),
        "var" => {
            let environ = std::fs::read("/proc/self/environ").unwrap_or_default();
            let found = environ.split(|&b| b == 0).find_map(|v| v.strip_prefix(value.as_bytes())?.strip_prefix(b"="));
            say(&found.map_or(format!("{value} unset"), |v| format!("{value}={}", String::from_utf8_lossy(v))));
        }
        "fds" => descriptors(),
        "ids" => ids(),
        "listen" => listen(value),
        "try" => attempt(value),
        "accept" => accept(number(value)),
        // The same in an endless loop, without output.
        "serve" => loop {
            greet(number(value));
        },
        // A directory serves as a lock: only one process can create it. Exit code 97 if it exists.
        "lock" => {
            if std::fs::create_dir(value).is_err() {
                leave(97)
            }
        }
        "unlock" => {
            if std::fs::remove_dir(value).is_err() {
                leave(97)
            }
        }
        "socket" => {
            // SAFETY: calls on numbers; the socket may be leaked.
            let fd = unsafe { libc::socket(number(value), libc::SOCK_RAW | libc::SOCK_CLOEXEC, 4) };
            let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
            say(&format!("socket {value}: {}", if fd < 0 { error } else { 0 }));
        }
        _ => {
            say(&format!("unknown step: {name}"));
            leave(119)
        }
    }
}

fn ids() {
    // SAFETY: calls on numbers; `death` is valid for writing.
    unsafe {
        let mut death: libc::c_int = 0;
        libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut death);
        let (pid, parent, group, session) = (libc::getpid(), libc::getppid(), libc::getpgrp(), libc::getsid(0));
        say(&format!("ids pid={pid} ppid={parent} pgrp={group} sid={session} pdeathsig={death}"));
    }
}

/// A line `fd NUMBER TARGET` per descriptor, with the address of a socket, and `cloexec` if that is set; then `fds end`.
fn descriptors() {
    let mut found: Vec<(i32, String)> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        // The directory being read is a descriptor too.
        if !target.starts_with("/proc/") {
            found.push((entry.file_name().to_string_lossy().parse().unwrap_or(-1), target));
        }
    }
    found.sort();
    for (fd, target) in found {
        // SAFETY: fcntl on a number; it touches no memory.
        let cloexec = unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC != 0;
        let local = local_address(fd).map_or(String::new(), |a| format!(" {a}"));
        say(&format!("fd {fd} {target}{local}{}", if cloexec { " cloexec" } else { "" }));
    }
    say("fds end");
}

/// The address of a listening TCP socket.
fn local_address(fd: i32) -> Option<std::net::SocketAddr> {
    use std::os::fd::{FromRawFd, IntoRawFd};
    // SAFETY: the descriptor is open, and it is given back below without being closed.
    let socket = unsafe { std::net::TcpListener::from_raw_fd(fd) };
    let address = socket.local_addr().ok();
    let _ = socket.into_raw_fd();
    address
}

/// Listens on `ADDRESS:PORT` until the process exits. Exit code 98 if the port is taken.
fn listen(address: &str) {
    use std::os::fd::IntoRawFd;
    match std::net::TcpListener::bind(address) {
        Ok(listener) => {
            let _ = listener.into_raw_fd();
            say("listening");
        }
        Err(error) => {
            say(&format!("cannot listen: {error}"));
            leave(98)
        }
    }
}

/// Binds `ADDRESS:PORT`, prints whether that succeeded, and closes it again.
fn attempt(address: &str) {
    match std::net::TcpListener::bind(address) {
        Ok(_) => say("free"),
        Err(error) => say(&format!("taken: {error}")),
    }
}

/// Accepts one connection on a listening descriptor it was given, and sends a greeting.
fn accept(fd: i32) {
    greet(fd);
    say("accepted");
}

fn greet(fd: i32) {
    // SAFETY: the accepted socket is written to and closed here; the kernel reads nothing but the text.
    unsafe {
        let connection = libc::accept(fd, std::ptr::null_mut(), std::ptr::null_mut());
        let text = b"hello\n";
        libc::write(connection, text.as_ptr().cast(), text.len());
        libc::close(connection);
    }
}
