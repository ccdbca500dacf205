//! Hostile peers: another uid, a wrong secret, a squatter, garbage, wrong descriptors, floods, silence, and replays.

use std::time::{Duration, Instant};

use crate::harness::launch::Stdio;
use crate::harness::place::TempDir;
use crate::harness::{Launch, Running, look, until};
use crate::{ask, group, instance, serving, stop};

/// A peer that speaks the protocol, in Python: `give` answers requests wrongly, `ask` sends requests to an instance.
const PEER: &str = "import array, hashlib, hmac, os, socket, sys, time
mode, name, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
secret = sys.argv[4].encode() if len(sys.argv) > 4 else b''
M = b'reberth\\0'
place = '\\0reberth/share/%s/tcp/%d' % (name, port)
def msg(b): return (M + b'\\0\\1' + b).ljust(128, b'\\0')
def proof(side, asker, giver):
    return hmac.new(secret, M + b'\\0\\1' + side + asker + giver + port.to_bytes(2, 'big') + b'\\0' + name.encode(), hashlib.sha256).digest()
def fds(*socks): return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno() for s in socks]))]
def listener(p, addr='0.0.0.0'):
    s = socket.socket(); s.setsockopt(1, 2, 1); s.bind((addr, p)); s.listen(); return s
def hello(c, nonce, has=bool(secret)): c.send(msg(b'\\1\\0' + bytes([has]) + port.to_bytes(2, 'big') + nonce))
if mode == 'ask':
    wrong = sys.argv[5]
    c = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); c.connect(place)
    nonce = os.urandom(32)
    if wrong == 'garbage': c.send(b'GET / HTTP/1.0\\r\\n\\r\\n')
    elif wrong == 'version': c.send((M + b'\\0\\2').ljust(128, b'\\0'))
    elif wrong == 'fds': c.sendmsg([msg(b'\\5')], fds(*[c] * 5))
    else:
        hello(c, nonce)
        answer = c.recv(256)
        if answer[10:11] == b'\\2':
            giver = answer[11:43]
            c.send(msg(b'\\4' + (os.urandom(32) if wrong == 'proof' else proof(b'asker', nonce, giver))))
            answer, anc, _, _ = c.recvmsg(256, 4096)
            print('kind', answer[10] if answer else 0, len(anc), flush=True); sys.exit()
        print('kind', answer[10] if answer else 0, answer[11] if answer else 0, flush=True); sys.exit()
    answer = c.recv(256)
    print('kind', answer[10] if answer else 0, answer[11] if answer else 0, flush=True)
else:
    held = listener(port)
    meeting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); meeting.bind(place); meeting.listen(64)
    if mode != 'blocking': meeting.setblocking(False)
    import select
    print('holding', flush=True)
    recorded = None
    while True:
        select.select([meeting], [], [])
        try: c, _ = meeting.accept()
        except BlockingIOError: continue
        c.setblocking(True); kept = c
        if mode == 'silent': time.sleep(60)
        if mode == 'gone': c.close(); continue
        # Its word is read first: a close with something unread is told as an error, and may come before what was said.
        if mode == 'garbage': c.recv(256); c.send(os.urandom(200)); c.close(); continue
        first = c.recv(256); asker = first[15:47]; giver = os.urandom(32)
        c.send(msg(b'\\2' + giver))
        if mode == 'dies': c.recv(256); c.close(); continue
        second = c.recv(256)
        p = proof(b'giver', asker, giver)
        if mode == 'replay':
            recorded = recorded or p; p = recorded
        what = {'pipe': lambda: open('/dev/null'), 'other': lambda: listener(0), 'udp': lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                'deaf': lambda: socket.socket(), 'loopback': lambda: held}.get(mode, lambda: held)()
        extra = [what] * 6 if mode == 'many' else [what] + ([] if mode == 'few' else [meeting if mode != 'point' else held])
        c.sendmsg([msg(b'\\5' + p + bytes(20))], fds(*extra)); c.close()
";

fn peer(mode: &str, group: &str, port: u16, more: &[&str]) -> Running {
    let words = ["-S", "-c", PEER, mode, group, &port.to_string()].map(str::to_owned);
    Launch::new("python3").args(words).args(more.iter().copied()).start()
}

fn giver(mode: &str, group: &str, port: u16) -> Running {
    let mut running = peer(mode, group, port, &[]);
    running.expect("holding");
    running
}

/// Whatever the exchange leads to, the newcomer logs the reason, and waits as for any holder.
#[test]
fn what_a_hostile_provider_gives_is_not_accepted() {
    for (mode, why) in [
        ("gone", "disconnected"),
        ("garbage", "does not belong to this exchange"),
        ("dies", "disconnected"),
        ("pipe", "not the port"),
        ("udp", "another protocol"),
        ("deaf", "does not listen"),
        ("other", "another port"),
        ("point", "meeting point"),
        ("blocking", "would block"),
        ("few", "does not belong to this exchange"),
        ("many", "does not belong to this exchange"),
    ] {
        let (group, port) = group();
        let mut hostile = giver(mode, &group, port);
        let mut one = instance(&group, port, "one", &["--wait", "60s"]).start();
        one.stderr_until(why);
        one.stderr_until("is busy, waiting");
        hostile.signal(9);
        hostile.finish();
        one.expect("serving");
        assert_eq!(ask(port).as_deref(), Some("one 127.0.0.1"), "{mode}");
        // No received descriptor is kept: three standard ones, not the log's, and the listening ones.
        assert!(look::descriptors(one.init).len() < 16, "{mode}: {:?}", look::descriptors(one.init));
        stop(one);
    }
}

#[test]
fn a_silent_provider_costs_a_second_and_term_is_received_meanwhile() {
    let (group, port) = group();
    let mut silent = giver("silent", &group, port);
    let mut one = instance(&group, port, "one", &[]).start();
    one.stderr_until("has not answered within 1s");
    one.stderr_until("is busy, waiting");
    stop(one);
    // In the middle of that second.
    let mut two = instance(&group, port, "two", &["--log", "debug"]).start();
    until("it asks", || {
        look::descriptors(two.init).values().filter(|target| target.starts_with("socket:")).count() > 1
    });
    let asked = Instant::now();
    two.signal(15);
    two.finish().expect_code(143);
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    silent.signal(9);
    silent.finish();
}

#[test]
fn what_was_recorded_is_worth_nothing() {
    let (group, port) = group();
    let dir = TempDir::new();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "tea\n").unwrap();
    let secret = secret.to_str().unwrap();
    // A peer that once knew the secret answers with the proof from that time.
    let mut replay = peer("replay", &group, port, &["tea"]);
    replay.expect("holding");
    let flags = ["--share-secret-file", secret, "--wait", "60s"];
    let mut first = instance(&group, port, "first", &flags).start();
    first.expect("serving");
    first.stderr_until("is shared with another instance");
    stop(first);
    let mut second = instance(&group, port, "second", &flags).start();
    second.stderr_until("does not know the secret");
    stop(second);
    replay.signal(9);
    replay.finish();
}

#[test]
fn a_peer_without_the_secret_gets_nothing() {
    let (group, port) = group();
    let dir = TempDir::new();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (good, bad, empty) = (file("good", "tea"), file("bad", "coffee"), file("empty", "\n"));
    let one = serving(&group, port, "one", &["--share-secret-file", &good]);
    for (flags, why) in [(&["--share-secret-file", &bad][..], "another secret"), (&[], "another secret")] {
        let mut other = instance(&group, port, "other", &[&["--wait", "60s"], flags].concat()).start();
        other.stderr_until(why);
        other.stderr_until("is busy, waiting");
        stop(other);
    }
    for (wrong, said) in [("proof", "kind 3 2"), ("right", "kind 5 1")] {
        let mut asker = peer("ask", &group, port, &["tea", wrong]);
        let line = asker.line();
        assert!(line.starts_with(&said[..6]), "{wrong}: {line}");
        asker.finish();
    }
    let two = serving(&group, port, "two", &["--share-secret-file", &good]);
    stop(one);
    stop(two);
    for (path, why) in [(&*empty, "is empty"), ("/no/such/file", "no such file"), ("/", "is not a regular file")] {
        let outcome = instance(&group, port, "x", &["--share-secret-file", path]).start().finish().expect_code(125);
        assert!(outcome.stderr.contains("--share-secret-file") && outcome.stderr.contains(why), "{}", outcome.report());
    }
}

#[test]
fn another_user_gets_nothing_and_is_not_trusted() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can be two users.
        return;
    }
    let (group, port) = group();
    let mut one = serving(&group, port, "one", &[]);
    one.stderr_until("every root container on this network can take the port");
    let mut launch = instance(&group, port, "other", &["--wait", "60s"]).uid(65534);
    // The test's own directory belongs to root.
    launch.environment.retain(|(name, _)| name != "REBERTH_STATE_DIR");
    let mut other = launch.start();
    other.stderr_until("is a different user");
    other.stderr_until("is busy, waiting");
    stop(other);
    stop(one);
}

#[test]
fn garbage_and_floods_cost_an_instance_nothing() {
    let (group, port) = group();
    let mut one = serving(&group, port, "one", &[]);
    let before = look::descriptors(one.init).len();
    for wrong in ["garbage", "version", "fds"] {
        peer("ask", &group, port, &["", wrong]).finish();
    }
    one.write("nothing\n");
    one.expect("done");
    let flood = "import socket, sys\nplace = '\\0reberth/share/%s/tcp/%s' % (sys.argv[1], sys.argv[2])\nall = []\n\
                 for i in range(300):\n s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.setblocking(False)\n \
                 try: s.connect(place); all.append(s)\n except OSError: s.close()\nprint(len(all), flush=True)\nsys.stdin.readline()";
    let mut flood =
        Launch::new("python3").args(["-S", "-c", flood, &group, &port.to_string()]).stdin(Stdio::Pipe).start();
    flood.line();
    assert_eq!(ask(port).as_deref(), Some("one 127.0.0.1"), "the app serves meanwhile");
    // A well-behaved instance gets through once the silent ones have used up their second.
    let two = serving(&group, port, "two", &["--wait", "60s"]);
    flood.write("\n");
    flood.finish();
    until("no descriptor is left of them", || look::descriptors(one.init).len() <= before);
    stop(one);
    stop(two);
}

#[test]
fn a_squatter_on_the_name_leaves_an_instance_alone_with_its_port() {
    let (group, port) = group();
    let squat = "import socket, sys, signal\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
                 s.bind('\\0reberth/share/%s/tcp/%s' % (sys.argv[1], sys.argv[2]))\nprint('there', flush=True)\nsignal.pause()";
    let mut squatter = Launch::new("python3").args(["-S", "-c", squat, &group, &port.to_string()]).start();
    squatter.expect("there");
    let mut one = serving(&group, port, "one", &[]);
    one.stderr_until("cannot be shared: another process answers");
    assert_eq!(ask(port).as_deref(), Some("one 127.0.0.1"));
    stop(one);
    squatter.signal(9);
    squatter.finish();
}
