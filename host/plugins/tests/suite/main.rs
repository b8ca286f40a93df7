//! Plugins that behave, misbehave and lie, loaded and called through the crate's own doors.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests are tests too"
)]

mod cache;
mod calls;
mod guest;
mod hostile;
mod limits;
mod loading;
mod set;
mod support;
mod wasi;
