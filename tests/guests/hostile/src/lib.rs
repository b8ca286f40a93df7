//! Does everything that a plugin must not do, in any export.
//!
//! Where an export has arguments, it does what they ask for: a job whose task holds the text
//! `step:loop` sends `step` into a loop without end. Exports without arguments, and instantiation,
//! misbehave in variants of the component; the manifest lists them. What it is not asked to
//! spoil it does properly, so that a test can see the next job succeed.

mod misbehave;
#[cfg(target_arch = "wasm32")]
mod pages;

#[cfg(not(any(feature = "router", feature = "finisher")))]
mod engine;
#[cfg(feature = "finisher")]
mod finisher;
#[cfg(feature = "router")]
mod router;

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: pages::Pages = pages::Pages(studio_plugin::runtime::PluginAllocator::new());

/// The component's encoder has this run at instantiation.
#[cfg(all(feature = "in-start", target_arch = "wasm32"))]
#[allow(unsafe_code, reason = "the encoder finds it by its exact name")]
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    std::hint::black_box(misbehave::as_built(true, ""));
}
