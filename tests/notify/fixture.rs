//! Owns how a test starts an app whose calls are intercepted, sends it commands, and answers its calls. Must not know what is tested.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as Name, UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use reberth::sys::exec::{Image, NotStarted, start};
use reberth::sys::notify::{Asked, Listener, Pending, Socket, set_nonblocking};
use reberth::sys::process::{End, end};
use reberth::sys::signal::Signals;

use crate::harness::place::{forking, unique};
use crate::harness::wait::PATIENCE;
use crate::supervisor::{image, setup};

/// Waits until there is something to read.
#[track_caller]
pub fn readable(what: &str, fd: impl AsFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
    assert!(ready == 1, "gave up after {PATIENCE:?}: {what}");
}

/// A name for an app to connect to.
pub struct Meeting {
    pub name: String,
    listener: UnixListener,
}

impl Meeting {
    pub fn new() -> Self {
        let name = format!("reberth-notify-{}", unique());
        let listener = UnixListener::bind_addr(&Name::from_abstract_name(&name).unwrap()).unwrap();
        Self { name, listener }
    }

    /// The app that has connected.
    #[track_caller]
    pub fn meet(self) -> Talk {
        readable("the app connects", &self.listener);
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Talk { lines: BufReader::new(stream) }
    }
}

/// The connection to an app: commands out, replies back.
pub struct Talk {
    lines: BufReader<UnixStream>,
}

impl Talk {
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        writeln!(self.lines.get_mut(), "{command}").unwrap();
    }

    #[track_caller]
    pub fn said(&mut self) -> String {
        let mut line = String::new();
        let size = self.lines.read_line(&mut line).expect("a reply in time");
        assert!(size > 0, "the app is gone");
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.said()
    }

    /// Sends a command that must succeed.
    #[track_caller]
    pub fn must(&mut self, command: &str) {
        assert_eq!(self.ask(command), "0", "{command}");
    }
}

/// An app whose calls are intercepted.
pub struct App {
    pub pid: i32,
    pub talk: Talk,
    pub listener: Option<Listener>,
    reaped: bool,
}

impl App {
    #[track_caller]
    pub fn start() -> Self {
        let meeting = Meeting::new();
        let (pid, listener) = launch(&mut image(&meeting.name), true);
        Self { pid, listener, talk: meeting.meet(), reaped: false }
    }

    /// The same app without interception, as a supervisor itself.
    #[track_caller]
    pub fn unheard() -> Self {
        let meeting = Meeting::new();
        let (pid, listener) = launch(&mut image(&meeting.name), false);
        assert!(listener.is_none());
        Self { pid, listener, talk: meeting.meet(), reaped: false }
    }

    pub fn listener(&self) -> &Listener {
        self.listener.as_ref().unwrap()
    }

    /// The call that it makes now.
    #[track_caller]
    pub fn call(&self) -> Asked {
        call(self.listener())
    }

    /// The call that it makes now; `None`: it has replied.
    #[track_caller]
    pub fn call_or_reply(&mut self) -> Option<Asked> {
        loop {
            let mut fds = [self.listener().as_fd(), self.talk.lines.get_ref().as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
            assert!(ready > 0, "gave up after {PATIENCE:?}: neither a call nor a reply");
            if let Some(asked) = next(self.listener()) {
                return Some(asked);
            }
            if fds[1].any() == Some(true) {
                return None;
            }
        }
    }

    /// Puts `ours` in the place of its own descriptor, with the same flags, and makes its bind return 0.
    #[track_caller]
    pub fn give(&self, asked: &Asked, ours: impl AsFd, number: RawFd, like: &Socket) -> std::io::Result<()> {
        set_nonblocking(ours.as_fd(), like.nonblocking);
        self.listener().put(asked.id, ours.as_fd(), number, like.cloexec)?;
        self.listener().answer(asked.id, 0);
        Ok(())
    }

    #[track_caller]
    pub fn signal(&self, signal: i32) {
        crate::harness::running::kill(self.pid, signal);
    }

    /// Kills it, and waits until it has exited.
    #[track_caller]
    pub fn kill(&mut self) {
        assert_eq!(end(self.pid), Some(End::Signal(libc::SIGKILL)));
        self.reaped = true;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.listener = None;
        if !self.reaped {
            end(self.pid);
        }
    }
}

/// The next call; waits for it.
#[track_caller]
pub fn call(listener: &Listener) -> Asked {
    loop {
        readable("the app makes a call", listener);
        assert_ne!(listener.pending(), Pending::Over, "nobody is left to make a call");
        // There is no call if it was interrupted meanwhile.
        if let Some(asked) = next(listener) {
            return asked;
        }
    }
}

/// The next call, if one is pending.
#[track_caller]
pub fn next(listener: &Listener) -> Option<Asked> {
    if listener.pending() == Pending::Call { listener.receive().unwrap() } else { None }
}

#[track_caller]
pub fn launch(image: &mut Image, hear_binds: bool) -> (i32, Option<Listener>) {
    let inherited = Signals::block().unwrap().inherited();
    // Without interception it has a copy of all of the test's descriptors until its exec.
    let _alone = forking();
    let mut started = match start(image, &setup(inherited, hear_binds)) {
        Ok(started) => started,
        Err(NotStarted::Deaf(error)) => panic!("refused: {error}"),
        Err(NotStarted::Clone(error)) => panic!("no process: {error}"),
    };
    assert_eq!(started.failure(), None);
    (started.pid, started.heard.take().map(|heard| heard.listener))
}
