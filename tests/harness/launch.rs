//! Owns the start of a program: everything a process inherits is set here, nothing comes from the environment of the test run. Must not
//! know what happens after the start: that is `running`.
//!
//! `std::process::Command` cannot close descriptor 0, cannot give a descriptor a number without risking its own pipe, and changes SIGPIPE;
//! so this module forks by itself.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::place::{self, TempDir};
use super::running::Running;
use super::{look, until};

/// The `PATH` of a child, and where programs are looked up.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A descriptor of the child.
#[derive(Debug)]
pub enum Stdio {
    /// `/dev/null`.
    Null,
    /// A pipe to the test.
    Pipe,
    /// Not open at all.
    Closed,
    /// This descriptor.
    Given(OwnedFd),
}

/// A program about to be started.
#[derive(Debug)]
pub struct Launch {
    pub words: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub cwd: PathBuf,
    pub stdin: Stdio,
    pub stdout: Stdio,
    pub stderr: Stdio,
    /// Additional descriptors, by number.
    pub descriptors: Vec<(RawFd, OwnedFd)>,
    /// Signals blocked at the start. All others are unblocked.
    pub blocked: Vec<i32>,
    /// Signals ignored at the start. All others have their default action.
    pub ignored: Vec<i32>,
    /// Soft and hard limit: (resource, value).
    pub limits: Vec<(i64, u64)>,
    /// The user it runs as, if not the user of the tests (needs root).
    pub uid: Option<u32>,
    /// Descriptor 0 becomes the controlling terminal of the child's new session.
    pub terminal: bool,
    /// The program under test, and not `unshare`, is process 1 of a new PID namespace.
    pub first: bool,
    pub dir: TempDir,
    tag: String,
}

impl Launch {
    pub fn new(program: impl Into<OsString>) -> Self {
        let tag = place::unique();
        Self {
            words: vec![program.into()],
            environment: vec![("PATH".into(), PATH.into()), ("TEST_TAG".into(), tag.clone().into())],
            cwd: "/".into(),
            stdin: Stdio::Null,
            stdout: Stdio::Pipe,
            stderr: Stdio::Pipe,
            descriptors: Vec::new(),
            blocked: Vec::new(),
            ignored: Vec::new(),
            limits: Vec::new(),
            uid: None,
            terminal: false,
            first: false,
            dir: TempDir::new(),
            tag: format!("TEST_TAG={tag}"),
        }
    }

    pub fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.words.push(word.into());
        self
    }

    pub fn args<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = path.into();
        self
    }

    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.stdin = stdio;
        self
    }

    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdout = stdio;
        self
    }

    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stderr = stdio;
        self
    }

    pub fn descriptor(mut self, number: RawFd, fd: impl Into<OwnedFd>) -> Self {
        self.descriptors.push((number, fd.into()));
        self
    }

    pub fn blocked(mut self, signals: &[i32]) -> Self {
        self.blocked = signals.to_vec();
        self
    }

    pub fn ignored(mut self, signals: &[i32]) -> Self {
        self.ignored = signals.to_vec();
        self
    }

    /// `RLIMIT_…`, whose type differs between C libraries.
    pub fn limit(mut self, resource: impl Into<i64>, value: u64) -> Self {
        self.limits.push((resource.into(), value));
        self
    }

    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// As process 1 of a new PID namespace, like the first process of a container.
    pub fn first_in_namespace(mut self) -> Self {
        self.first = true;
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn start(mut self) -> Running {
        if self.first {
            let mut words: Vec<OsString> = namespace_command().iter().map(Into::into).collect();
            if self.ignored.contains(&libc::SIGCHLD) {
                // `unshare` waits for its child, which resets an ignored SIGCHLD; `env` (coreutils) restores it.
                words.extend([program("env").into(), "--ignore-signal=CHLD".into()]);
            }
            words.append(&mut self.words);
            self.words = words;
        }
        let mut ours = Ours::default();
        let (stdin, stdout, stderr) = (self.stdin, self.stdout, self.stderr);
        let mut wanted = self.descriptors;
        if let Some((theirs, mine)) = end_for_child(stdin, true) {
            wanted.push((0, theirs));
            ours.stdin = mine;
        }
        if let Some((theirs, mine)) = end_for_child(stdout, false) {
            wanted.push((1, theirs));
            ours.stdout = mine;
        }
        if let Some((theirs, mine)) = end_for_child(stderr, false) {
            wanted.push((2, theirs));
            ours.stderr = mine;
        }
        let description = describe(&self.words, &self.environment, &self.cwd);
        let plan = Plan::new(&self.words, &self.environment, &self.cwd, &wanted, self.terminal, self.uid)
            .signals(&self.blocked, &self.ignored)
            .limits(&self.limits);
        let pid = {
            let _alone = place::forking();
            fork_until_exec(plan)
        };
        drop(wanted);
        let mut running = Running::new(pid, description, self.tag, self.dir, ours.stdin, ours.stdout, ours.stderr);
        if self.first {
            running.init = first_process(&running);
        }
        running
    }
}

/// Forks, and returns once the child has executed its program: from then on it has none of this process's close-on-exec descriptors open.
#[track_caller]
fn fork_until_exec(plan: Plan) -> i32 {
    // SAFETY: memory is copied, not shared, as with fork(2). The child makes only system calls, on memory prepared before
    // (`Plan::perform`), so it never needs a lock that another thread held at the fork.
    match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) } {
        0 => plan.perform(),
        pid => i32::try_from(pid).ok().filter(|&pid| pid > 0).unwrap_or_else(|| {
            panic!("fork: {}", std::io::Error::last_os_error());
        }),
    }
}

/// The test's ends of the pipes.
#[derive(Debug, Default)]
struct Ours {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// The child's end of a descriptor and, for a pipe, the test's.
#[track_caller]
fn end_for_child(stdio: Stdio, input: bool) -> Option<(OwnedFd, Option<OwnedFd>)> {
    match stdio {
        Stdio::Closed => None,
        Stdio::Given(fd) => Some((fd, None)),
        Stdio::Null => {
            let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
            Some((null.into(), None))
        }
        Stdio::Pipe => {
            let (reader, writer) = std::io::pipe().unwrap();
            let (reader, writer): (OwnedFd, OwnedFd) = (reader.into(), writer.into());
            Some(if input { (reader, Some(writer)) } else { (writer, Some(reader)) })
        }
    }
}

fn describe(words: &[OsString], environment: &[(OsString, OsString)], cwd: &Path) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    let environment: Vec<String> = environment.iter().map(|(k, v)| format!("{k:?}={v:?}")).collect();
    format!("command: {}\nenvironment: {}\ncwd: {}", words.join(" "), environment.join(" "), cwd.display())
}

/// The full path of a program in [`PATH`].
///
/// # Panics
/// If it does not exist: a test that cannot run fails, it is not skipped.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    PATH.split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed (looked in {PATH})"))
}

/// The command prefix for a new PID namespace, for this user: root needs no user namespace, and root without the capability may still
/// create one.
#[track_caller]
fn namespace_command() -> &'static [String] {
    static CHOSEN: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| {
        let unshare = program("unshare").to_string_lossy().into_owned();
        let plain = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        let user = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"];
        for flags in [&plain[..], &user[..]] {
            let words: Vec<String> =
                std::iter::once(unshare.clone()).chain(flags.iter().map(|&f| f.to_owned())).collect();
            let tried = Launch::new(&words[0]).args(&words[1..]).arg("true").start().finish();
            if tried.code == Some(0) {
                return words;
            }
        }
        panic!("cannot make a PID namespace, neither as this user nor in a user namespace: allow user namespaces, or be root");
    })
}

/// The process that `unshare` forked, once it has executed the requested program.
#[track_caller]
fn first_process(running: &Running) -> i32 {
    let mut found = 0;
    let outside = look::executable(running.pid);
    until("unshare starts the first process of the namespace", || {
        // Before its exec, the child of unshare is still called unshare, and its signals are not set up.
        found = look::children(running.pid).into_iter().next().unwrap_or(0);
        let started = found != 0 && look::executable(found).is_some_and(|exe| Some(exe) != outside);
        started || !look::alive(running.pid)
    });
    found
}

/// Everything the child does between fork and exec, prepared before the fork.
struct Plan {
    program: CString,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    cwd: CString,
    /// (target number, current number).
    descriptors: Vec<(RawFd, RawFd)>,
    terminal: bool,
    uid: Option<u32>,
    /// Sets of signals as the kernel represents them: signal n is bit n - 1.
    blocked: u64,
    ignored: u64,
    limits: Vec<(i64, u64)>,
    // The memory that the pointers above point into.
    _words: Vec<CString>,
}

fn c(text: impl AsRef<OsStr>) -> CString {
    CString::new(text.as_ref().as_bytes()).unwrap()
}

impl Plan {
    fn new(
        words: &[OsString],
        environment: &[(OsString, OsString)],
        cwd: &Path,
        descriptors: &[(RawFd, OwnedFd)],
        terminal: bool,
        uid: Option<u32>,
    ) -> Self {
        let args: Vec<CString> = words.iter().map(c).collect();
        let variables = environment.iter().map(|(name, value)| {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            c(pair)
        });
        let variables: Vec<CString> = variables.collect();
        let pointers = |list: &[CString]| list.iter().map(|w| w.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
        let mut descriptors: Vec<(RawFd, RawFd)> =
            descriptors.iter().map(|(to, from)| (*to, from.as_raw_fd())).collect();
        descriptors.sort_unstable();
        let program =
            if words[0].as_bytes().contains(&b'/') { args[0].clone() } else { c(program(&words[0].to_string_lossy())) };
        Self {
            program,
            argv: pointers(&args),
            envp: pointers(&variables),
            cwd: c(cwd),
            descriptors,
            terminal,
            uid,
            blocked: 0,
            ignored: 0,
            limits: Vec::new(),
            _words: args.into_iter().chain(variables).collect(),
        }
    }

    fn signals(mut self, blocked: &[i32], ignored: &[i32]) -> Self {
        self.blocked = set(blocked);
        self.ignored = set(ignored);
        self
    }

    fn limits(mut self, limits: &[(i64, u64)]) -> Self {
        self.limits = limits.to_vec();
        self
    }

    /// Runs in the child. Only system calls from here on: no allocation, no lock, no panic.
    fn perform(mut self) -> ! {
        // SAFETY: all pointers point into `self`, which lives until the exec; every call is async-signal-safe.
        unsafe {
            // A new session: without the terminal of the test run; and reberth may be a session leader or not, as in a container.
            libc::setsid();
            for (_, from) in &mut self.descriptors {
                // Move all sources out of the way first: a target number may be the number of another source.
                *from = libc::fcntl(*from, libc::F_DUPFD, 200);
            }
            for &(to, from) in &self.descriptors {
                libc::dup2(from, to);
            }
            let mut next: libc::c_uint = 0;
            for &(to, _) in &self.descriptors {
                let to = to.cast_unsigned();
                if to > next {
                    libc::syscall(libc::SYS_close_range, next, to - 1, 0);
                }
                next = to + 1;
            }
            libc::syscall(libc::SYS_close_range, next, libc::c_uint::MAX, 0);
            if self.terminal {
                libc::ioctl(0, libc::TIOCSCTTY, 0);
            }
            libc::umask(0o022);
            let ok = libc::chdir(self.cwd.as_ptr()) == 0;
            if let Some(uid) = self.uid {
                libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
                libc::syscall(libc::SYS_setresgid, uid, uid, uid);
                libc::syscall(libc::SYS_setresuid, uid, uid, uid);
            }
            // After the change of user: the kernel marks a process that was over its process limit, and refuses its exec.
            for &(resource, value) in &self.limits {
                let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
                libc::setrlimit(resource as _, &limit);
            }
            for signal in 1..=64 {
                let ignore = self.ignored & (1 << (signal - 1)) != 0;
                // The kernel's own struct, which begins with the action; the rest is zero. The C library's wrapper would refuse the first
                // real-time signals, and glibc's posix_spawn (cargo's) leaves one of them ignored.
                let action: [libc::sighandler_t; 8] =
                    [if ignore { libc::SIG_IGN } else { libc::SIG_DFL }, 0, 0, 0, 0, 0, 0, 0];
                libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), std::ptr::null::<u8>(), 8);
            }
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const self.blocked,
                std::ptr::null::<u8>(),
                8,
            );
            if ok {
                libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
            }
            let words = b"harness: the program could not be executed\n";
            libc::write(2, words.as_ptr().cast(), words.len());
            libc::_exit(120)
        }
    }
}

/// Not a `sigset_t`: C libraries reserve signals (musl: 34) that can be sent all the same.
fn set(signals: &[i32]) -> u64 {
    signals.iter().fold(0, |bits, signal| bits | 1 << (signal - 1))
}

/// Opens a close-on-exec descriptor.
#[track_caller]
pub fn open(path: &str, flags: i32) -> OwnedFd {
    // SAFETY: the path is a C string that lives through the call; this code owns the descriptor returned.
    unsafe {
        let fd = libc::open(c(path).as_ptr(), flags | libc::O_CLOEXEC, 0o644);
        assert!(fd >= 0, "open {path}: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}
