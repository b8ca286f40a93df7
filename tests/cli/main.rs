//! The command line, as people and scripts use it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is what a test is for"
)]

mod configuration;
mod doctor;
mod failures;
mod local_api;
mod models;
mod plugins;
mod running;
mod submitting;
mod usage;
