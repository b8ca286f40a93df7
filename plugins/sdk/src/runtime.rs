//! What has to be in place before any code of a plugin runs: an allocator that makes hash maps
//! deterministic and reports want of memory, and a panic hook that says what went wrong.
//!
//! Without them a plugin would not be a function of its arguments, and each of its deaths would
//! reach the operator as a bare `unreachable`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::hash_map::RandomState;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::log;

/// The system's allocator, with two additions.
///
/// std takes the keys of its hash maps from the address of an allocation made when the first map
/// is. That address moves with whatever was allocated before, so maps would change their
/// order as a job's history grows. Drawing the keys at the very first allocation of an instance,
/// before the arguments of the call are laid down, makes them the same in every call.
#[derive(Debug, Default)]
pub struct PluginAllocator {
    keyed: AtomicBool,
}

impl PluginAllocator {
    /// An allocator that has not served anything yet.
    pub const fn new() -> Self {
        Self {
            keyed: AtomicBool::new(false),
        }
    }

    fn fix_hash_keys(&self) {
        // Set first: drawing the keys allocates, and must not come back here.
        if !self.keyed.swap(true, Ordering::Relaxed) {
            drop(RandomState::new());
        }
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
    reason = "an allocator is unsafe by its trait; each call is passed on as it came"
)]
// SAFETY: every method hands its arguments to `System` unchanged, which keeps the contract.
unsafe impl GlobalAlloc for PluginAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.fix_hash_keys();
        // SAFETY: passed on as it came.
        let memory = unsafe { System.alloc(layout) };
        if memory.is_null() {
            Self::report(layout);
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.fix_hash_keys();
        // SAFETY: passed on as it came.
        let memory = unsafe { System.alloc_zeroed(layout) };
        if memory.is_null() {
            Self::report(layout);
        }
        memory
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: passed on as it came.
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
