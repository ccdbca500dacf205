//! Owns the memory that holds the child's stack between clone and exec, and the child's report. Must not know what the
//! report leads to.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::atomic::AtomicI32;

/// The child's stack between clone and exec, with its report above. Shared memory, because emulators turn vfork into
/// fork.
pub(super) struct Memory {
    page: *mut c_void,
    size: usize,
}

/// Size of the child's stack between clone and exec; it makes a handful of system calls.
const CHILD_STACK: usize = 32 * 1024;

/// Bytes above that stack: room for the report, and a multiple of 16, so that the stack stays aligned.
const ABOVE_STACK: usize = 16;

/// What the child reports, in the memory it shares with us.
#[repr(C)]
#[derive(Default)]
pub(super) struct Report {
    /// The errno of a failed exec; 0 if none has failed.
    pub(super) errno: AtomicI32,
    /// The listener's number (`sys::notify`) plus one; 0: no listener; negative: the errno with which installing the
    /// filter failed.
    pub(super) listener: AtomicI32,
    /// Not 0: `no_new_privs` had to be set.
    pub(super) no_new_privs: AtomicI32,
}

const _: () = assert!(std::mem::size_of::<Report>() <= ABOVE_STACK);

impl Memory {
    pub(super) fn new() -> io::Result<Self> {
        let size = CHILD_STACK;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let page = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if page == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { page, size }) }
    }

    /// The report lies at the high end, where the stack starts to grow down: on the page that the child touches first.
    pub(super) fn report(&self) -> &Report {
        // SAFETY: the mapping is zeroed, lives as long as `self`, and has room for the report there, aligned to
        // ABOVE_STACK.
        unsafe { &*self.stack_top().cast::<Report>() }
    }

    pub(super) fn stack_top(&self) -> *mut c_void {
        // SAFETY: inside the mapping; its end is page-aligned, so this is 16-aligned as the ABI requires.
        unsafe { self.page.cast::<u8>().add(self.size - ABOVE_STACK).cast() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing references any more.
        unsafe { libc::munmap(self.page, self.size) };
    }
}
