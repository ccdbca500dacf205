//! What the state file survives, and which files a reader trusts. The writer is this test program.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::document::{Document, FORMAT, MAX_SIZE, file_name};
use super::identity::Writer;
use super::publish::overwrite;
use super::*;
use crate::port::spec::{Protocol, Spec};

/// A publisher that has published `first`.
fn shown(dir: Option<&Path>, first: &State) -> Publisher {
    let mut publisher = Publisher::open(dir, first).unwrap();
    assert_eq!(publisher.publish(first), None);
    publisher
}

/// A separate directory for each test, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("reberth-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn spec(port: u16) -> Spec {
    Spec { name: None, addr: None, port, protocol: Protocol::Tcp }
}

fn state(phase: Phase) -> State {
    let named =
        Spec { name: Some("web".into()), addr: Some(Ipv4Addr::LOCALHOST.into()), port: 0, protocol: Protocol::Udp };
    State {
        phase,
        ports: vec![PortState::new(&spec(8080), 8081), PortState::new(&named, 40000)],
        health: Some("/ready?a=\"b\"".into()),
        liveness: None,
        app_pid: Some(7),
        shared: false,
    }
}

type Spoil = Box<dyn Fn(&Path)>;

fn believed(found: Found) -> State {
    match found {
        Found::Believed { state, .. } => state,
        other => panic!("not believed: {other:?}"),
    }
}

/// A file as another writer would have left it.
fn forge(dir: &Dir, name: &str, change: impl FnOnce(&mut Document<State>)) -> PathBuf {
    let mut document =
        Document { format: FORMAT, version: "0".into(), writer: Writer::this().unwrap(), state: state(Phase::Ready) };
    change(&mut document);
    let path = dir.0.join(file_name(Writer::this().unwrap().mount_namespace, 0)).with_file_name(name);
    fs::write(&path, serde_json::to_vec(&document).unwrap()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path
}

fn own_name(pid: i32) -> String {
    file_name(Writer::this().unwrap().mount_namespace, pid)
}

#[test]
fn every_phase_is_read_as_it_was_written() {
    let dir = Dir::new();
    let mut publisher = shown(Some(&dir.0), &state(Phase::Waiting));
    for phase in [Phase::Waiting, Phase::Starting, Phase::Ready, Phase::Draining, Phase::Exited, Phase::Exec] {
        assert_eq!(publisher.publish(&state(phase)), None);
        assert_eq!(believed(believe(Some(&dir.0), &[])), state(phase));
        let text = fs::read_to_string(publisher.path().unwrap()).unwrap();
        assert!(text.contains(&format!("\"phase\":\"{}\"", phase.name())), "{text}");
    }
    assert_eq!(dir.names().len(), 1, "nothing is left beside the file");
    let mode = fs::metadata(publisher.path().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
    publisher.remove();
    assert_eq!(dir.names().len(), 0);
    assert_eq!(believe(Some(&dir.0), &[]), Found::Nothing);
}

#[test]
fn where_the_app_listens_is_published_within_bounds() {
    let parse = |text: &&str| text.parse::<IpAddr>().unwrap();
    for (seen, told) in [
        (&[][..], &[][..]),
        (&["10.0.0.1"], &["10.0.0.1"]),
        (&["10.0.0.2", "10.0.0.1", "10.0.0.2"], &["10.0.0.2", "10.0.0.1"]),
        (&["10.0.0.1", "fd00::1", "127.0.0.2"], &["127.0.0.2", "10.0.0.1", "fd00::1"]),
        (&["10.0.0.1", "::"], &["::", "10.0.0.1"]),
        (&["::ffff:10.0.0.1", "10.0.0.1"], &["10.0.0.1"]),
        (&["::ffff:127.0.0.1"], &["127.0.0.1"]),
    ] {
        let mut state = state(Phase::Ready);
        let seen: Vec<IpAddr> = seen.iter().map(parse).collect();
        state.listens_at(&spec(8080), &seen);
        assert!(state.ports[0].listens.is_empty(), "8081 was taken, and nothing is known of it");
        state.listens_at(&spec(8081), &[Ipv4Addr::new(10, 9, 9, 9).into()]);
        state.listens_at(&spec(8081), &seen);
        assert_eq!(state.ports[0].listens, told.iter().map(parse).collect::<Vec<IpAddr>>(), "{seen:?}");
        let dir = Dir::new();
        shown(Some(&dir.0), &state);
        assert_eq!(believed(believe(Some(&dir.0), &[])), state);
    }
    // However many there are, the file stays small enough to be trusted, and contains the address that is queried
    // first.
    let mut state = state(Phase::Ready);
    let many = (0..60_000_u32).map(|low| Ipv4Addr::from(0x0a00_0000 | low).into());
    let many: Vec<IpAddr> = many.chain([Ipv4Addr::LOCALHOST.into()]).collect();
    state.listens_at(&spec(8081), &many);
    let listens = &state.ports[0].listens;
    assert_eq!((listens.len(), listens[0]), (MAX_PLACES, Ipv4Addr::LOCALHOST.into()));
    let dir = Dir::new();
    shown(Some(&dir.0), &state);
    assert_eq!(believed(believe(Some(&dir.0), &[])), state);
}

#[test]
fn an_explicit_directory_that_cannot_be_written_is_an_error_that_names_the_setting() {
    let dir = Dir::new();
    for place in [dir.0.join("missing"), PathBuf::from("/proc/self"), dir.0.join("a\nb")] {
        let error = Publisher::open(Some(&place), &state(Phase::Ready)).unwrap_err();
        assert_eq!(error.code(), crate::exit::Code::CANNOT);
        let line = error.to_string();
        assert!(!line.contains('\n') && line.contains("--state-dir") && line.contains("REBERTH_STATE_DIR"), "{line}");
    }
}

#[test]
fn a_half_written_file_of_a_killed_writer_is_replaced() {
    let dir = Dir::new();
    let left = dir.0.join(format!("{}.new", own_name(std::process::id() as i32)));
    fs::write(&left, "{").unwrap();
    let publisher = shown(Some(&dir.0), &state(Phase::Ready));
    assert_eq!(dir.names().len(), 1);
    assert_eq!(believed(believe(Some(&dir.0), &[])).phase, Phase::Ready);
    publisher.remove();
}

#[test]
fn a_symbolic_link_in_the_way_is_not_followed() {
    let dir = Dir::new();
    let victim = dir.0.join("victim");
    fs::write(&victim, "keep").unwrap();
    let name = own_name(std::process::id() as i32);
    symlink(&victim, dir.0.join(format!("{name}.new"))).unwrap();
    symlink(&victim, dir.0.join(&name)).unwrap();
    shown(Some(&dir.0), &state(Phase::Ready));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "keep");
    assert_eq!(believed(believe(Some(&dir.0), &[])).phase, Phase::Ready);
}

#[test]
fn failures_after_the_start_are_logged_once() {
    let dir = Dir::new();
    let mut publisher = shown(Some(&dir.0), &state(Phase::Starting));
    fs::remove_dir_all(&dir.0).unwrap();
    let line = publisher.publish(&state(Phase::Ready)).unwrap();
    assert!(line.contains("ready") && line.contains("no such file"), "{line}");
    assert_eq!(publisher.publish(&state(Phase::Draining)), None);
    fs::create_dir(&dir.0).unwrap();
    assert_eq!(publisher.publish(&state(Phase::Draining)), None);
    assert_eq!(believed(believe(Some(&dir.0), &[])).phase, Phase::Draining);
}

#[test]
fn a_state_is_seen_with_the_first_publish_and_removed_without_one() {
    let entries = |dir: &Dir| fs::read_dir(&dir.0).unwrap().count();
    let dir = Dir::new();
    let mut publisher = Publisher::open(Some(&dir.0), &state(Phase::Starting)).unwrap();
    assert!(!publisher.path().unwrap().exists());
    assert_eq!(publisher.publish(&state(Phase::Ready)), None);
    assert_eq!(believed(believe(Some(&dir.0), &[])).phase, Phase::Ready);
    assert_eq!(entries(&dir), 1);
    publisher.remove();
    assert_eq!(entries(&dir), 0);
    Publisher::open(Some(&dir.0), &state(Phase::Starting)).unwrap().remove();
    assert_eq!(entries(&dir), 0);
    fs::remove_dir(&dir.0).unwrap();
    assert!(Publisher::open(Some(&dir.0), &state(Phase::Starting)).is_err());
    fs::create_dir(&dir.0).unwrap();
}

#[test]
fn overwriting_in_place_leaves_a_readable_file_when_the_text_gets_shorter() {
    let dir = Dir::new();
    let publisher = shown(Some(&dir.0), &state(Phase::Draining));
    let path = publisher.path().unwrap();
    let mut short = fs::read(path).unwrap();
    let text = String::from_utf8(short.clone()).unwrap().replace("draining", "exec");
    short = text.into_bytes();
    overwrite(path, &mut short).unwrap();
    assert_eq!(believed(believe(Some(&dir.0), &[])).phase, Phase::Exec);
}

#[test]
fn dead_writers() {
    for (what, change) in [
        ("gone", (|document| document.writer.pid = i32::MAX) as fn(&mut Document<State>)),
        ("recycled", |document| document.writer.start_time += 1),
        ("earlier boot", |document| document.writer.boot_id = "0".into()),
    ] {
        let dir = Dir::new();
        forge(&dir, &own_name(77), change);
        assert!(matches!(believe(Some(&dir.0), &[]), Found::Dead { .. }), "{what}");
        // A live one wins, whichever is read first.
        forge(&dir, &own_name(1), change);
        forge(&dir, &own_name(78), |_| ());
        assert_eq!(believed(believe(Some(&dir.0), &[])).phase, Phase::Ready, "{what}");
    }
}

#[test]
fn files_that_are_not_trusted() {
    let damage = |text: &str| {
        let text = text.to_owned();
        move |path: &Path| fs::write(path, &text).unwrap()
    };
    let replace = |from: String, to: &'static str| -> Spoil {
        Box::new(move |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace(&from, to)).unwrap();
        })
    };
    let namespace = Writer::this().unwrap().pid_namespace;
    let cases: Vec<(&str, Spoil)> = vec![
        ("damaged", Box::new(damage("nonsense"))),
        ("damaged", Box::new(damage(""))),
        ("damaged", Box::new(damage("\0\0\0"))),
        ("damaged", Box::new(|path| fs::write(path, &fs::read(path).unwrap()[..100]).unwrap())),
        ("damaged", Box::new(|path| fs::write(path, [fs::read(path).unwrap(), b"{}".to_vec()].concat()).unwrap())),
        ("damaged", replace("\"format\"".into(), "\"extra\":1,\"format\"")),
        ("format 2", replace("\"format\":1".into(), "\"format\":2")),
        ("bytes, more than", Box::new(damage(&" ".repeat(MAX_SIZE + 1)))),
        (
            "symbolic link",
            Box::new(|path| {
                let other = path.with_extension("real");
                fs::rename(path, &other).unwrap();
                symlink(other, path).unwrap();
            }),
        ),
        (
            "not a regular file",
            Box::new(|path| {
                fs::remove_file(path).unwrap();
                nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
            }),
        ),
        (
            "not a regular file",
            Box::new(|path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
        ),
        (
            "not a regular file",
            Box::new(|path| {
                fs::remove_file(path).unwrap();
                drop(std::os::unix::net::UnixListener::bind(path).unwrap());
            }),
        ),
        ("others can write", Box::new(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o646)).unwrap())),
        ("others can write", Box::new(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o664)).unwrap())),
        ("another container", replace(format!("\"pid_namespace\":{namespace}"), "\"pid_namespace\":1")),
        ("pid -1", replace(format!("\"pid\":{}", std::process::id()), "\"pid\":-1")),
    ];
    for pid in [1, 77] {
        for (want, spoil) in &cases {
            let dir = Dir::new();
            let path = forge(&dir, &own_name(pid), |_| ());
            // The negative control: unmodified, it is trusted.
            assert_eq!(believed(believe(Some(&dir.0), &[])).phase, Phase::Ready);
            spoil(&path);
            match believe(Some(&dir.0), &[]) {
                Found::NotBelieved { path: named, why } => {
                    assert!(why.contains(want), "{want}: {why}");
                    assert_eq!(named, path);
                }
                other => panic!("{want}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_file_of_another_owner_is_not_trusted() {
    // Root can give a file away. Another user could only see a file of root's under our name if root had created it, so
    // this test needs root; a user namespace maps no other user either.
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not root: covered by tests/health.rs in a user namespace");
        return;
    }
    let dir = Dir::new();
    let path = forge(&dir, &own_name(1), |_| ());
    std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
    match believe(Some(&dir.0), &[]) {
        Found::NotBelieved { why, .. } => assert!(why.contains("4242"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_of_another_container_is_named_but_not_trusted() {
    let dir = Dir::new();
    let path = forge(&dir, "reberth-12-1.json", |document| document.writer.mount_namespace = 12);
    match believe(Some(&dir.0), &[]) {
        Found::NotBelieved { path: named, why } => {
            assert_eq!(named, path);
            assert!(why.contains("another container"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    // It is irrelevant beside a live writer of ours.
    forge(&dir, &own_name(5), |_| ());
    assert_eq!(believed(believe(Some(&dir.0), &[])).phase, Phase::Ready);
}

/// This machine's own PID 1 is not a `run`, so a file under its name may have any writer; only the name counts.
#[test]
fn of_several_live_writers() {
    let dir = Dir::new();
    let port = |asked: u16| {
        move |document: &mut Document<State>| document.state.ports = vec![PortState::new(&spec(asked), asked + 1)]
    };
    // The test's parent is alive too, and started earlier.
    let parent = nix::unistd::getppid().as_raw();
    let elder = Writer { pid: parent, ..Writer::this().unwrap() };
    let text = fs::read_to_string(format!("/proc/{parent}/stat")).unwrap();
    let start_time = text.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    let elder = Writer { start_time, ..elder };
    forge(&dir, &own_name(50), |document| {
        port(50)(document);
        document.writer = elder;
    });
    forge(&dir, &own_name(60), port(60));
    let asked = |asked: &[Spec]| believed(believe(Some(&dir.0), asked)).ports[0].asked;
    assert_eq!(asked(&[spec(50)]), 50, "the settings decide");
    assert_eq!(asked(&[spec(60)]), 60, "the settings decide");
    let own_start = Writer::this().unwrap().start_time;
    if own_start > start_time {
        assert_eq!(asked(&[]), 60, "the youngest");
    }
    forge(&dir, &own_name(1), port(70));
    assert_eq!(asked(&[spec(50)]), 70, "PID 1 before all");
}
