//! An allocator that takes large pieces straight from the sandbox.
//!
//! The usual one clears or copies what it hands out, which counts against the computing limit: memory
//! limit and size limit would never be reached. Fresh pages are zero already.

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32::memory_grow;

use studio_plugin::runtime::PluginAllocator;

const PAGE: usize = 64 << 10;
/// From here on pieces are pages of their own, never given back.
const LARGE: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pages(pub(crate) PluginAllocator);

fn fresh(size: usize) -> *mut u8 {
    match memory_grow::<0>(size.div_ceil(PAGE)) {
        usize::MAX => std::ptr::null_mut(),
        before => (before * PAGE) as *mut u8,
    }
}

#[allow(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; small pieces are passed on as they came"
)]
// SAFETY: pages that the memory grew by are used by nobody else, aligned to 64 KiB, and stay.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            return fresh(layout.size());
        }
        // SAFETY: passed on as it came.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            return fresh(layout.size());
        }
        // SAFETY: passed on as it came.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if layout.size() < LARGE {
            // SAFETY: a piece of this size came from there.
            unsafe { self.0.dealloc(memory, layout) }
        }
    }
}
