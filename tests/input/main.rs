//! Bad input of every sort: a clear answer, no panic, and the next job is served.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is what a test is for"
)]

mod studios;
mod tasks;
