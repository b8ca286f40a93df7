//! The embedded studio: the studio protocol, server side, with a queue and a history of its own.
//!
//! `studio-worker run` talks to one when no studio is configured, `studio-worker studio` runs one for other workers,
//! and every whole-program test talks to it: local jobs go over the wire like any other, so there is one path to
//! keep right. What is in memory is the truth while it runs; SQLite holds the record that the next start recovers.
//!
//! It knows no kind, engine or model: it matches the words in a claim with the words that workers advertise, and
//! passes claims and results on byte for byte. Everything that comes in is bounded by [`Limits`], everything that is
//! waited for by [`Timing`].

mod api;
mod components;
mod core;
pub mod guard;
mod options;
mod secrets;
mod serve;
mod store;
mod studio;
mod wire;

pub use components::COMPONENT_BYTES;
pub use options::{
    Approval, Compose, ComposeError, ComposeFuture, Composed, Limits, StudioOptions, Timing,
};
pub use serve::{Peer, serve};
pub use store::{OpenError, StoreError};
pub use studio::Studio;
