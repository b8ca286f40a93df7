//! Kit for writing `studio-worker` plugins in Rust.
//!
//! A plugin is a pure function: it gets a job and what has been done for it so far, and returns
//! what it wants done next. This kit lets an author write that as one straight `async fn`:
//! [`Engine::run`] awaits effects on its [`Context`], and the kit replays the history into the
//! awaits ([`executor`] says how). The rules that follow for an author are:
//!
//! - everything before an unanswered await runs again at each step, so heavy computing belongs
//!   inside the closure of [`Context::write`] or of [`Context::perform`];
//! - nothing but effects may be awaited: there is no clock, no thread and no network in here;
//! - the order of a hash map must not decide what is asked for. Its keys are the same in every call,
//!   but those of the n-th map differ from those of the next, and a closure that runs in one step and
//!   not in the others may make maps. A `BTreeMap` has no such order to depend on.
//!
//! [`engine!`], [`router!`] and [`finisher!`] export a type as a component. On any target but
//! wasm32 they export nothing, and the log goes nowhere, so plugin crates are tested natively.

#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::allow_attributes_without_reason,
    reason = "generated; wit/ documents it, and crossing the sandbox's border is unsafe by nature"
)]
#[doc(hidden)]
pub mod bindings;

mod compose;
mod context;
mod engine;
pub mod executor;
mod fields;
mod finisher;
mod job;
mod join;
pub mod log;
mod router;
#[doc(hidden)]
pub mod runtime;
mod shapes;
mod source;
mod task;

pub use bindings::engine_world::exports::studio::worker::engine::{
    Backend, Build, Description, Finished, Next, Overrides, Server, SupportedKind,
};
pub use bindings::engine_world::studio::worker::effects::{
    Answer, Argument, Call, Command, Download, Effect, Entry, Exit, Header, Outcome, OutputKind,
    Piece, Range, Repeat, Request, Response, Setting,
};
pub use bindings::engine_world::studio::worker::types::{
    BackendStatus, Failure, File, Job as RawJob, Media, Output, Part, Platform, Progress,
};
pub use bindings::finisher_world::exports::studio::worker::finishing::{Product, Provenance};
pub use bindings::router_world::exports::studio::worker::routing::{
    Candidate, Rejection, WorkerState,
};

pub use compose::{Ask, Composed};
pub use context::Context;
pub use engine::{Engine, EngineExport};
pub use fields::{FieldValue, Fields};
pub use finisher::{Finisher, FinisherExport};
pub use job::Job;
pub use join::{join, join_all};
pub use router::{Router, RouterExport, parse_offer};
pub use shapes::Value;
pub use source::{CliDefaults, ModelFile, ModelSource};
pub use task::{AnyTask, ImageTask, LlmTask, Message, OpenTask, SttTask, Task, TtsTask, VideoTask};

/// JSON as plugins handle it: `serde_json`, whose objects here keep the order they came in.
pub use serde_json as json;
