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
mod compiler;
pub mod contract;
mod cpu;
mod describe;
mod examine;
mod failpoint;
mod fault;
mod folder;
mod generation;
mod grants;
mod guests;
mod inspect;
mod kept;
mod load;
mod names;
mod pipeline;
mod policy;
mod prepare;
mod refusal;
mod room;
mod sandbox;
mod serving;
mod statistics;
mod terms;
mod wasi;

pub use call::FUEL_PER_MS;
pub use compiled::CacheError;
pub use compiler::{Compiler, compile_as_child, is_child};
pub use contract::*;
pub use examine::World;
pub use failpoint::{VARIABLE as FAILPOINT, failpoint};
pub use fault::{CallError, Fault};
pub use generation::{Engine, Finisher, Generation, Identity, Router};
pub use grants::{Asked, Grants, LimitValues, Limits, SecretGrant};
pub use guests::lend_thread;
pub use inspect::{InspectError, Inspection, Validated, inspect, name_in, validate};
pub use kept::{Kept, KeptError, remove_unfinished};
pub use load::{EmbeddedFile, LoadError, Loaded, Source, load};
pub use pipeline::{
    Compiled, Examined, Linked, Permitted, PluginSet, Print, Probed, ReadOnce, Stored, Verified,
};
pub use policy::{MAX_FILE_MIB, Permissions, Policy, PolicyError};
pub use prepare::Plugged;
pub use refusal::{Broken, Lacks, Refusal, Rule};
pub use sandbox::{Sandbox, SandboxError, SandboxOptions};
pub use serving::Serving;
pub use statistics::Statistics;
pub use terms::{Against, Origin, Signature, SignatureSeen, Terms, is_version};
