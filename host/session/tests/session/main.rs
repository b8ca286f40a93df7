//! The session against a scripted studio on a real socket.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test they are called from"
)]

mod frames;
mod offers;
mod reconnects;
mod registration;
mod robustness;
mod support;
