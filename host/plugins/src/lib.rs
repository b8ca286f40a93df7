//! Plugin components: load, verify, compile, limit, call.
//!
//! A plugin is a pure function in a WebAssembly component: it imports nothing but a log, gets its arguments as values and
//! returns what it wants done as data. This crate finds such files, decides whether they may be loaded, and makes
//! single calls of them under limits. It performs nothing of what they ask for, and keeps no state between two calls.
//!
//! - [`Sandbox`]: one per process; engine, guest threads, clock, cache of compiled plugins.
//! - [`load`]: a folder (or an embedded set) to a [`Generation`], and a [`Refusal`] for each file that broke a rule.
//! - [`Engine`], [`Router`], [`Finisher`]: the calls, each in a fresh instance.
//! - [`inspect`] and [`validate`]: one file, for its author.

mod call;
mod check;
mod compiled;
pub mod contract;
mod cpu;
mod describe;
mod examine;
mod fault;
mod folder;
mod generation;
mod grants;
mod guests;
mod inspect;
mod load;
mod names;
mod policy;
mod prepare;
mod refusal;
mod room;
mod sandbox;
mod wasi;

pub use call::FUEL_PER_MS;
pub use compiled::CacheError;
pub use contract::*;
pub use examine::World;
pub use fault::{CallError, Fault};
pub use generation::{Engine, Finisher, Generation, Identity, Router};
pub use grants::{Asked, Grants, LimitValues, Limits, SecretGrant};
pub use inspect::{InspectError, Inspection, Validated, inspect, validate};
pub use load::{EmbeddedFile, LoadError, Loaded, Source, load};
pub use policy::{Permissions, Policy, PolicyError};
pub use refusal::{Refusal, Rule};
pub use sandbox::{Sandbox, SandboxError, SandboxOptions};
