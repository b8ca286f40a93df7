//! The studio protocol, as a studio sees the built worker speak it: each row of the tables of statuses, errors and closes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is what a test is for"
)]

mod endings;
mod offers;
mod registration;
mod session;
mod upgrade;
