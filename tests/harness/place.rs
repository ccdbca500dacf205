//! Owns places a test has to itself: a temporary directory and a free port. Must not know what is put there.

use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A directory of one test, removed with everything in it when it goes out of scope.
#[derive(Debug)]
pub struct TempDir(PathBuf);

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A word no other test of this run, and no other run on this machine, has.
pub fn unique() -> String {
    format!("{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// Held by whoever forks, and by whoever has a descriptor open whose close must be the last one: a fork in between carries it along until
/// its exec. A file that was written could not be executed meanwhile (ETXTBSY), and a port not be bound.
pub fn forking() -> MutexGuard<'static, ()> {
    static FORKING: Mutex<()> = Mutex::new(());
    FORKING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TempDir {
    #[track_caller]
    pub fn new() -> Self {
        // Cargo's own directory for integration tests: on the disk of the build, so that scripts in it may be executed.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("t{}", unique()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file with these permissions and returns its path.
    #[track_caller]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.0.join(name);
        let _alone = forking();
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
        file.write_all(content.as_ref()).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A TCP port that nobody holds on any address, below the range the kernel takes ports from for outgoing connections, and never
/// the same one twice in a run. Neighbouring runs start elsewhere in the range.
#[track_caller]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let _alone = forking();
    for _ in 0..2_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + u16::try_from((std::process::id().wrapping_mul(131) + step) % 20_000).unwrap();
        let free = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
        if free.is_ok() {
            return port;
        }
    }
    panic!("no free port below the ephemeral range");
}
