//! Owns what `/proc` shows about the processes that hold a socket: pids, command lines, users. Must not know ports.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use socket2::SockRef;

use crate::sys::listing::Listing;
use crate::sys::{descriptor, pidfd};

/// Which processes have which socket open, as far as we may see.
#[derive(Debug, Default)]
pub struct Search {
    /// Inode to pids, in the order of the pids.
    pub pids: HashMap<u64, Vec<i32>>,
    /// Users of processes whose descriptors we may not read.
    pub refused: HashSet<u32>,
    /// False: there is no `/proc` to search.
    pub looked: bool,
}

/// How many descriptors of each process are searched first: a listener is opened early, and a process with many
/// thousand connections would cost as many system calls. The rest is searched only for sockets that were not found.
const EARLY: usize = 1024;

/// How many processes are searched between two calls of `go_on`: about a millisecond.
const STRIDE: usize = 64;

/// Searches every visible process's descriptors for these socket inodes. Takes milliseconds for hundreds of processes,
/// and a good part of a second for ten thousand. `go_on` is called before each [`STRIDE`] of them; once it returns
/// false, the search ends with what was found so far.
pub fn search(inodes: &HashSet<u64>, go_on: &mut dyn FnMut() -> bool) -> Search {
    let mut found = Search::default();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    let mut pids: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    found.looked = !pids.is_empty();
    if inodes.is_empty() {
        return found;
    }
    pids.sort_unstable();
    let mut going = true;
    let go_on: &mut dyn FnMut() -> bool = &mut || {
        going = going && go_on();
        going
    };
    let more = search_in(&pids, inodes, EARLY, &mut found, go_on);
    let left: HashSet<u64> = inodes.iter().filter(|inode| !found.pids.contains_key(inode)).copied().collect();
    if !left.is_empty() {
        search_in(&more, &left, usize::MAX, &mut found, go_on);
    }
    found
}

/// Adds to `found`; returns the pids with more descriptors than were searched.
fn search_in(
    pids: &[i32],
    inodes: &HashSet<u64>,
    most: usize,
    found: &mut Search,
    go_on: &mut dyn FnMut() -> bool,
) -> Vec<i32> {
    let mut more = Vec::new();
    for pid in pids.chunks(STRIDE).take_while(|_| go_on()).flatten() {
        match sockets_of(*pid, inodes, most) {
            Ok((mine, all)) => {
                mine.into_iter().for_each(|inode| found.pids.entry(inode).or_default().push(*pid));
                more.extend((!all).then_some(*pid));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                found.refused.extend(fs::metadata(format!("/proc/{pid}")).map(|entry| entry.uid()));
            }
            // It exited meanwhile.
            Err(_) => {}
        }
    }
    more
}

/// True if `pid` exists and we may not read its descriptors.
pub fn is_hidden(pid: i32) -> bool {
    let looked = sockets_of(pid, &HashSet::from([0]), usize::MAX);
    looked.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Which of `wanted`, inodes of sockets, `pid` has among its first `most` descriptors; true: it has no more
/// descriptors, or all were found.
///
/// # Errors
/// The process has exited, or we may not read its descriptors.
pub fn sockets_of(pid: i32, wanted: &HashSet<u64>, most: usize) -> io::Result<(HashSet<u64>, bool)> {
    let listing = Listing::of(pid)?;
    let mut found = HashSet::new();
    for (position, fd) in listing.descriptors().enumerate() {
        if position >= most {
            return Ok((found, false));
        }
        match listing.socket(fd) {
            Ok(socket) => found.extend(socket.filter(|inode| wanted.contains(inode))),
            // Root in a container may list every directory (CAP_DAC_OVERRIDE) but follow only its own links (no
            // CAP_SYS_PTRACE).
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) => {}
        }
        if wanted.len() == found.len() {
            break;
        }
    }
    Ok((found, true))
}

/// Whether `pid` has set SO_REUSEPORT on its socket with this inode. No kernel list has this, so it is read from a copy
/// of the socket. `None`: we may not inspect it.
pub fn shares(pid: i32, inode: u64) -> Option<bool> {
    let listing = Listing::of(pid).ok()?;
    let fd = listing.descriptors().take(EARLY).find(|fd| listing.socket(*fd).ok().flatten() == Some(inode))?;
    let copy = pidfd::open(pid).and_then(|held| pidfd::copy(&held, fd)).ok()?;
    // The descriptor may be another socket by now.
    let same = descriptor::inode(&copy) == Some(inode);
    SockRef::from(&copy).reuse_port().ok().filter(|_| same)
}

/// What a message says about a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its command line, on one line; without one, its name in brackets.
    pub command: Option<String>,
    /// Its effective uid.
    pub uid: Option<u32>,
    pub container: Option<(String, Engine)>,
    /// When it started, in seconds since 1970.
    pub since: Option<u64>,
}

/// Reads the facts; what cannot be read is `None`.
pub fn facts(pid: i32) -> Facts {
    let read = |name: &str| {
        fs::read(format!("/proc/{pid}/{name}")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let status = read("status").unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let name = || field("Name:").map(|name| format!("[{name}]"));
    Facts {
        command: read("cmdline").map(|line| one_line(&line)).filter(|line| !line.is_empty()).or_else(name),
        uid: field("Uid:").and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok()),
        container: read("cgroup").as_deref().and_then(container),
        since: read("stat").as_deref().and_then(started),
    }
}

/// Arguments are NUL-terminated. A control character would break the log line.
pub(crate) fn one_line(arguments: &str) -> String {
    arguments.trim_end_matches('\0').chars().map(|c| if c.is_control() { ' ' } else { c }).take(4096).collect()
}

/// The container's id in `/proc/PID/cgroup`: 64 hexadecimal digits, whatever the engine puts around them. The last one
/// counts, because a nested container (kind, Docker in Docker) has the ids of both.
pub(crate) fn container(cgroup: &str) -> Option<(String, Engine)> {
    let mut runs = cgroup.split(|c: char| !c.is_ascii_hexdigit());
    let id = runs.rfind(|run| run.len() == 64)?;
    let before = cgroup.rsplit_once(id).map_or("", |(before, _)| before);
    let line = before.rsplit('\n').next().unwrap_or_default();
    let engine = if line.contains("kubepods")
        || line.contains("kubelet")
        || line.contains("cri-containerd-")
        || line.contains("crio-")
    {
        Engine::Cri
    } else if line.ends_with("docker-") || line.ends_with("/docker/") {
        Engine::Docker
    } else if line.ends_with("libpod-") {
        Engine::Podman
    } else {
        Engine::Other
    };
    Some((id.to_owned(), engine))
}

/// Which engine runs a container, by the name of its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Docker,
    Podman,
    /// containerd or CRI-O, for the kubelet.
    Cri,
    Other,
}

/// The id of our own container, if the cgroup's name is visible.
pub fn own_container() -> Option<String> {
    container(&fs::read_to_string("/proc/self/cgroup").ok()?).map(|(id, _)| id)
}

/// Field 22 of `/proc/PID/stat` is in ticks (USER_HZ, 100 per second) since boot; the name in field 2 may contain
/// anything, even `)`.
pub(crate) fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot.saturating_add(ticks / 100))
}

/// The name of `uid` in `/etc/passwd`: a static binary has no NSS, and does not need it for this.
pub fn user(uid: u32) -> Option<String> {
    let passwd = fs::read("/etc/passwd").ok()?;
    name_in(&String::from_utf8_lossy(&passwd), uid)
}

pub(crate) fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Engine, STRIDE, Search, container, name_in, one_line, search, search_in};

    #[test]
    fn a_long_search_can_be_stopped() {
        // Above the largest possible pid: no such process.
        let many = vec![i32::MAX; 10 * STRIDE];
        for (most, expected) in [(0, 1), (3, 4), (99, 10)] {
            let mut asked = 0;
            let mut go_on = || {
                asked += 1;
                asked <= most
            };
            search_in(&many, &HashSet::from([1]), 16, &mut Search::default(), &mut go_on);
            assert_eq!(asked, expected);
        }
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(&socket).unwrap().st_ino;
        let all = search(&HashSet::from([inode]), &mut || true);
        assert!(all.pids.contains_key(&inode), "{all:?}");
        let none = search(&HashSet::from([inode]), &mut || false);
        assert!(none.pids.is_empty() && none.looked, "{none:?}");
    }

    #[test]
    fn container_ids_of_every_engine() {
        let id = "0123456789abcdef".repeat(4);
        let inner = "f".repeat(64);
        let table = [
            (format!("0::/system.slice/docker-{id}.scope\n"), Some((&id, Engine::Docker))),
            (format!("12:cpu:/docker/{id}\n11:memory:/docker/{id}\n"), Some((&id, Engine::Docker))),
            (
                format!("0::/kubepods.slice/kubepods-pod1234.slice/cri-containerd-{id}.scope\n"),
                Some((&id, Engine::Cri)),
            ),
            (format!("0::/machine.slice/libpod-{id}.scope/container\n"), Some((&id, Engine::Podman))),
            (format!("0::/docker/{id}/kubelet/{inner}\n"), Some((&inner, Engine::Cri))),
            (format!("0::/default/{id}\n"), Some((&id, Engine::Other))),
            ("0::/\n".to_owned(), None),
            ("0::/user.slice/user-1000.slice\n".to_owned(), None),
        ];
        for (cgroup, expected) in table {
            let expected = expected.map(|(id, engine)| (id.clone(), engine));
            assert_eq!(container(&cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn command_lines_stay_on_one_line() {
        assert_eq!(one_line("python3\0-c\0a\nb\0"), "python3 -c a b");
        assert_eq!(one_line(""), "");
    }

    #[test]
    fn users_by_uid() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:7:\nwww-data:x:33:33::/:/bin/false\n";
        assert_eq!(name_in(passwd, 33).as_deref(), Some("www-data"));
        assert_eq!(name_in(passwd, 0).as_deref(), Some("root"));
        assert_eq!(name_in(passwd, 7), None);
        assert_eq!(name_in(passwd, 1), None);
    }
}
