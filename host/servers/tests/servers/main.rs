//! Servers through a real program, real sockets and the kernel's own word on who is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is what a test is for"
)]

mod calls;
mod ends;
mod rig;
mod starts;
