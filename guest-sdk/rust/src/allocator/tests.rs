//! The arena against a model: random requests, whose blocks must be aligned, disjoint and keep
//! their contents. With a seed per run, so a failure can be repeated.

use std::{
    alloc::System,
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use super::*;

/// A fallback with a memory limit, which checks that it gets back what it handed out.
struct Limited {
    left: Cell<usize>,
    blocks: RefCell<HashMap<*mut u8, Layout>>,
}

// SAFETY: everything is passed on to the system's allocator, unless it is refused.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(left) = self.left.get().checked_sub(layout.size()) else { return ptr::null_mut() };
        self.left.set(left);
        // SAFETY: the caller's promises are the same.
        let block = unsafe { System.alloc(layout) };
        self.blocks.borrow_mut().insert(block, layout);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        assert_eq!(self.blocks.borrow_mut().remove(&block), Some(layout), "the block is not the fallback's");
        self.left.set(self.left.get() + layout.size());
        // SAFETY: the block came from there with this layout.
        unsafe { System.dealloc(block, layout) };
    }
}

/// A live block, filled with a pattern that begins with `first`.
struct Block {
    pointer: *mut u8,
    layout: Layout,
    first: u8,
}

impl Block {
    fn pattern(&self, size: usize) -> &'static [u8] {
        static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| (0..=250).cycle().take(8 * MEDIUM).collect());
        &BYTES[usize::from(self.first)..][..size]
    }

    fn fill(&self) {
        let size = self.layout.size();
        // SAFETY: the block is live and has this size.
        unsafe { ptr::copy_nonoverlapping(self.pattern(size).as_ptr(), self.pointer, size) };
    }

    fn is_intact(&self) -> bool {
        let size = self.layout.size();
        // SAFETY: the block is live, has this size, and was filled.
        unsafe { std::slice::from_raw_parts(self.pointer, size) == self.pattern(size) }
    }
}

/// An arena and its live blocks by address.
struct Model {
    arena: Box<Arena<Limited>>,
    blocks: BTreeMap<usize, Block>,
    filled: u8,
}

impl Model {
    fn new(fallback_bytes: usize) -> Self {
        let fallback = Limited { left: Cell::new(fallback_bytes), blocks: RefCell::default() };
        Model { arena: Box::new(Arena::new(fallback)), blocks: BTreeMap::new(), filled: 0 }
    }

    /// Allocates a block. Returns its address, or `None` if it was refused.
    fn take(&mut self, size: usize, align: usize) -> Option<usize> {
        // SAFETY: no test asks for no bytes.
        self.insert(|arena, layout| unsafe { arena.alloc(layout) }, size, align)
    }

    fn take_zeroed(&mut self, size: usize, align: usize) -> Option<usize> {
        let zeroed = |arena: &Arena<Limited>, layout| {
            // SAFETY: no test asks for no bytes, and the block has this size.
            unsafe {
                let pointer = arena.alloc_zeroed(layout);
                let bytes = if pointer.is_null() { &[] } else { std::slice::from_raw_parts(pointer, size) };
                assert!(bytes.iter().all(|byte| *byte == 0));
                pointer
            }
        };
        self.insert(zeroed, size, align)
    }

    fn insert(
        &mut self,
        allocate: impl FnOnce(&Arena<Limited>, Layout) -> *mut u8,
        size: usize,
        align: usize,
    ) -> Option<usize> {
        let layout = Layout::from_size_align(size, align).unwrap();
        let pointer = allocate(&self.arena, layout);
        (!pointer.is_null()).then(|| self.add(pointer, layout))
    }

    fn add(&mut self, pointer: *mut u8, layout: Layout) -> usize {
        let start = pointer.addr();
        assert_eq!(start % layout.align(), 0, "{layout:?}");
        let before = self.blocks.range(..start + layout.size()).next_back();
        assert!(before.is_none_or(|(at, other)| at + other.layout.size() <= start), "two blocks overlap");
        self.filled = self.filled.wrapping_add(1);
        let block = Block { pointer, layout, first: self.filled };
        block.fill();
        self.blocks.insert(start, block);
        start
    }

    fn give(&mut self, address: usize) {
        let block = self.blocks.remove(&address).unwrap();
        assert!(block.is_intact(), "the contents have changed");
        // SAFETY: the block is live and has this layout.
        unsafe { self.arena.dealloc(block.pointer, block.layout) };
    }

    /// Resizes a block. Returns its address, or `None` if that was refused and it stays as it is.
    fn resize(&mut self, address: usize, size: usize) -> Option<usize> {
        let mut block = self.blocks.remove(&address).unwrap();
        // SAFETY: the block is live and has this layout.
        let moved = unsafe { self.arena.realloc(block.pointer, block.layout, size) };
        if moved.is_null() {
            self.blocks.insert(address, block);
            return None;
        }
        let kept = block.layout.size().min(size);
        (block.pointer, block.layout) = (moved, Layout::from_size_align(size, block.layout.align()).unwrap());
        // SAFETY: the block is live, and as many bytes of it were filled.
        let contents = unsafe { std::slice::from_raw_parts(moved, kept) };
        assert!(contents == block.pattern(kept), "the contents have changed");
        Some(self.add(moved, block.layout))
    }

    fn is_in_arena(&self, address: usize) -> bool {
        address.wrapping_sub(self.arena.memory.get().addr()) < ARENA
    }

    /// Gives back every block. Afterwards nothing is held.
    fn finish(mut self) {
        for address in self.blocks.keys().copied().collect::<Vec<_>>() {
            self.give(address);
        }
        self.arena.with_lines(|lines| {
            let current = if lines.end == 0 { 0 } else { mask(lines.end / LINE - 1, 1) };
            assert_eq!((lines.used, lines.live), (current, [0; LINES]));
            assert_eq!(lines.next, lines.end.saturating_sub(LINE), "the current line is empty");
        });
        assert!(self.arena.fallback.blocks.borrow().is_empty());
    }
}

/// A small random number generator: xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % bound
    }

    /// A size of any magnitude up to a little more than the arena serves.
    fn size(&mut self, largest: usize) -> usize {
        let magnitude = self.below(largest.ilog2() as usize + 1);
        (1 << magnitude) + self.below(1 << magnitude)
    }

    fn align(&mut self) -> usize {
        1 << if self.below(20) == 0 { self.below(15) } else { self.below(5) }
    }

    fn pick(&mut self, model: &Model) -> Option<usize> {
        let count = model.blocks.len();
        (count > 0).then(|| *model.blocks.keys().nth(self.below(count)).unwrap())
    }
}

/// Random requests. `live` is the number of blocks to hover around, `largest` bounds most sizes.
fn run(seed: u64, live: usize, largest: usize, fallback_bytes: usize) {
    let (mut model, mut random) = (Model::new(fallback_bytes), Random(seed | 1));
    for _ in 0..3_000 {
        let grows = random.below(2 * live) >= model.blocks.len();
        match (grows, random.below(8)) {
            (true, 0) => drop(model.take_zeroed(random.size(largest), random.align())),
            (true, 1..6) => drop(model.take(random.size(largest), random.align())),
            (false, 0..6) => {
                if let Some(address) = random.pick(&model) {
                    model.give(address);
                }
            }
            _ => {
                if let Some(address) = random.pick(&model) {
                    let size = random.size(largest);
                    let (shrinks, arena) = (size <= model.blocks[&address].layout.size(), model.is_in_arena(address));
                    let moved = model.resize(address, size);
                    assert!(!(shrinks && arena) || moved == Some(address), "a block shrinks in place");
                }
            }
        }
    }
    model.finish();
}

#[test]
fn random_requests_behave_as_the_model() {
    for seed in 1..=8 {
        run(seed, 10, 2 * MEDIUM, usize::MAX);
        run(seed, 200, SMALL, usize::MAX);
        run(seed, 60, 8 * LINE, usize::MAX);
        run(seed, 1_500, LINE, usize::MAX);
    }
}

#[test]
fn random_requests_under_a_memory_limit_are_served_or_refused() {
    for seed in 1..=8 {
        run(seed, 30, 2 * MEDIUM, 0);
        run(seed, 1_500, LINE, ARENA / 2);
    }
}

#[test]
fn a_request_beyond_the_limit_is_refused_and_harms_no_block() {
    let mut model = Model::new(0);
    assert_eq!(model.take(MEDIUM + 1, 1), None);
    assert_eq!(model.take(1, 2 * LINE), None);
    let kept = model.take(SMALL, 1).unwrap();
    while model.take(SMALL, 1).is_some() {}
    assert_eq!(model.blocks.len(), ARENA / SMALL, "the whole arena was handed out");
    assert_eq!(model.resize(kept, SMALL + 1), None);
    assert_eq!(model.take(1, 1), None);
    assert_eq!(model.resize(kept, 1), Some(kept));
    model.finish();
}

#[test]
fn a_line_is_used_again_when_its_blocks_are_gone() {
    let mut model = Model::new(0);
    let long_lived = model.take(16, 8).unwrap();
    for _ in 0..10 * LINES {
        let blocks: Vec<usize> = (0..20).map(|_| model.take(SMALL, 8).unwrap()).collect();
        blocks.into_iter().for_each(|block| model.give(block));
    }
    model.arena.with_lines(|lines| assert!(lines.used.count_ones() <= 2, "{:b}", lines.used));
    model.give(long_lived);
    model.finish();
}

#[test]
fn long_lived_blocks_waste_no_more_than_the_arena() {
    let mut model = Model::new(1 << 20);
    for _ in 0..4 * LINES {
        let temporary: Vec<usize> = (0..4).map(|_| model.take(SMALL, 8).unwrap()).collect();
        model.take(16, 8).unwrap();
        temporary.into_iter().for_each(|block| model.give(block));
    }
    let held: usize = model.arena.fallback.blocks.borrow().values().map(Layout::size).sum();
    assert!(held <= 4 * LINES * 16, "{held}");
    model.finish();
}

#[test]
fn the_last_block_of_a_line_grows_in_place() {
    let mut model = Model::new(0);
    let other = model.take(100, 1).unwrap();
    let block = model.take(10, 1).unwrap();
    assert_eq!(model.resize(block, LINE - 100), Some(block));
    assert_eq!(model.resize(block, 10), Some(block));
    assert_eq!(model.take(10, 1), Some(block + 10), "the bytes given up are used again");
    assert_ne!(model.resize(other, 101), Some(other), "another block follows");
    model.finish();
}

#[test]
fn a_block_does_not_grow_into_the_next_line() {
    let mut model = Model::new(0);
    let first: Vec<usize> = (0..LINE / SMALL).map(|_| model.take(SMALL, 1).unwrap()).collect();
    // Makes the next line the current one, and empties it.
    let next = model.take(1, 1).unwrap();
    model.give(next);
    let last = first[first.len() - 1];
    assert_eq!(next, last + SMALL);
    let moved = model.resize(last, SMALL + 1).unwrap();
    assert_ne!(moved, last);
    model.finish();
}

#[test]
fn a_medium_block_grows_into_free_lines_and_keeps_its_place_when_it_shrinks() {
    let mut model = Model::new(0);
    let block = model.take(2 * LINE, 8).unwrap();
    assert_eq!(model.resize(block, MEDIUM), Some(block));
    assert_eq!(model.resize(block, MEDIUM + 1), None);
    assert_eq!(model.resize(block, 1), Some(block));
    let behind = model.take(LINE, 8).unwrap();
    assert_eq!(behind, block + LINE, "the lines given up are used again");
    assert_eq!(model.resize(block, LINE), Some(block));
    assert_ne!(model.resize(block, LINE + 1), Some(block));
    model.finish();
}

#[test]
fn consecutive_bits_are_found_lowest_first() {
    for (free, count, found) in [
        (u64::MAX, 64, Some(0)),
        (u64::MAX << 1, 64, None),
        (u64::MAX << 1, 63, Some(1)),
        (0b1011_0111, 1, Some(0)),
        (0b1011_0111, 3, Some(0)),
        (0b1011_0110, 3, None),
        (1 << 63, 1, Some(63)),
        (0, 1, None),
    ] {
        assert_eq!(find(free, count), found, "{free:b}, {count}");
    }
    assert_eq!((mask(0, 64), mask(63, 1), mask(3, 2), mask(64, 0)), (u64::MAX, 1 << 63, 0b11000, 0));
}
