//! Owns an app that is a supervisor itself: it has one thread, its own profile or limits, and starts the app whose calls are intercepted.
//! Must not know what is tested.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use reberth::sys::descriptor::inode;
use reberth::sys::exec::{Image, NotStarted, Setup, Started, start};
use reberth::sys::notify::{Asked, Call, Listener, copy_of, inode_of, parse_address, read_memory, socket_of};
use reberth::sys::signal::{Inherited, Signals};

use crate::app::{MARK, c, descriptors, errno, number};

/// How an app is started here.
pub fn setup(inherited: Inherited, hear_binds: bool) -> Setup<'static> {
    Setup {
        inherited,
        own_group: false,
        terminal: None,
        bound_to_parent: true,
        descriptors: &[],
        directory: None,
        hear_binds,
    }
}

/// The address passed to a bind.
pub fn address(asked: &Asked) -> std::io::Result<Option<SocketAddr>> {
    let Call::Bind { address, length, .. } = asked.call else { panic!("{asked:?} is no bind") };
    let mut bytes = [0; 128];
    let size = read_memory(asked.tid, address, &mut bytes[..length])?;
    Ok(parse_address(&bytes[..size]))
}

/// This binary as an app that connects to the socket of this name.
pub fn image(name: &str) -> Image {
    let program = std::env::current_exe().map_or_else(|_| "/proc/self/exe".into(), |path| path.into_os_string());
    Image::new(&[program, MARK.into(), OsString::from(name)], &[], false).unwrap()
}

#[derive(Default)]
pub struct Supervisor {
    listener: Option<Listener>,
    inherited: Option<Inherited>,
}

impl Supervisor {
    pub fn perform(&mut self, words: &[&str]) -> String {
        // SAFETY: calls on numbers, or on memory that outlives them.
        unsafe {
            match *words {
                // Starts an app that connects to `name`. Replies with the outcome, and the descriptors before and after.
                ["launch", name, notify] => {
                    let before = descriptors();
                    let said = self.launch(name, notify);
                    let after = descriptors();
                    let more: Vec<&String> = after.iter().filter(|fd| !before.contains(fd)).collect();
                    let less: Vec<&String> = before.iter().filter(|fd| !after.contains(fd)).collect();
                    format!("{said}; more {more:?}; less {less:?}")
                }
                // The same with no descriptor left to inspect the others.
                ["launch-blind", name, notify] => self.launch(name, notify),
                ["forget"] => {
                    self.listener = None;
                    "0".to_owned()
                }
                ["hear"] => self.hear(read),
                ["hear-copy"] => self.hear(copied),
                ["children"] => match libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) {
                    -1 => "none".to_owned(),
                    pid => format!("some ({pid})"),
                },
                ["uid", uid] => {
                    let id = number(uid).cast_unsigned();
                    libc::setgroups(0, std::ptr::null());
                    let changed = libc::setresgid(id, id, id) | libc::setresuid(id, id, id);
                    // The change makes the supervisor undumpable, and with it the app between clone and exec; an exec undoes that.
                    libc::prctl(libc::PR_SET_DUMPABLE, 1);
                    changed.to_string()
                }
                ["limit", files] => {
                    self.inherited();
                    let most = files.parse().unwrap();
                    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
                    libc::setrlimit(libc::RLIMIT_NOFILE, &limit).to_string()
                }
                ["privileges"] => libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).to_string(),
                ["hide-proc"] => hide_proc(),
                ["forbid", what, how] => forbid(what, how),
                _ => format!("unknown command {words:?}"),
            }
        }
    }

    fn launch(&mut self, name: &str, notify: &str) -> String {
        let inherited = self.inherited();
        let mut image =
            if name == "missing" { Image::new(&["/no/such/file".into()], &[], false).unwrap() } else { image(name) };
        match start(&mut image, &setup(inherited, notify == "binds")) {
            Ok(started) => self.take(started),
            Err(NotStarted::Deaf(error)) => format!("refused {}", error.raw_os_error().unwrap()),
            Err(NotStarted::Clone(error)) => format!("no process: {error}"),
        }
    }

    /// Called once: it needs a descriptor.
    fn inherited(&mut self) -> Inherited {
        *self.inherited.get_or_insert_with(|| Signals::block().unwrap().inherited())
    }

    fn take(&mut self, mut started: Started) -> String {
        if let Some(failure) = started.failure() {
            return format!("failed {}", failure.errno);
        }
        let heard = started.heard.take();
        let no_new_privs = heard.as_ref().is_some_and(|heard| heard.no_new_privs);
        self.listener = heard.map(|heard| heard.listener);
        format!("started, no_new_privs {no_new_privs}")
    }

    /// Waits for the next call, replies with what could be learned of it, and lets it through.
    fn hear(&mut self, learn: impl Fn(&Asked) -> String) -> String {
        let Some(listener) = &self.listener else { return "no listener".to_owned() };
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(20_000_u16));
        let Some(asked) = listener.receive().unwrap() else { return "no call".to_owned() };
        let said = learn(&asked);
        listener.let_through(asked.id);
        said
    }
}

/// What can be read of a call.
fn read(asked: &Asked) -> String {
    let fd = match asked.call {
        Call::Bind { fd, .. } => fd,
        Call::V6Only { fd, value } => {
            let mut bytes = [0; 4];
            assert_eq!(read_memory(asked.tid, value, &mut bytes).unwrap(), 4);
            return format!("v6only {fd} {}", i32::from_ne_bytes(bytes));
        }
        Call::Listen { fd } => return format!("listen {fd}"),
        Call::Listening { fd } => return format!("listening {fd}"),
    };
    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(0);
    let address = address(asked).map_err(errno);
    let socket = socket_of(asked.tid, fd).map(|socket| socket.kind).map_err(errno);
    format!("bind {address:?} {socket:?}")
}

/// Whether its socket could be copied.
fn copied(asked: &Asked) -> String {
    let Call::Bind { fd, .. } = asked.call else { return format!("{:?}", asked.call) };
    let same = copy_of(asked.tid, fd).map(|copy| inode(&copy) == inode_of(asked.tid, fd).ok());
    format!("{:?}", same.map_err(|error| error.kind()))
}

/// Mounts an empty directory over `/proc`, for this process alone.
fn hide_proc() -> String {
    // SAFETY: constant strings; nothing is read from the null pointers.
    unsafe {
        let none = std::ptr::null();
        let alone =
            libc::unshare(libc::CLONE_NEWNS) == 0 || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) == 0;
        let private = libc::mount(none, c("/").as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast());
        let hidden = libc::mount(c("none").as_ptr(), c("/proc").as_ptr(), c("tmpfs").as_ptr(), 0, none.cast());
        if alone && private == 0 && hidden == 0 { "0".to_owned() } else { errno().to_string() }
    }
}

/// From here on, for child programs too, a call fails with this errno; or its caller is killed (`kill`), as under a profile.
fn forbid(what: &str, how: &str) -> String {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let action = how.parse().map_or(libc::SECCOMP_RET_KILL_PROCESS, |errno: u32| libc::SECCOMP_RET_ERRNO | errno);
    // The call, the index of its relevant argument, and the bits in it that must be set.
    let (call, argument, mask) = match what {
        "seccomp" => (libc::SYS_seccomp, 16, 0),
        "speculation" => (libc::SYS_seccomp, 24, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
        "put" => (libc::SYS_ioctl, 24, libc::SECCOMP_IOCTL_NOTIF_ADDFD as u32),
        "shared-table" => (libc::SYS_clone, 16, libc::CLONE_FILES as u32),
        "thread-pidfd" => (libc::SYS_pidfd_open, 24, libc::O_EXCL as u32),
        "pidfd_getfd" => (libc::SYS_pidfd_getfd, 16, 0),
        "process_vm_readv" => (libc::SYS_process_vm_readv, 16, 0),
        _ => return format!("unknown call {what}"),
    };
    let mut steps = [
        step(0x20, 0, 0, 0),
        step(0x15, 0, 4, u32::try_from(call).unwrap()),
        step(0x20, 0, 0, argument),
        step(0x54, 0, 0, mask),
        step(0x15, 0, 1, mask),
        step(0x06, 0, 0, action),
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 7, filter: steps.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }.to_string()
}
