//! The log with outputs of every kind: full, stalled, and impossible to reopen. It may lose lines; it must not block.

use std::io::{PipeWriter, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::launch::{self, Stdio};
use crate::harness::{Launch, Running, terminal};
use crate::{both, denied, run_app};

/// Prints a line for every signal, and exits with code 5 on TERM.
const APP: &str = "block ready until=15 exit=5";
const FLAGS: [&str; 4] = ["--port", "0", "--log", "trace"];

/// A kernel before 6.4: no RWF_NOWAIT on pipes.
const NOT_TOLD: [(i64, i32); 1] = [(libc::SYS_pwritev2, libc::EOPNOTSUPP)];

/// An output that cannot be opened a second time, as if it belonged to another user: root runs reberth without the capability to do so.
fn sealed(fd: &impl AsRawFd, mut launch: Launch) -> Launch {
    // SAFETY: calls on numbers.
    let root = unsafe {
        assert_eq!(libc::fchmod(fd.as_raw_fd(), 0), 0);
        libc::geteuid() == 0
    };
    let capability = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    let words = capability.into_iter().filter(|_| root).map(Into::into);
    launch.words = words.chain(launch.words).collect();
    launch
}

/// The ways to write to a pipe without blocking, from the newest kernel on: a flag for each write, the pipe reopened, an intermediate pipe.
const WAYS: [fn(&PipeWriter, Launch) -> Launch; 3] =
    [|_, launch| launch, |_, launch| denied(&NOT_TOLD, launch), |pipe, launch| sealed(pipe, denied(&NOT_TOLD, launch))];

fn fill(fd: &impl AsRawFd) {
    let fd = fd.as_raw_fd();
    let block = [b'x'; 4096];
    // SAFETY: the block has the length passed; the descriptor is open.
    unsafe {
        libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
        while libc::write(fd, block.as_ptr().cast(), block.len()) > 0 {}
        while libc::write(fd, block.as_ptr().cast(), 1) > 0 {}
        libc::fcntl(fd, libc::F_SETFL, 0);
    }
}

/// It receives and forwards signals, whatever happens to its log lines.
#[track_caller]
fn assert_hears(mut running: Running) {
    running.ready();
    for _ in 0..10 {
        running.signal(libc::SIGUSR1);
        running.expect("signal 10");
    }
    running.signal(libc::SIGTERM);
    running.finish_within(Duration::from_secs(5)).expect_code(5);
}

#[test]
fn a_full_pipe_blocks_nothing() {
    both(|mode| {
        for way in WAYS {
            let (_reader, writer) = std::io::pipe().unwrap();
            fill(&writer);
            assert_hears(mode(way(&writer, run_app(&FLAGS, APP))).stderr(Stdio::Given(writer.into())).start());
        }
    });
}

/// The app writes to the same pipe, and its reader has stalled: a check that there is room is no guarantee.
#[test]
fn a_pipe_that_fills_between_check_and_write_blocks_nothing() {
    both(|mode| {
        for way in WAYS {
            let (mut reader, writer) = std::io::pipe().unwrap();
            // Fills the pipe like the app, but without involving the app's steps: takes any room there is, and never waits.
            let own = launch::open(&format!("/proc/self/fd/{}", writer.as_raw_fd()), libc::O_WRONLY | libc::O_NONBLOCK);
            let mut running = mode(way(&writer, run_app(&FLAGS, APP))).stderr(Stdio::Given(writer.into())).start();
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let block = [b'x'; 4096];
                    while !over.load(Ordering::Relaxed) {
                        // SAFETY: the block has the length passed; the descriptor is open.
                        unsafe { libc::write(own.as_raw_fd(), block.as_ptr().cast(), block.len()) };
                    }
                });
                let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    running.ready();
                    for _ in 0..100 {
                        // Real-time signals queue, and each is a line in the log. Meanwhile there is room for a moment, and then none.
                        for _ in 0..20 {
                            running.signal(40);
                            reader.read_exact(&mut [0; 4096]).unwrap();
                        }
                        for _ in 0..20 {
                            running.expect("signal 40");
                        }
                    }
                }));
                over.store(true, Ordering::Relaxed);
                rounds.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
            running.signal(libc::SIGTERM);
            running.finish_within(Duration::from_secs(5)).expect_code(5);
        }
    });
}

#[test]
fn lost_lines_are_counted_once_there_is_room_again() {
    for way in WAYS {
        let (mut reader, writer) = std::io::pipe().unwrap();
        fill(&writer);
        let mut running = way(&writer, run_app(&FLAGS, APP)).stderr(Stdio::Given(writer.into())).start();
        running.ready();
        running.signal(libc::SIGUSR1);
        running.expect("signal 10");
        reader.read_exact(&mut [0; 65_536]).unwrap();
        running.signal(libc::SIGTERM);
        running.finish().expect_code(5);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        let (count, rest) = said.split_once(" log lines dropped: stderr did not accept them\n").unwrap();
        assert!(count.rsplit(' ').next().unwrap().parse::<u32>().unwrap() >= 3, "{said}");
        assert!(rest.lines().next().unwrap().contains("SIGTERM forwarded"), "{said}");
    }
}

/// As podman and systemd supply it.
#[test]
fn a_full_socket_blocks_nothing() {
    both(|mode| {
        for calls in [&[][..], &NOT_TOLD] {
            let (one, _other) = UnixStream::pair().unwrap();
            fill(&one);
            let launch = denied(calls, run_app(&FLAGS, APP));
            assert_hears(mode(launch).stderr(Stdio::Given(one.into())).start());
        }
    });
    let (one, mut other) = UnixStream::pair().unwrap();
    run_app(&FLAGS, "exit=5").stderr(Stdio::Given(one.into())).start().finish().expect_code(5);
    let mut said = String::new();
    other.read_to_string(&mut said).unwrap();
    assert!(said.lines().count() == 3 && !said.contains("dropped"), "{said}");
}

/// `docker run -t` without a client attached. The second terminal cannot be opened by its name.
#[test]
fn a_terminal_that_is_not_read_blocks_nothing() {
    type Change = fn(&OwnedFd, Launch) -> Launch;
    let ways: [Change; 2] = [|_, launch| launch, |terminal, launch| sealed(terminal, launch)];
    for way in ways {
        let (_master, slave) = terminal::pair();
        let launch = way(&slave, run_app(&FLAGS, APP)).stdin(Stdio::Given(terminal::copy(&slave)));
        let mut launch = launch.stderr(Stdio::Given(slave));
        launch.terminal = true;
        let mut running = launch.start();
        running.ready();
        for _ in 0..500 {
            running.signal(libc::SIGUSR1);
            running.expect("signal 10");
        }
        running.signal(libc::SIGTERM);
        running.finish_within(Duration::from_secs(5)).expect_code(5);
    }
}

#[test]
fn a_file_has_every_line() {
    both(|mode| {
        let place = crate::harness::place::TempDir::new();
        let path = place.path().join("log").to_str().unwrap().to_owned();
        let file: OwnedFd = launch::open(&path, libc::O_CREAT | libc::O_WRONLY);
        let mut running = mode(run_app(&FLAGS, APP)).stderr(Stdio::Given(file)).start();
        running.ready();
        for _ in 0..200 {
            running.signal(libc::SIGUSR1);
            running.expect("signal 10");
        }
        running.signal(libc::SIGTERM);
        running.finish().expect_code(5);
        let said = std::fs::read_to_string(path).unwrap();
        assert_eq!(said.matches("SIGUSR1 forwarded").count(), 200, "{said}");
        assert!(!said.contains("dropped"), "{said}");
    });
}
