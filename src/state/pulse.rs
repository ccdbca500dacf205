//! Owns the sign of life of a `run` that is PID 1: a lock on its state file, which the kernel takes off at its death, and of which it tells
//! others who has it, by the pid in their own PID namespace. Must not know what the file says.
//!
//! It spares a reader the four questions to `/proc` that tell as much, a twelfth of an everyday probe. Where there is none, they are asked.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};

/// Puts it on the file, for as long as `file` is open and no other descriptor of it is closed in this program (`fcntl(2)`, "Advisory record
/// locking"). A lock for reading: `file` does not have to be open for writing, which would keep its disk from being remounted read-only.
pub(super) fn begin(file: &File) -> bool {
    fcntl(file, FcntlArg::F_SETLK(&whole(libc::F_RDLCK))).is_ok()
}

/// Whether PID 1 of the asker's own PID namespace has it. Anybody who can read the file may lock it too, but nobody else is PID 1: no pid is
/// given anew while its namespace lives, and PID 1's namespace ends with it. A stranger's lock may hide it, and then there is none.
pub(super) fn is_of_pid_1(file: &File) -> bool {
    // Asked as one who wants to write, whom a reader's lock is in the way of.
    let mut found = whole(libc::F_WRLCK);
    let told = fcntl(file, FcntlArg::F_GETLK(&mut found)).is_ok();
    told && i32::from(found.l_type) == libc::F_RDLCK && found.l_pid == 1
}

fn whole(kind: i32) -> libc::flock {
    let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 }
}
