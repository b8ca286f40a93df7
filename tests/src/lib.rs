//! What the whole-program tests are made of: the built worker in a folder of its own, a studio that does as it is told,
//! programs that stand in for real ones, and independent readers of what comes out.
//!
//! Nothing here links the worker. A test sees what an operator or a studio sees: processes, files, frames, bytes. Every
//! wait has the same bound and polls for a state; nothing depends on how long something took. What a test starts ends
//! with it, by process group.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is what a test is for"
)]

pub mod api;
pub mod archive;
pub mod built;
pub mod component;
pub mod disk;
pub mod files;
pub mod folder;
pub mod home;
pub mod host;
pub mod media;
pub mod multipart;
pub mod needs;
pub mod offers;
pub mod ranges;
pub mod registry;
pub mod rights;
pub mod sd_cli;
pub mod search;
pub mod studio;
pub mod versions;
pub mod wait;
pub mod worker;

pub use api::Api;
pub use files::FileServer;
pub use folder::PluginFolder;
pub use home::{Ended, Home};
pub use host::{Answer, Host};
pub use sd_cli::SdCli;
pub use search::files_with;
pub use studio::{Peer, Reply, ScriptedStudio};
pub use worker::Worker;
