//! The first-party plugins, embedded: what serves without `--plugins`.

use worker_plugins::EmbeddedFile;

/// Every component of `plugins/` and its `plugins.toml`, as they were when the worker was built.
pub(crate) const FILES: &[EmbeddedFile] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
