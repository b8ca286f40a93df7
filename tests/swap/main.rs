//! Plugins swapped under a running worker: the right version or the one before, never none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is what a test is for"
)]

mod afar;
mod commands;
mod crashes;
mod demonstration;
mod folder;
mod metrics;
mod moments;
mod probation;
mod push;
mod shadowing;
mod support;
mod trust;
mod trusted;
