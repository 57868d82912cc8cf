//! The run-time part of the bindings: memory that crosses the border to the host, by the rules of
//! the component model's canonical ABI. The generated code names these items, so their signatures
//! are `wit-bindgen`'s.
//!
//! It stands in for the crate `wit-bindgen`, so that an author's build has no build script to
//! compile and run.
#![allow(unsafe_code, reason = "memory crosses the border to the host as addresses and lengths")]

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc},
    ptr::{self, NonNull},
};

/// A block of memory that holds an argument or a result during a call.
pub(crate) struct Cleanup {
    start: NonNull<u8>,
    layout: Layout,
}

impl Cleanup {
    /// Allocates a block, which is freed when the `Cleanup` is dropped. A block without bytes is
    /// null and needs no `Cleanup`.
    pub(crate) fn new(layout: Layout) -> (*mut u8, Option<Cleanup>) {
        if layout.size() == 0 {
            return (ptr::null_mut(), None);
        }
        // SAFETY: the layout has a size.
        let start = allocated(unsafe { alloc(layout) }, layout);
        (start.as_ptr(), Some(Cleanup { start, layout }))
    }

    /// Leaves the block to its next owner.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        // SAFETY: `new` allocated the block with this layout, and nothing else has freed it.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Resizes a block for the host, or allocates one if `old_size` is 0. A block without bytes has no
/// memory, only an aligned address.
///
/// # Safety
///
/// `old` is null with the size 0, or a block of `old_size` bytes that was allocated with `align`.
/// `align` is a power of two.
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "only a component has a host that calls this"))]
unsafe fn resize(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    if size == 0 {
        // The canonical ABI shrinks no block to nothing, so there is none to free.
        return ptr::without_provenance_mut(align);
    }
    // SAFETY: by this function's own contract. The host keeps sizes within a 32-bit memory.
    unsafe {
        let layout = Layout::from_size_align_unchecked(size, align);
        let start = match old_size {
            0 => alloc(layout),
            _ => realloc(old, Layout::from_size_align_unchecked(old_size, align), size),
        };
        allocated(start, layout).as_ptr()
    }
}

/// A block that was just allocated. Without memory the call ends in a trap.
fn allocated(start: *mut u8, layout: Layout) -> NonNull<u8> {
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
}

/// The export by which the host allocates in the guest. The C library of WASI has one of its own.
#[cfg(all(target_arch = "wasm32", not(target_env = "p2")))]
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    // SAFETY: the host keeps to the canonical ABI.
    unsafe { resize(old, old_size, align, size) }
}

/// Called by the generated code to link the export above, which is linked in any case: it is in the
/// same crate.
pub(crate) fn maybe_link_cabi_realloc() {}

/// Runs static constructors before the first call. Without this reference, the linker would run
/// them before every call.
#[cfg(target_arch = "wasm32")]
pub(crate) fn run_ctors_once() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    static DONE: AtomicBool = AtomicBool::new(false);
    unsafe extern "C" {
        /// Made by the linker.
        fn __wasm_call_ctors();
    }
    if !DONE.swap(true, Relaxed) {
        // SAFETY: a guest has one thread, and this is its first call.
        unsafe { __wasm_call_ctors() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_without_bytes_has_no_memory() {
        let (start, cleanup) = Cleanup::new(Layout::new::<()>());
        assert!(start.is_null() && cleanup.is_none());
        // SAFETY: there is no block before it.
        let start = unsafe { resize(ptr::null_mut(), 0, 8, 0) };
        assert_eq!(start.addr(), 8);
    }

    #[test]
    fn a_forgotten_block_belongs_to_its_next_owner() {
        let layout = Layout::array::<u64>(3).unwrap();
        let (start, cleanup) = Cleanup::new(layout);
        cleanup.unwrap().forget();
        // SAFETY: the block is not freed, and a vector of this length has its layout.
        let numbers = unsafe {
            start.write_bytes(1, layout.size());
            Vec::from_raw_parts(start.cast::<u64>(), 3, 3)
        };
        assert_eq!(numbers, [0x0101_0101_0101_0101; 3]);
    }

    #[test]
    fn a_block_keeps_its_bytes_when_it_is_resized() {
        // SAFETY: each block is passed on with its size, and at last to a vector of that size.
        let bytes = unsafe {
            let start = resize(ptr::null_mut(), 0, 1, 3);
            start.copy_from_nonoverlapping(b"abc".as_ptr(), 3);
            let start = resize(start, 3, 1, 4096);
            start.add(3).write_bytes(b'x', 4093);
            Vec::from_raw_parts(start, 4096, 4096)
        };
        assert!(bytes.starts_with(b"abcx") && bytes.ends_with(b"xx"));
    }
}
