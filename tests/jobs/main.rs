//! Jobs from offer to result: the five kinds, a program's command line, stops of every sort, kinds that nobody has heard of.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is what a test is for"
)]

mod blind;
mod effects;
mod espeak;
mod http;
mod inventions;
mod kills;
mod kinds;
mod networks;
mod pictures;
mod planted;
mod program;
mod provision;
mod releases;
mod server;
mod servers;
mod stops;
mod uploads;
