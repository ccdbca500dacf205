//! The log against outputs of every kind: full ones, stalled ones, such as cannot be opened again. It may lose lines; it may not wait.

use std::io::{PipeWriter, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::launch::{self, Stdio};
use crate::harness::{Launch, Running, terminal};
use crate::{both, denied, run_app};

/// Says more with every signal, and ends by TERM with code 5.
const APP: &str = "block ready until=15 exit=5";
const FLAGS: [&str; 4] = ["--port", "0", "--log", "trace"];

/// What a kernel before 6.4 says of a pipe.
const NOT_TOLD: [(i64, i32); 1] = [(libc::SYS_pwritev2, libc::EOPNOTSUPP)];

/// Lets nobody open it a second time, like what belongs to another user: the launch is then without the capability to do so all the same.
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

/// The ways to a pipe, from the newest kernel's on: told for each write, opened once more, through a pipe of one's own.
const WAYS: [fn(&PipeWriter, Launch) -> Launch; 3] =
    [|_, launch| launch, |_, launch| denied(&NOT_TOLD, launch), |pipe, launch| sealed(pipe, denied(&NOT_TOLD, launch))];

fn fill(fd: &impl AsRawFd) {
    let fd = fd.as_raw_fd();
    let block = [b'x'; 4096];
    // SAFETY: the block is as long as we say; the descriptor is open.
    unsafe {
        libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
        while libc::write(fd, block.as_ptr().cast(), block.len()) > 0 {}
        while libc::write(fd, block.as_ptr().cast(), 1) > 0 {}
        libc::fcntl(fd, libc::F_SETFL, 0);
    }
}

/// It hears signals and passes them on, whatever becomes of its lines.
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
fn a_full_pipe_holds_nothing_up() {
    both(|mode| {
        for way in WAYS {
            let (_reader, writer) = std::io::pipe().unwrap();
            fill(&writer);
            assert_hears(mode(way(&writer, run_app(&FLAGS, APP))).stderr(Stdio::Given(writer.into())).start());
        }
    });
}

/// The app writes to the same pipe, and whoever reads it has stalled: a look that said "there is room" is no promise.
#[test]
fn a_pipe_that_fills_between_the_look_and_the_write_holds_nothing_up() {
    both(|mode| {
        for way in WAYS {
            let (mut reader, writer) = std::io::pipe().unwrap();
            // As the app would, but it can be done without stopping the app's own steps: takes whatever room comes up, and never waits.
            let own = launch::open(&format!("/proc/self/fd/{}", writer.as_raw_fd()), libc::O_WRONLY | libc::O_NONBLOCK);
            let mut running = mode(way(&writer, run_app(&FLAGS, APP))).stderr(Stdio::Given(writer.into())).start();
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let block = [b'x'; 4096];
                    while !over.load(Ordering::Relaxed) {
                        // SAFETY: the block is as long as we say; the descriptor is open.
                        unsafe { libc::write(own.as_raw_fd(), block.as_ptr().cast(), block.len()) };
                    }
                });
                let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    running.ready();
                    for _ in 0..100 {
                        // Real-time signals queue, and each of them is a line of the log. Room comes up meanwhile, and then no more.
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
fn what_was_lost_is_counted_once_there_is_room_again() {
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

/// As podman and systemd give it.
#[test]
fn a_full_socket_holds_nothing_up() {
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

/// `docker run -t`, and nobody is attached. The second may not be opened by its own name.
#[test]
fn a_terminal_that_nobody_reads_holds_nothing_up() {
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
