//! Owns a started program: its output, its signals, its exit. Must not know how it was started.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::look;
use super::place::TempDir;
use super::wait::PATIENCE;

/// How a program exited, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code, `None` if a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// What was started and how, for failure messages.
    pub description: String,
    left: Left,
}

/// Kills the processes that a program left behind, found by the word in their environment, if the test fails after its exit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Left(String);

impl Drop for Left {
    fn drop(&mut self) {
        if std::thread::panicking() {
            look::end_tagged(&self.0);
        }
    }
}

impl Outcome {
    /// Fails, with everything known, unless it exited with `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert!(self.code == Some(code), "expected exit code {code}\n{}", self.report());
        self
    }

    /// Fails, with everything known, unless `text` is in its standard error (case-insensitive).
    #[track_caller]
    pub fn expect_stderr(self, text: &str) -> Self {
        let said = self.stderr.to_lowercase().contains(&text.to_lowercase());
        assert!(said, "expected {text:?} on standard error\n{}", self.report());
        self
    }

    pub fn report(&self) -> String {
        let Self { code, signal, stdout, stderr, description, .. } = self;
        format!("{description}\nended: code {code:?}, signal {signal:?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }
}

/// One of the two pipes from the program.
#[derive(Debug, Default)]
struct Stream {
    /// `None`: there is none, or it has reached its end.
    fd: Option<OwnedFd>,
    text: Vec<u8>,
    /// How much of `text` the test has consumed.
    taken: usize,
}

impl Stream {
    fn new(fd: Option<OwnedFd>) -> Self {
        if let Some(fd) = &fd {
            // SAFETY: fcntl on an open descriptor; it touches no memory.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        }
        Self { fd, ..Self::default() }
    }

    fn pump(&mut self) {
        while let Some(fd) = &self.fd {
            let mut buffer = [0u8; 16 * 1024];
            // SAFETY: the buffer has the length passed.
            let n = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            match usize::try_from(n) {
                // A terminal reports EIO when the other side has closed, a pipe reports 0.
                Ok(0) => self.fd = None,
                Ok(n) => self.text.extend_from_slice(&buffer[..n]),
                Err(_) => match std::io::Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return,
                    _ => self.fd = None,
                },
            }
        }
    }

    fn take_line(&mut self) -> Option<String> {
        let rest = &self.text[self.taken..];
        let end = rest.iter().position(|&b| b == b'\n')?;
        let line = String::from_utf8_lossy(&rest[..end]).trim_end_matches('\r').to_owned();
        self.taken += end + 1;
        Some(line)
    }

    fn all(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

/// Everything from a pipe up to its end.
///
/// # Panics
/// If the end does not come in time: a process still has the other side open.
#[track_caller]
pub fn read_to_end(fd: OwnedFd) -> String {
    let mut stream = Stream::new(Some(fd));
    super::until("the pipe comes to its end", || {
        stream.pump();
        stream.fd.is_none()
    });
    stream.all()
}

/// A running program. When dropped, it is killed with everything it started.
#[derive(Debug)]
pub struct Running {
    /// The process that the test started.
    pub pid: i32,
    /// The process under test: the same one, or process 1 of the namespace that `pid` created (its pid as seen by the test).
    pub init: i32,
    pub dir: TempDir,
    /// The unique word in the environment of everything it starts.
    pub tag: String,
    pidfd: OwnedFd,
    stdin: Option<OwnedFd>,
    out: Stream,
    err: Stream,
    description: String,
    ended: Option<(Option<i32>, Option<i32>)>,
}

impl Running {
    #[track_caller]
    pub(super) fn new(
        pid: i32,
        description: String,
        tag: String,
        dir: TempDir,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Self {
        // SAFETY: pidfd_open takes two numbers; `pid` is a child that is not yet reaped, so it cannot be another process.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap())
        };
        let (out, err) = (Stream::new(stdout), Stream::new(stderr));
        Self { pid, init: pid, dir, tag, pidfd, stdin, out, err, description, ended: None }
    }

    /// Reads a terminal's master side in place of standard output.
    pub fn read_from(&mut self, master: OwnedFd) {
        self.out = Stream::new(Some(master));
    }

    /// Everything known so far.
    pub fn report(&mut self) -> String {
        self.pump();
        let state = look::stat(self.init);
        format!(
            "{}\nended: {:?}, pid {} is {state:?}\nstdout:\n{}\nstderr:\n{}",
            self.description,
            self.ended,
            self.init,
            self.out.all(),
            self.err.all()
        )
    }

    #[track_caller]
    pub fn fail(&mut self, why: &str) -> ! {
        panic!("{why}\n{}", self.report())
    }

    fn pump(&mut self) {
        self.out.pump();
        self.err.pump();
    }

    /// Waits for output or the exit, at most until `deadline`, and reads what is available.
    fn step(&mut self, deadline: Instant) {
        let left = i32::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(i32::MAX);
        let watch = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // poll(2) skips negative numbers; an end already seen would make it return immediately, again and again.
        let mut fds = [
            watch(self.out.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)),
            watch(self.err.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)),
            watch(if self.ended.is_some() { -1 } else { self.pidfd.as_raw_fd() }),
        ];
        // SAFETY: three entries, as passed.
        unsafe { libc::poll(fds.as_mut_ptr(), 3, left + 1) };
        if fds[2].revents != 0 {
            self.reap();
        }
        self.pump();
    }

    fn reap(&mut self) {
        let mut status = 0;
        // SAFETY: `status` is valid for writing; the child is waited for only here.
        if unsafe { libc::waitpid(self.pid, &mut status, 0) } == self.pid {
            let exited = libc::WIFEXITED(status);
            self.ended = Some(if exited {
                (Some(libc::WEXITSTATUS(status)), None)
            } else {
                (None, Some(libc::WTERMSIG(status)))
            });
        }
    }

    /// The next line of standard output.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.out.take_line() {
                return line;
            }
            // The exit of the program is not enough: processes it started may outlive it and write more. Only the end of the pipe counts.
            if self.out.fd.is_none() || Instant::now() >= deadline {
                self.fail("a line of standard output was expected");
            }
            self.step(deadline);
        }
    }

    /// Fails unless the next line of standard output is `expected`.
    #[track_caller]
    pub fn expect(&mut self, expected: &str) {
        let line = self.line();
        if line != expected {
            self.fail(&format!("expected the line {expected:?}, got {line:?}"));
        }
    }

    /// The next line of standard output that starts with `prefix`, without the prefix; lines before it are skipped.
    #[track_caller]
    pub fn line_after(&mut self, prefix: &str) -> String {
        loop {
            if let Some(rest) = self.line().strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }

    /// Waits for `ready (pid N)` from the app. Returns N, in the app's own PID namespace.
    #[track_caller]
    pub fn ready(&mut self) -> i32 {
        self.ready_as("")
    }

    /// The same for an app that prints `who` before it.
    #[track_caller]
    pub fn ready_as(&mut self, who: &str) -> i32 {
        let rest = self.line_after(&format!("{who}ready (pid "));
        match rest.trim_end_matches(')').parse() {
            Ok(pid) => pid,
            Err(_) => self.fail("the ready line has no pid"),
        }
    }

    /// The pid, as seen by the test, of a process in the namespace of `init` that sees itself as `inner`.
    #[track_caller]
    pub fn outside(&mut self, inner: i32) -> i32 {
        let space = look::pid_namespace(self.init);
        let found = look::everyone().into_iter().find(|&pid| {
            let name = look::status(pid, "NSpid").unwrap_or_default();
            look::pid_namespace(pid) == space && name.split_whitespace().next_back() == Some(&inner.to_string())
        });
        found.unwrap_or_else(|| self.fail(&format!("no process here knows itself as {inner}")))
    }

    /// Waits until `condition` holds for the standard output and standard error written so far.
    #[track_caller]
    pub fn output_until(&mut self, what: &str, mut condition: impl FnMut(&str, &str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        self.pump();
        while !condition(&self.out.all(), &self.err.all()) {
            if self.ended.is_some() || Instant::now() >= deadline {
                self.fail(&format!("waited for {what}"));
            }
            self.step(deadline);
        }
    }

    /// Waits until standard error contains `text` (case-insensitive).
    #[track_caller]
    pub fn stderr_until(&mut self, text: &str) {
        let wanted = text.to_lowercase();
        self.output_until(&format!("{text:?} on standard error"), |_, err| err.to_lowercase().contains(&wanted));
    }

    pub fn stdout(&mut self) -> String {
        self.pump();
        self.out.all()
    }

    pub fn stderr(&mut self) -> String {
        self.pump();
        self.err.all()
    }

    /// Writes to its standard input, or to its terminal.
    #[track_caller]
    pub fn write(&mut self, text: &str) {
        let fd = self.stdin.as_ref().or(self.out.fd.as_ref()).map(AsRawFd::as_raw_fd);
        let Some(fd) = fd else { self.fail("its standard input is not a pipe") };
        // SAFETY: the text has the length passed.
        let n = unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
        assert_eq!(usize::try_from(n).ok(), Some(text.len()), "write: {}", std::io::Error::last_os_error());
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Closes the test's end of its standard error, like a log collector that crashes.
    pub fn close_stderr(&mut self) {
        self.pump();
        self.err.fd = None;
    }

    /// Sends a signal to the process under test.
    #[track_caller]
    pub fn signal(&mut self, signal: i32) {
        kill(self.init, signal);
    }

    pub fn has_ended(&mut self) -> bool {
        self.step(Instant::now());
        self.ended.is_some()
    }

    /// Waits until it has exited.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        self.wait_for_end(PATIENCE);
        let (code, signal) = self.ended.unwrap_or_default();
        Outcome {
            code,
            signal,
            stdout: self.out.all(),
            stderr: self.err.all(),
            description: std::mem::take(&mut self.description),
            left: Left(self.tag.clone()),
        }
    }

    /// The same, and fails if that takes longer than `time`.
    #[track_caller]
    pub fn finish_within(mut self, time: Duration) -> Outcome {
        self.wait_for_end(time);
        self.finish()
    }

    #[track_caller]
    fn wait_for_end(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while self.ended.is_none() {
            if Instant::now() >= deadline {
                self.fail(&format!("it did not end within {time:?}"));
            }
            self.step(deadline);
        }
        self.pump();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let abandoned = self.ended.is_none();
        if abandoned {
            // When the first process of a namespace dies, all others in it are killed.
            for pid in [self.init, self.pid] {
                if pid > 0 {
                    // SAFETY: kill(2) takes two numbers. `pid` is not reaped yet, so it cannot be another process.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
            }
            self.reap();
        }
        if abandoned || std::thread::panicking() {
            look::end_tagged(&self.tag);
        }
    }
}

/// Sends a signal to a process that this test started.
#[track_caller]
pub fn kill(pid: i32, signal: i32) {
    assert!(pid > 0, "no process to signal");
    // SAFETY: kill(2) takes two numbers and touches no memory.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "kill({pid}, {signal}): {}", std::io::Error::last_os_error());
}
