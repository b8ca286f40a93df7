//! Pushing plugins: components in, roll-outs begun, watched and cancelled.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;
use worker_wire::is_digest;

use super::ApiError;
use super::jobs::{Watching, changed};
use crate::components::ComponentError;
use crate::core::{Push, PushError, RolloutStatus};
use crate::studio::Studio;

/// `PUT /api/components/{digest}`: the bytes of a component. One that is here already is taken again.
pub(super) async fn component(
    State(studio): State<Arc<Studio>>,
    Path(digest): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body?;
    if !is_digest(&digest) {
        return Err(ApiError::bad_request(
            "a component is named by its SHA-256 in 64 lower-case hex digits",
        ));
    }
    let (studio, named, size) = (Arc::clone(&studio), digest.clone(), body.len());
    let kept = tokio::task::spawn_blocking(move || {
        let needed = || studio.core().needed_components();
        studio.components.put(&named, &body, &needed)
    });
    kept.await
        .map_err(|error| ComponentError::Disk(std::io::Error::other(error)))??;
    let told = Json(json!({"digest": digest, "size": size}));
    Ok((StatusCode::CREATED, told).into_response())
}

/// `POST /api/updates`
pub(super) async fn begin(
    State(studio): State<Arc<Studio>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let push: Push = serde_json::from_slice(&body?)
        .map_err(|error| ApiError::bad_request(format!("not a push: {error}")))?;
    if !is_digest(&push.digest) {
        return Err(PushError::Malformed("digest").into());
    }
    // Until the roll-out says itself that it needs it.
    let _hold = studio.components.hold(&push.digest);
    let size = studio.components.size(&push.digest);
    let size = size.ok_or(PushError::NoComponent)?;
    let begun = studio.core().push(push, size);
    let (id, receipt) = begun?;
    if let Err(error) = receipt.committed().await {
        studio.core().unpush(&id);
        return Err(error.into());
    }
    studio.core().advance();
    Ok((StatusCode::CREATED, Json(status(&studio, &id)?)).into_response())
}

/// `GET /api/updates`, newest first.
pub(super) async fn list(State(studio): State<Arc<Studio>>) -> Json<Vec<RolloutStatus>> {
    Json(studio.core().rollout_statuses())
}

/// `GET /api/updates/{id}?after=CHANGE&waitMs=`
pub(super) async fn one(
    State(studio): State<Arc<Studio>>,
    Path(id): Path<String>,
    query: Result<Query<Watching>, QueryRejection>,
) -> Result<Json<RolloutStatus>, ApiError> {
    let Query(watching) = query?;
    let watch = studio.core().watch_rollout(&id);
    changed(&studio, watch.ok_or(PushError::Unknown)?, &watching).await;
    status(&studio, &id).map(Json)
}

/// `POST /api/updates/{id}/cancel`
pub(super) async fn cancel(
    State(studio): State<Arc<Studio>>,
    Path(id): Path<String>,
) -> Result<Json<RolloutStatus>, ApiError> {
    let cancelled = studio.core().cancel_rollout(&id);
    cancelled?;
    status(&studio, &id).map(Json)
}

fn status(studio: &Studio, id: &str) -> Result<RolloutStatus, ApiError> {
    let status = studio.core().rollout_status(id);
    Ok(status.ok_or(PushError::Unknown)?)
}
