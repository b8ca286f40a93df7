//! What has to be in place before any code of a plugin runs: an allocator that makes hash maps
//! deterministic and reports want of memory, and a panic hook that says what went wrong.
//!
//! Without them a plugin would not be a function of its arguments, and each of its deaths would
//! reach the operator as a bare `unreachable`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::collections::hash_map::RandomState;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::log;

/// Bytes that are handed out one after another before the system's allocator is asked at all. They belong to the memory
/// that an instance begins with, and cost nothing until they are touched. Fewer send an ordinary call to the system's
/// allocator, whose every 64 KiB are a system call of the host's; more are pages that an idle worker keeps per plugin.
const ARENA_BYTES: usize = 256 * 1024;

/// What is larger goes to the system's allocator at once: a picture would leave no room for the many small ones.
const LARGEST_IN_ARENA: usize = 32 * 1024;

/// The system's allocator, with three additions.
///
/// std takes the keys of its hash maps from the address of an allocation made when the first map
/// is. That address moves with whatever was allocated before, so maps would change their
/// order as a job's history grows. Drawing the keys at the very first allocation of an instance,
/// before the arguments of the call are laid down, makes them the same in every call.
///
/// An instance lives for one call, so giving small pieces back is hardly worth the work: they come from an
/// arena, where only the last one is ever taken back.
///
/// Want of memory is reported, or it would reach the operator as a bare `unreachable`.
#[derive(Debug)]
pub struct PluginAllocator {
    keyed: AtomicBool,
    used: AtomicUsize,
    arena: Arena,
}

#[derive(Debug)]
#[repr(align(16))]
struct Arena(UnsafeCell<[u8; ARENA_BYTES]>);

#[allow(
    unsafe_code,
    reason = "a global allocator is a shared static by its nature"
)]
// SAFETY: the bytes are reached through the allocator alone, which hands each piece out once; components have one thread.
unsafe impl Sync for Arena {}

impl Default for PluginAllocator {
    fn default() -> Self {
        Self::new()
    }
}

impl PluginAllocator {
    /// An allocator that has not served anything yet.
    pub const fn new() -> Self {
        Self {
            keyed: AtomicBool::new(false),
            used: AtomicUsize::new(0),
            arena: Arena(UnsafeCell::new([0; ARENA_BYTES])),
        }
    }

    fn fix_hash_keys(&self) {
        // Set first: drawing the keys allocates, and must not come back here.
        if !self.keyed.swap(true, Ordering::Relaxed) {
            drop(RandomState::new());
        }
    }

    fn start(&self) -> usize {
        self.arena.0.get() as usize
    }

    fn holds(&self, memory: *mut u8) -> bool {
        (memory as usize).wrapping_sub(self.start()) < ARENA_BYTES
    }

    /// A piece of the arena; none where it does not fit.
    fn piece(&self, layout: Layout) -> Option<*mut u8> {
        if layout.size() > LARGEST_IN_ARENA {
            return None;
        }
        let free = self.start() + self.used.load(Ordering::Relaxed);
        let at = free.checked_next_multiple_of(layout.align())? - self.start();
        let end = at.checked_add(layout.size())?;
        if end > ARENA_BYTES {
            return None;
        }
        self.used.store(end, Ordering::Relaxed);
        Some(self.arena.0.get().cast::<u8>().wrapping_add(at))
    }

    /// Gives the last piece another size where it is; false where it is not the last or there is no room.
    fn resize(&self, memory: *mut u8, old: usize, new: usize) -> bool {
        let at = memory as usize - self.start();
        if at + old != self.used.load(Ordering::Relaxed) || new > ARENA_BYTES - at {
            return false;
        }
        self.used.store(at + new, Ordering::Relaxed);
        true
    }

    fn report(layout: Layout) {
        // No allocating here: the text is put together in place.
        let mut line = Line::default();
        line.push(b"out of memory: could not get ");
        line.push_number(layout.size());
        line.push(b" bytes more; ask for more `memory-mib`, or hold less at once");
        log::error(line.as_str());
    }
}

#[allow(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; pieces of the arena are handed out once, all else is passed on as it came"
)]
// SAFETY: a piece of the arena is within it, aligned as asked for, and overlaps no other that is in use; everything else is
// the system's, which gets its own arguments back.
unsafe impl GlobalAlloc for PluginAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.fix_hash_keys();
        if let Some(piece) = self.piece(layout) {
            return piece;
        }
        // SAFETY: passed on as it came.
        let memory = unsafe { System.alloc(layout) };
        if memory.is_null() {
            Self::report(layout);
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if self.holds(memory) {
            self.resize(memory, layout.size(), 0);
            return;
        }
        // SAFETY: it is the system's, and passed on as it came.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.fix_hash_keys();
        if let Some(piece) = self.piece(layout) {
            // SAFETY: the piece is as long as the layout. It may have been used before.
            unsafe { piece.write_bytes(0, layout.size()) };
            return piece;
        }
        // SAFETY: passed on as it came.
        let memory = unsafe { System.alloc_zeroed(layout) };
        if memory.is_null() {
            Self::report(layout);
        }
        memory
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.holds(memory) {
            if self.resize(memory, layout.size(), size) {
                return memory;
            }
            // SAFETY: the caller vouches that size and alignment make a layout.
            let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
            // SAFETY: `wanted` is not empty, as the caller vouches.
            let moved = unsafe { self.alloc(wanted) };
            if !moved.is_null() {
                // SAFETY: two pieces of which both are at least as long as the smaller, and which do not overlap.
                unsafe { moved.copy_from_nonoverlapping(memory, layout.size().min(size)) };
            }
            return moved;
        }
        // SAFETY: it is the system's, and passed on as it came.
        let moved = unsafe { System.realloc(memory, layout, size) };
        if moved.is_null() {
            Self::report(Layout::from_size_align(size, layout.align()).unwrap_or(layout));
        }
        moved
    }
}

/// A line put together without allocating; what does not fit is cut.
struct Line {
    bytes: [u8; 128],
    used: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 128],
            used: 0,
        }
    }
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for (slot, byte) in self.bytes.iter_mut().skip(self.used).zip(text) {
            *slot = *byte;
            self.used += 1;
        }
    }

    fn push_number(&mut self, number: usize) {
        let mut divisor = 1;
        while number / divisor >= 10 {
            divisor *= 10;
        }
        while divisor > 0 {
            let digit = u8::try_from(number / divisor % 10).unwrap_or(0);
            self.push(&[b'0' + digit]);
            divisor /= 10;
        }
    }

    fn as_str(&self) -> &str {
        let text = self.bytes.get(..self.used).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or("out of memory")
    }
}

/// Called by every export before anything of the author's.
pub fn start() {
    static HOOK: Once = Once::new();
    // Natively the test harness has its own.
    if cfg!(target_arch = "wasm32") {
        HOOK.call_once(|| {
            std::panic::set_hook(Box::new(|panic| log::error(&panic.to_string())));
        });
    }
}

/// Exports and allocator of one component; [`engine!`](crate::engine) and the others expand to it.
#[doc(hidden)]
#[macro_export]
macro_rules! __component {
    ($export:ident, $world:ident, $adapter:ident, $plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            #[global_allocator]
            static ALLOCATOR: $crate::runtime::PluginAllocator =
                $crate::runtime::PluginAllocator::new();

            type Exported = $crate::$adapter<$plugin>;
            $crate::bindings::$world::$export!(
                Exported with_types_in $crate::bindings::$world
            );
        };
        // The bound is checked natively too, where nothing is exported.
        #[cfg(not(target_arch = "wasm32"))]
        const _: ::std::marker::PhantomData<$crate::$adapter<$plugin>> = ::std::marker::PhantomData;
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    #[allow(unsafe_code, reason = "an allocator is called as a program calls it")]
    fn pieces_of_the_arena_keep_apart_and_what_does_not_fit_is_the_systems() {
        let allocator = Box::new(PluginAllocator::new());
        // SAFETY: each pointer is given back once, with the layout it came with.
        unsafe {
            let first = allocator.alloc(layout(3, 1));
            let second = allocator.alloc(layout(8, 8));
            assert!(allocator.holds(first) && allocator.holds(second));
            assert!((second as usize).is_multiple_of(8) && second as usize >= first as usize + 3);
            first.write_bytes(1, 3);
            second.write_bytes(2, 8);
            // Not the last: it moves, and takes its bytes along.
            let moved = allocator.realloc(first, layout(3, 1), 100);
            assert_ne!(moved, first);
            assert_eq!(std::slice::from_raw_parts(moved, 3), [1, 1, 1]);
            // The last: it stays.
            assert_eq!(allocator.realloc(moved, layout(100, 1), 5_000), moved);
            allocator.dealloc(moved, layout(5_000, 1));
            let zeroed = allocator.alloc_zeroed(layout(3, 1));
            assert_eq!(zeroed, moved, "the last piece is handed out again");
            assert_eq!(std::slice::from_raw_parts(zeroed, 3), [0, 0, 0]);

            let large = allocator.alloc(layout(LARGEST_IN_ARENA + 1, 16));
            assert!(!allocator.holds(large));
            allocator.dealloc(large, layout(LARGEST_IN_ARENA + 1, 16));
            let many: Vec<_> = (0..20)
                .map(|_| allocator.alloc(layout(LARGEST_IN_ARENA, 1)))
                .collect();
            assert_eq!(many.iter().filter(|one| allocator.holds(**one)).count(), 7);
            for one in many {
                allocator.dealloc(one, layout(LARGEST_IN_ARENA, 1));
            }
            // Out of the arena and into the system's care.
            let grown = allocator.realloc(second, layout(8, 8), ARENA_BYTES);
            assert!(!allocator.holds(grown));
            assert_eq!(std::slice::from_raw_parts(grown, 8), [2; 8]);
            allocator.dealloc(grown, layout(ARENA_BYTES, 8));
        }
    }

    #[test]
    fn numbers_are_written_without_allocating() {
        for number in [0, 7, 10, 4_294_967_295] {
            let mut line = Line::default();
            line.push_number(number);
            assert_eq!(line.as_str(), number.to_string());
        }
    }

    #[test]
    fn a_line_too_long_is_cut() {
        let mut line = Line::default();
        line.push(&[b'x'; 200]);
        assert_eq!(line.as_str(), "x".repeat(128));
    }
}
