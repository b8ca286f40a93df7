//! The router's world.

use std::marker::PhantomData;

use serde_json::{Map, Value};

use crate::bindings::router_world::exports::studio::worker::routing::Guest;
use crate::fields::parse_value;
use crate::job::read_settings;
use crate::{Candidate, Failure, Rejection, WorkerState, runtime};

/// Decides which engine plugin takes an offer.
pub trait Router: 'static {
    /// The name of the plugin that takes it.
    ///
    /// `offer` is the studio's claim, word for word: hostile until checked.
    ///
    /// # Errors
    ///
    /// Why none does, in words that the studio knows.
    fn route(
        offer: &str,
        candidates: &[Candidate],
        worker: &WorkerState,
    ) -> Result<String, Rejection>;
}

impl Rejection {
    /// A code in snake_case and what a person reads.
    pub fn new(code: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            reason: reason.into(),
        }
    }
}

impl WorkerState {
    /// What the operator set for this plugin in `plugins.toml`.
    ///
    /// # Errors
    ///
    /// It is no JSON object.
    pub fn settings(&self) -> Result<Map<String, Value>, Failure> {
        read_settings(&self.settings)
    }
}

/// Parses an offer, bounded in depth.
///
/// # Errors
///
/// It is no JSON.
pub fn parse_offer(offer: &str) -> Result<Value, Failure> {
    parse_value("the offer", offer)
}

/// Answers the host for a [`Router`].
#[derive(Debug)]
pub struct RouterExport<R>(PhantomData<R>);

impl<R: Router> Guest for RouterExport<R> {
    fn route(
        offer: String,
        candidates: Vec<Candidate>,
        worker: WorkerState,
    ) -> Result<String, Rejection> {
        runtime::start();
        R::route(&offer, &candidates, &worker)
    }
}

/// Exports a type that implements [`Router`] as a router plugin.
#[macro_export]
macro_rules! router {
    ($router:ty) => {
        $crate::__component!(export_router, router_world, RouterExport, $router);
    };
}
