//! Owns reberth's own memory: releasing what a long idle time does not need. Must not know when that time begins.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

/// Unmaps the pages of reberth's own code and constants. When they are used again, the kernel maps them from its page
/// cache, a few at a time: an init that sleeps for weeks needs the few that read signals, not those that parsed the
/// command line.
///
/// Touches only read-only segments, so nothing that could differ from the file is lost (`madvise(2)`, MADV_DONTNEED on
/// a private file mapping).
pub fn release_code() {
    // SAFETY: the callback reads only its arguments and keeps nothing.
    unsafe { libc::dl_iterate_phdr(Some(release_segments), std::ptr::null_mut()) };
}

/// Called for the program itself first. The return value ends the iteration there, so no library or vDSO is touched.
extern "C" fn release_segments(object: *mut libc::dl_phdr_info, _size: libc::size_t, _data: *mut c_void) -> c_int {
    // SAFETY: the C library passes a valid description, which lives through this call.
    let object = unsafe { &*object };
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok());
    let (Some(page), false) = (page, object.dlpi_phdr.is_null()) else { return 1 };
    // SAFETY: the program headers are mapped for as long as the program runs, and `dlpi_phnum` counts them.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let start = usize::try_from(object.dlpi_addr + header.p_vaddr).unwrap_or(0);
        let end = start.saturating_add(usize::try_from(header.p_memsz).unwrap_or(0));
        // Skip a page that a writable segment shares.
        let (first, last) = (start.next_multiple_of(page), end / page * page);
        if first < last {
            // SAFETY: whole pages of a read-only file mapping: the next read gets the same bytes again. Failure changes
            // nothing.
            unsafe { libc::madvise(first as *mut c_void, last - first, libc::MADV_DONTNEED) };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_continues_afterwards() {
        let before = "a constant of this program".to_owned();
        super::release_code();
        assert_eq!(before, "a constant of this program");
    }
}
