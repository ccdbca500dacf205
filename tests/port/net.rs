//! Owns the harness of this suite: a namespace per test, sockets as servers create them, holders that are programs, and a caller that
//! receives the events of a claim. Must not know what is tested.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use reberth::exit::Code;
use reberth::port::blocking::Hear;
use reberth::port::claim::{Claim, Given, Hold, Policy, Stop};
use reberth::port::claiming::{Claiming, Step};
use reberth::port::policy::{Backoff, Fallback, Wait};
use reberth::port::spec::{Protocol, Spec};
use socket2::{Domain, Socket, Type};

const INSIDE: &str = "REBERTH_TEST_INSIDE";
const ROLE: &str = "REBERTH_TEST_ROLE";
/// No test takes longer; one that hangs is killed by SIGALRM.
const LIMIT: u32 = 60;

/// Runs `body` as the test `name` in a fresh network namespace with loopback up: as root, or as a user through a user namespace.
pub fn inside(name: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        // SAFETY: no memory is involved; the default action of SIGALRM ends this one test.
        unsafe { libc::alarm(LIMIT) };
        loopback_up();
        return body();
    }
    let namespaces: &[&str] =
        if nix::unistd::geteuid().is_root() { &["--net"] } else { &["--user", "--map-root-user", "--net"] };
    let output = Command::new("unshare")
        .args(namespaces)
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare(1) of util-linux");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} in its namespace: {}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "no test of the name {name} ran:\n{out}");
}

fn loopback_up() {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    // SAFETY: a zeroed ifreq is a valid one, and the kernel reads no further than its size.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16 | libc::IFF_RUNNING as i16;
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS as _, &request)
    };
    assert_eq!(result, 0, "loopback up: {}", std::io::Error::last_os_error());
}

/// How a server creates its socket.
#[derive(Clone, Copy, Default)]
pub struct Made {
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub v6_only: bool,
}

pub const WITH_RA: Made = Made { reuse_address: true, reuse_port: false, v6_only: false };
pub const WITHOUT_RA: Made = Made { reuse_address: false, reuse_port: false, v6_only: false };

pub fn bound(address: &str, port: u16, made: Made) -> std::io::Result<Socket> {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(made.v6_only)?;
    }
    socket.set_reuse_address(made.reuse_address)?;
    socket.set_reuse_port(made.reuse_port)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

pub fn listening(address: &str, port: u16, made: Made) -> Socket {
    let socket = bound(address, port, made).unwrap();
    socket.listen(128).unwrap();
    socket
}

pub fn udp(address: &str, port: u16) -> Socket {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

/// A connection to 127.0.0.1: the client's end and the server's.
pub fn connection(listener: &Socket, port: u16) -> (Socket, Socket) {
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

/// A server on 0.0.0.0 that has closed its connection and exited.
pub fn leave_time_wait(port: u16, made: Made) {
    let listener = listening("0.0.0.0", port, made);
    let (client, server) = connection(&listener, port);
    drop((listener, server));
    until_closed(&client);
}

/// Reads until the other side has closed, so that the kernel has seen its FIN.
pub fn until_closed(mut socket: &Socket) {
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
}

pub fn spec(addr: &str, port: u16) -> Spec {
    let addr: Option<IpAddr> = (!addr.is_empty()).then(|| addr.parse().unwrap());
    Spec { name: None, addr, port, protocol: Protocol::Tcp }
}

pub fn udp_spec(port: u16) -> Spec {
    Spec { protocol: Protocol::Udp, ..spec("", port) }
}

/// Waits `wait`; polling is so rare that only an event can explain a prompt claim.
pub fn by_event(wait: Duration) -> Policy {
    let minute = Duration::from_secs(60);
    Policy {
        wait: Wait::For(wait),
        fallback: Fallback::None,
        backoff: Backoff { min: minute, max: minute },
        hold: Hold::Listen,
        told: Given::default(),
    }
}

pub fn at_once() -> Policy {
    by_event(Duration::ZERO)
}

/// The caller of a claim: it reports when a wait starts, and can be made to stop.
pub struct Ear {
    stop: OwnedFd,
    started: Sender<u16>,
}

/// The other side of an [`Ear`].
pub struct Caller {
    stop: Option<OwnedFd>,
    started: Receiver<u16>,
}

pub fn ear() -> (Ear, Caller) {
    let (ours, theirs) = nix::unistd::pipe().unwrap();
    let (sender, receiver) = channel();
    (Ear { stop: ours, started: sender }, Caller { stop: Some(theirs), started: receiver })
}

impl Hear for Ear {
    fn fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    fn heard(&mut self) -> ControlFlow<Stop> {
        ControlFlow::Break(Stop::Ended(Code::signalled(15)))
    }

    fn wait_started(&mut self, spec: &Spec) -> ControlFlow<Stop> {
        let _ = self.started.send(spec.port);
        ControlFlow::Continue(())
    }
}

impl Caller {
    /// The port whose wait has started.
    pub fn waits_for(&self) -> u16 {
        self.started.recv_timeout(Duration::from_secs(20)).expect("no wait has started")
    }

    pub fn stop(&mut self) {
        self.stop = None;
    }
}

/// Waits until `condition` holds, for what sends no event.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < end, "gave up: {what}");
        std::thread::yield_now();
    }
}

/// Claims with a caller that never stops.
pub fn claim(specs: &[Spec], policy: &Policy) -> Result<Vec<Claim>, Stop> {
    let (mut ear, _caller) = ear();
    reberth::port::blocking::claim(specs, policy, &mut ear)
}

/// Claims in a separate thread.
pub struct Claimant {
    pub caller: Caller,
    result: Receiver<Result<Vec<Claim>, Stop>>,
}

impl Claimant {
    pub fn start(specs: &[Spec], policy: Policy) -> Self {
        Self::start_after(|| {}, specs, policy)
    }

    /// `before` runs in the claiming thread: restrictions that it sets do not affect the test.
    pub fn start_after(before: impl FnOnce() + Send + 'static, specs: &[Spec], policy: Policy) -> Self {
        let (mut ear, caller) = ear();
        let (sender, result) = channel();
        let specs = specs.to_vec();
        std::thread::spawn(move || {
            before();
            let _ = sender.send(reberth::port::blocking::claim(&specs, &policy, &mut ear));
        });
        Self { caller, result }
    }

    pub fn end(self) -> Result<Vec<Claim>, Stop> {
        self.result.recv_timeout(Duration::from_secs(30)).expect("the claim has not ended")
    }
}

/// The lines of a failed claim, joined.
pub fn lines(result: Result<Vec<Claim>, Stop>) -> String {
    match result {
        Err(Stop::Error(error)) => error.lines().join("\n"),
        other => panic!("not an error: {other:?}"),
    }
}

/// A separate program that plays `role`; killed and reaped at the end.
pub struct Program {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Program {
    pub fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["net::role", "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"), "the program was not ready");
        Self { child, lines }
    }

    pub fn write(&mut self, line: &str) {
        use std::io::Write;
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub fn line(&mut self) -> String {
        self.lines.next().expect("the program has ended").unwrap()
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nanoseconds of a clock that all programs share.
pub fn clock() -> i64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

/// Claims according to a line (`PROBE|LISTEN|BIND SPEC WHEN`) at exactly the given moment, reports whether it succeeded, and releases the
/// port on the next line.
fn race() {
    println!("\nready");
    let mut lines = std::io::stdin().lines();
    while let Some(line) = lines.next() {
        let line = line.unwrap();
        let [hold, asked, when] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let hold = match hold {
            "PROBE" => Hold::Probe,
            "LISTEN" => Hold::Listen,
            _ => Hold::Bind,
        };
        let when: i64 = when.parse().unwrap();
        let (asked, policy) = ([asked.parse().unwrap()], Policy { hold, ..at_once() });
        while clock() < when {
            std::hint::spin_loop();
        }
        // The diagnosis of the holder does not matter here.
        let claiming = Claiming::begin(&asked, policy).and_then(|mut claiming| {
            let step = claiming.step(std::time::Instant::now(), &mut || true);
            step.map(|step| (step, claiming))
        });
        println!("{}", if matches!(claiming, Ok((Step::Ours(_), _))) { "has it" } else { "has it not" });
        lines.next();
        drop(claiming);
        println!("let go");
    }
}

/// Not a test itself: what a [`Program`] does. `listen PORT`, `race`, or `who SPEC…` as JSON.
#[test]
fn role() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let role = role.into_string().unwrap();
    let (verb, ports) = role.split_once(' ').unwrap_or((&role, ""));
    let ports = || ports.split_ascii_whitespace().map(|port| port.parse::<u16>().unwrap());
    let _sockets: Vec<Socket> = match verb {
        "listen" => ports().map(|port| listening("0.0.0.0", port, WITHOUT_RA)).collect(),
        "who" => {
            let asked = reberth::who::settings::Who {
                ports: ports().map(|port| spec("", port)).collect(),
                watch: false,
                json: true,
                state_dir: None,
            };
            let code = reberth::who::run(&asked).unwrap();
            println!("ready {}", code.0);
            return;
        }
        "race" => return race(),
        other => panic!("no such role: {other}"),
    };
    println!("\nready");
    // Until the test ends it.
    let _ = std::io::stdin().read(&mut [0]);
}
