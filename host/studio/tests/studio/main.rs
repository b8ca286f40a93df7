//! The studio over real sockets: a scripted worker on one side, a person's requests on the other.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails its test"
)]

mod api;
mod guards;
mod offers;
mod registration;
mod restart;
mod results;
mod resume;
mod rollouts;
mod session;
mod support;
mod updates;
