//! The allocator of plugins: an arena in the instance's initial memory, and another allocator for
//! requests that do not fit.
//!
//! Most calls are small. Their blocks fit into the arena, so the call never grows memory and
//! touches few of its pages. The arena has 64 lines of 4 KiB:
//!
//! - A *small* block takes the next bytes of the current line. A line counts its live blocks. At
//!   zero the whole line is free again.
//! - A *medium* block takes consecutive lines for itself.
//! - Everything else goes to the fallback, which for a plugin is the standard library's allocator.
//!
//! A line with one long-lived block, such as a cache entry, is not reused. The waste is bounded by
//! the arena: at worst all its lines are held this way, and the fallback serves every request.
//!
//! [`Lines`] makes the decisions, in offsets and safe code. [`Arena`] turns them into pointers. Its
//! tests compare both with a model.
#![allow(unsafe_code, reason = "an allocator hands out raw memory")]

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    ptr,
};

/// The allocator of a plugin.
#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: Arena<std::alloc::System> = Arena::new(std::alloc::System);

/// Size of a line: a page of the operating system, so a line touches one page. Also the largest
/// alignment that the arena serves.
const LINE: usize = 4 << 10;
/// Number of lines: one for each bit of a word, which makes the search for free lines cheap. The
/// arena of 256 KiB holds the blocks of a call of several hundred events.
const LINES: usize = u64::BITS as usize;
const ARENA: usize = LINES * LINE;
/// The largest small request. The end of a line that is too short for it is wasted, so it is a
/// quarter of a line.
const SMALL: usize = LINE / 4;
/// The largest medium request: a quarter of the arena, so that one buffer does not displace
/// everything else.
const MEDIUM: usize = ARENA / 4;

/// An allocator with an arena of its own. It must be placed where it does not move.
#[repr(C, align(4096))]
pub(crate) struct Arena<F> {
    memory: UnsafeCell<[u8; ARENA]>,
    lines: UnsafeCell<Lines>,
    fallback: F,
}

// SAFETY: without the feature `atomics` a WebAssembly module has one thread.
#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
unsafe impl<F: Sync> Sync for Arena<F> {}

impl<F> Arena<F> {
    /// An unused arena. All its bytes are zero, so a static one takes no space in the module.
    pub(crate) const fn new(fallback: F) -> Self {
        Arena { memory: UnsafeCell::new([0; ARENA]), lines: UnsafeCell::new(Lines::new()), fallback }
    }

    /// Runs a decision on the lines.
    fn with_lines<T>(&self, decide: impl FnOnce(&mut Lines) -> T) -> T {
        // SAFETY: the value is used by one thread only: it is not `Sync`, or there is no other
        // thread. Decisions allocate nothing and do not call back, so this is the only reference.
        decide(unsafe { &mut *self.lines.get() })
    }

    /// The pointer to an offset within the arena.
    fn pointer_to(&self, offset: usize) -> *mut u8 {
        self.memory.get().cast::<u8>().wrapping_add(offset)
    }

    /// The offset of a block within the arena. `None` if it belongs to the fallback.
    fn offset_of(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.memory.get().addr());
        (offset < ARENA).then_some(offset)
    }
}

// SAFETY: `Lines` hands out ranges of the arena that are aligned relative to its start, which is
// aligned to a line, and that do not overlap until they are given back. Blocks outside the arena
// are passed to the allocator that they came from, with the layout that it expects. Nothing here
// panics.
unsafe impl<F: GlobalAlloc> GlobalAlloc for Arena<F> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.with_lines(|lines| lines.take(layout.size(), layout.align())) {
            Some(offset) => self.pointer_to(offset),
            // SAFETY: the caller's promises are those of the fallback.
            None => unsafe { self.fallback.alloc(layout) },
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.with_lines(|lines| lines.take(layout.size(), layout.align())) {
            Some(offset) => {
                let block = self.pointer_to(offset);
                // SAFETY: the block was taken just now and has this size.
                unsafe { ptr::write_bytes(block, 0, layout.size()) };
                block
            }
            // SAFETY: as for `alloc`.
            None => unsafe { self.fallback.alloc_zeroed(layout) },
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset_of(block) {
            Some(offset) => self.with_lines(|lines| lines.give(offset, layout.size())),
            // SAFETY: the block is not in the arena, so it is the fallback's.
            None => unsafe { self.fallback.dealloc(block, layout) },
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = self.offset_of(block) else {
            // SAFETY: as for `dealloc`.
            return unsafe { self.fallback.realloc(block, layout, size) };
        };
        if self.with_lines(|lines| lines.resize(offset, layout.size(), size)) {
            return block;
        }
        // SAFETY: the caller promises that `size`, rounded up to the alignment, is a valid size.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: both blocks are live, so they do not overlap, and each has at least the
            // smaller size.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
            self.with_lines(|lines| lines.give(offset, layout.size()));
        }
        moved
    }
}

/// The state of the arena's lines, in offsets from its start.
struct Lines {
    /// The next byte of the current line, and the line's end. Both are zero before the first small
    /// request.
    next: usize,
    end: usize,
    /// A bit per line: it is the current line, holds small blocks, or is part of a medium block.
    used: u64,
    /// The number of live small blocks in each line. Zero in a line of a medium block.
    live: [u16; LINES],
}

impl Lines {
    const fn new() -> Self {
        Lines { next: 0, end: 0, used: 0, live: [0; LINES] }
    }

    /// Takes a block. `None` if it does not fit.
    #[inline]
    fn take(&mut self, size: usize, align: usize) -> Option<usize> {
        if size > SMALL || align > LINE {
            return self.take_lines(size, align);
        }
        let offset = (self.next + align - 1) & !(align - 1);
        if offset + size > self.end {
            return self.take_in_new_line(size);
        }
        self.next = offset + size;
        self.live[line_of(offset)] += 1;
        Some(offset)
    }

    /// Makes the lowest free line the current one, and takes a small block at its start. Low lines
    /// first: they have been touched before.
    #[cold]
    #[inline(never)]
    fn take_in_new_line(&mut self, size: usize) -> Option<usize> {
        let line = find(!self.used, 1)?;
        // The line before keeps a live block: an empty one has room for every small block.
        self.used |= mask(line, 1);
        self.live[line] = 1;
        self.next = line * LINE + size;
        self.end = (line + 1) * LINE;
        Some(line * LINE)
    }

    #[inline(never)]
    fn take_lines(&mut self, size: usize, align: usize) -> Option<usize> {
        if size > MEDIUM || align > LINE {
            return None;
        }
        let count = lines_for(size);
        let line = find(!self.used, count)?;
        self.used |= mask(line, count);
        Some(line * LINE)
    }

    /// Gives a block back, of the size that it has now.
    #[inline]
    fn give(&mut self, offset: usize, size: usize) {
        let live = &mut self.live[line_of(offset)];
        match *live {
            0 | 1 => self.give_lines(offset, size),
            _ => *live -= 1,
        }
    }

    /// Gives back a medium block, or the last small block of a line.
    #[inline(never)]
    fn give_lines(&mut self, offset: usize, size: usize) {
        let line = line_of(offset);
        if self.live[line] == 0 {
            self.used &= !mask(line, lines_for(size));
            return;
        }
        self.live[line] = 0;
        if self.is_current(line) {
            self.next = line * LINE;
        } else {
            self.used &= !mask(line, 1);
        }
    }

    /// Resizes a block in place. Always possible to a smaller size.
    #[inline]
    fn resize(&mut self, offset: usize, old: usize, new: usize) -> bool {
        let line = line_of(offset);
        if self.live[line] == 0 {
            return self.resize_lines(line, lines_for(old), new);
        }
        let is_last = offset + old == self.next && self.is_current(line);
        let fits = if is_last { offset + new <= self.end } else { new <= old };
        if is_last && fits {
            self.next = offset + new;
        }
        fits
    }

    /// Resizes a medium block, which stays one even at a small size.
    #[inline(never)]
    fn resize_lines(&mut self, line: usize, old: usize, size: usize) -> bool {
        let new = lines_for(size);
        if new <= old {
            self.used &= !mask(line + new, old - new);
            return true;
        }
        if size > MEDIUM || line + new > LINES || self.used & mask(line + old, new - old) != 0 {
            return false;
        }
        self.used |= mask(line + old, new - old);
        true
    }

    fn is_current(&self, line: usize) -> bool {
        self.end == (line + 1) * LINE
    }
}

/// The line of an offset within the arena.
fn line_of(offset: usize) -> usize {
    // The remainder changes nothing; it spares a check of bounds.
    offset / LINE % LINES
}

/// The number of lines that a medium block needs.
fn lines_for(size: usize) -> usize {
    size.div_ceil(LINE)
}

/// The bits of `count` lines from `first` on, of at most [`LINES`] in all.
fn mask(first: usize, count: usize) -> u64 {
    match count {
        0 => 0,
        _ => u64::MAX >> (LINES - count) << first,
    }
}

/// The first of the lowest `count` consecutive bits that are set.
fn find(free: u64, count: usize) -> Option<usize> {
    let (mut starts, mut found) = (free, 1);
    while found < count {
        let step = found.min(count - found);
        starts &= starts >> step;
        found += step;
    }
    (starts != 0).then(|| starts.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests;
