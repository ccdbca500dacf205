//! Owns where small allocations come from: a fixed arena first, then the C library. Must not know what they are for.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// In bytes. Enough for the settings and one health query; pages that are never touched cost nothing.
const SIZE: usize = 32 * 1024;

/// A healthcheck runs for a third of a millisecond, and would spend a fifth of it in `mmap`, `munmap` and first touches
/// of pages, because musl returns every group of freed allocations to the kernel immediately. The arena hands out
/// pieces one after the other and takes back only the last one. When it is full, the C library takes over, so a
/// long-running process spends no more than these bytes.
pub struct Arena {
    room: UnsafeCell<[u8; SIZE]>,
    /// End of the used part. Handing out a piece acquires what taking one back has released: nothing else orders one
    /// thread's last use of a piece before the next thread's first.
    used: AtomicUsize,
}

// SAFETY: the arena is only reached through pieces, and no two overlap: each comes from one successful exchange of
// `used`.
unsafe impl Sync for Arena {}

impl Arena {
    /// An empty arena.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { room: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0) }
    }

    fn offset(&self, piece: *mut u8) -> Option<usize> {
        piece.addr().checked_sub(self.room.get().addr()).filter(|offset| *offset < SIZE)
    }

    fn cut(&self, layout: Layout) -> Option<*mut u8> {
        let base = self.room.get().addr();
        let mut used = self.used.load(Relaxed);
        loop {
            let begin = (base + used).checked_next_multiple_of(layout.align())? - base;
            let end = begin.checked_add(layout.size()).filter(|end| *end <= SIZE)?;
            match self.used.compare_exchange_weak(used, end, Acquire, Relaxed) {
                Ok(_) => return Some(self.room.get().cast::<u8>().wrapping_add(begin)),
                Err(now) => used = now,
            }
        }
    }

    /// Moves the end of the last piece; false if another piece follows it.
    fn move_end(&self, from: usize, to: usize) -> bool {
        to <= SIZE && self.used.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }
}

// SAFETY: pieces never overlap, because `used` only moves back over the last one. Memory from `System` is returned to
// `System`.
unsafe impl GlobalAlloc for Arena {
    // Called from everywhere: inlining it costs sixteen kilobytes.
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's guarantees are passed on.
        self.cut(layout).unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    #[inline(never)]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        match self.offset(piece) {
            Some(begin) => {
                self.move_end(begin + layout.size(), begin);
            }
            // SAFETY: not in the arena, so it came from `System`.
            None => unsafe { System.dealloc(piece, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(begin) = self.offset(piece) else {
            // SAFETY: not in the arena, so it came from `System`.
            return unsafe { System.realloc(piece, layout, size) };
        };
        if begin.checked_add(size).is_some_and(|end| self.move_end(begin + layout.size(), end)) {
            return piece;
        }
        if size <= layout.size() {
            return piece;
        }
        // SAFETY: the caller guarantees that `size` is valid for the alignment; the old and the new piece do not
        // overlap.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                piece.copy_to_nonoverlapping(new, layout.size().min(size));
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn pieces_are_consecutive_and_the_last_is_taken_back() {
        let arena = Arena::new();
        // SAFETY: every piece is deallocated with its own layout, and not used afterwards.
        unsafe {
            let one = arena.alloc(layout(3, 1));
            let two = arena.alloc(layout(8, 64));
            assert_eq!(two.addr() % 64, 0);
            assert!(two.addr() >= one.addr() + 3);
            two.write_bytes(7, 8);
            // The last piece grows in place; one in the middle moves, with its contents.
            assert_eq!(arena.realloc(two, layout(8, 64), 100), two);
            one.write_bytes(5, 3);
            let moved = arena.realloc(one, layout(3, 1), 10);
            assert_eq!(std::slice::from_raw_parts(moved, 3), [5, 5, 5]);
            arena.dealloc(moved, layout(10, 1));
            assert_eq!(arena.alloc(layout(10, 1)), moved);
        }
    }

    #[test]
    fn what_does_not_fit_comes_from_the_c_library() {
        let arena = Arena::new();
        // SAFETY: as above.
        unsafe {
            let large = arena.alloc(layout(SIZE + 1, 8));
            assert!(!large.is_null() && arena.offset(large).is_none());
            let larger = arena.realloc(large, layout(SIZE + 1, 8), SIZE * 4);
            arena.dealloc(larger, layout(SIZE * 4, 8));
            let piece = arena.alloc(layout(16, 8));
            piece.write_bytes(9, 16);
            let outside = arena.realloc(piece, layout(16, 8), SIZE * 2);
            assert!(arena.offset(outside).is_none());
            assert_eq!(std::slice::from_raw_parts(outside, 16), [9; 16]);
            arena.dealloc(outside, layout(SIZE * 2, 8));
            let zeroed = arena.alloc_zeroed(layout(64, 8));
            assert_eq!(std::slice::from_raw_parts(zeroed, 64), [0; 64], "a piece used before is cleared");
        }
    }

    #[test]
    fn threads_never_get_the_same_piece() {
        let arena = Arena::new();
        std::thread::scope(|scope| {
            for mark in 0..4u8 {
                let arena = &arena;
                scope.spawn(move || {
                    for round in 1..2000 {
                        let layout = layout(round % 40 + 1, 1 << (round % 4));
                        // SAFETY: as above.
                        unsafe {
                            let piece = arena.alloc(layout);
                            piece.write_bytes(mark, layout.size());
                            assert!(std::slice::from_raw_parts(piece, layout.size()).iter().all(|byte| *byte == mark));
                            arena.dealloc(piece, layout);
                        }
                    }
                });
            }
        });
    }
}
