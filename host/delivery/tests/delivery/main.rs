//! Delivery against a studio on loopback: what goes over the wire, what is left on disk, what is kept aside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "helpers of tests fail like tests"
)]

mod later;
mod session;
mod support;
mod upload;
