//! Owns the page on which the child stands between clone and exec, and on which it leaves word. Must not know what is done about it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::atomic::AtomicI32;

/// Where the child stands between clone and exec, and leaves word. Shared memory, because emulators turn vfork into fork.
pub(super) struct Report {
    page: *mut c_void,
    size: usize,
}

/// Stack of the child between clone and exec; it calls a handful of system calls.
const CHILD_STACK: usize = 32 * 1024;

/// Bytes above that stack: what the child has to tell, and no more than keeps the stack 16-aligned.
const ABOVE_STACK: usize = 16;

/// What the child has to tell, in the memory it shares with us.
#[repr(C)]
#[derive(Default)]
pub(super) struct Told {
    /// Of a failed exec; 0 while there is none.
    pub(super) errno: AtomicI32,
    /// The number of the listener (`sys::notify`) plus one; 0: there is none; negative: the errno of the filter that could not be installed.
    pub(super) listener: AtomicI32,
    /// Not 0: `no_new_privs` had to be set.
    pub(super) no_new_privs: AtomicI32,
}

const _: () = assert!(std::mem::size_of::<Told>() <= ABOVE_STACK);

impl Report {
    pub(super) fn new() -> io::Result<Self> {
        let size = CHILD_STACK;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping; no address is asked for.
        let page = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if page == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { page, size }) }
    }

    /// It lies at the high end, above the child's stack, which grows down from it: on one page with what the child touches first.
    pub(super) fn told(&self) -> &Told {
        // SAFETY: the mapping is zeroed, lives as long as `self`, and has room for it there; the place is aligned to ABOVE_STACK.
        unsafe { &*self.stack_top().cast::<Told>() }
    }

    pub(super) fn stack_top(&self) -> *mut c_void {
        // SAFETY: inside the mapping; its end is page-aligned, so this is 16-aligned as the ABI wants it.
        unsafe { self.page.cast::<u8>().add(self.size - ABOVE_STACK).cast() }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which no reference is left.
        unsafe { libc::munmap(self.page, self.size) };
    }
}
