//! A pushed component, for the worker that was told of it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use worker_wire::is_digest;

use super::{authorize, refuse};
use crate::api;
use crate::studio::Studio;

/// The bytes of one component.
pub(super) async fn component(
    State(studio): State<Arc<Studio>>,
    Path((worker, digest)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = authorize(&studio, &worker, &headers) {
        return refused.into_response();
    }
    if !is_digest(&digest) || studio.components.size(&digest).is_none() {
        return refuse(StatusCode::NOT_FOUND, "no such component");
    }
    let path = studio.components.path(&digest);
    match api::bytes(&path, Some("application/wasm".to_owned())).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}
