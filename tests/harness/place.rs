//! Owns what belongs to one test alone: a temporary directory and a free port. Must not know how they are used.

use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The directory of one test, removed with its contents when it goes out of scope.
#[derive(Debug)]
pub struct TempDir(PathBuf);

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A word unique among all tests of this run, and all runs on this machine.
pub fn unique() -> String {
    format!("{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// Held by code that forks, and by code that needs its close of a descriptor to be the last one: a fork in between copies the descriptor
/// until its exec. Meanwhile a file just written cannot be executed (ETXTBSY), and a port cannot be bound.
pub fn forking() -> MutexGuard<'static, ()> {
    static FORKING: Mutex<()> = Mutex::new(());
    FORKING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TempDir {
    #[track_caller]
    pub fn new() -> Self {
        // Cargo's own directory for integration tests: it is on the disk of the build, where scripts may be executed.
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

/// A TCP port that no process holds on any address, below the range for outgoing connections, and never the same one twice in a run.
/// Parallel runs start elsewhere in the range.
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
