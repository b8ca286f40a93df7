//! The router's export: every offer to the first candidate.

use studio_plugin::bindings::router_world::exports::studio::worker::routing::Guest;
use studio_plugin::{Candidate, Rejection, WorkerState};

use crate::misbehave::{asked, now};

#[derive(Debug)]
struct Hostile;

impl Guest for Hostile {
    fn route(
        offer: String,
        candidates: Vec<Candidate>,
        _: WorkerState,
    ) -> Result<String, Rejection> {
        match candidates.into_iter().next() {
            Some(candidate) => Ok(now(asked(&offer, "route"), &candidate.name)),
            None => Err(Rejection::new("unsupported_engine", "nobody is there")),
        }
    }
}

#[cfg(target_arch = "wasm32")]
studio_plugin::bindings::router_world::export_router!(
    Hostile with_types_in studio_plugin::bindings::router_world
);

#[cfg(not(target_arch = "wasm32"))]
const _: fn(String, Vec<Candidate>, WorkerState) -> Result<String, Rejection> =
    <Hostile as Guest>::route;
