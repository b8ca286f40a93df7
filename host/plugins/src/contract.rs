//! The types of package `studio:worker`, as Rust sees them.
//!
//! Generated from `wit/` at compile time, so that the contract has one source. The three worlds share
//! `types`, `effects` and `log`; everything is re-exported flat, under the contract's own names. All of
//! it (de)serialises with serde, which is what a job's journal is written in: field and variant names are
//! the Rust ones, bytes are arrays of numbers.
//!
//! Only types come from here. Exports are looked up and called by `call`, which checks the shape of the one
//! function it calls, where generated bindings would check all six of an engine at each instantiation.

#![allow(
    missing_docs,
    reason = "generated from the WIT, whose comments are the documentation"
)]

mod engine_world {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "engine-plugin",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    });
}

mod router_world {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "router-plugin",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        with: {
            "studio:worker/types": super::engine_world::studio::worker::types,
            "studio:worker/log": super::engine_world::studio::worker::log,
        },
    });
}

mod finisher_world {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "finisher-plugin",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        with: {
            "studio:worker/types": super::engine_world::studio::worker::types,
            "studio:worker/log": super::engine_world::studio::worker::log,
        },
    });
}

pub use engine_world::exports::studio::worker::engine::{
    Backend, Build, Description, Finished, Next, Overrides, Server, SupportedKind,
};
pub use engine_world::studio::worker::effects::{
    Answer, Argument, Call, Command, Download, Effect, Entry, Exit, Header, Outcome, OutputKind,
    Piece, Range, Repeat, Request, Response, Setting,
};
pub use engine_world::studio::worker::log::Level;
pub use engine_world::studio::worker::types::{
    BackendStatus, Failure, File, FileId, Job, Json, Media, Output, Part, Platform, Progress,
};
pub use finisher_world::exports::studio::worker::finishing::{Product, Provenance};
pub use router_world::exports::studio::worker::routing::{Candidate, Rejection, WorkerState};
