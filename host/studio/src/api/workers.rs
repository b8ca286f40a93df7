//! Workers: who is approved, who waits, what they say.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use crate::core::{PendingView, WorkerView};
use crate::studio::Studio;

/// `GET /api/workers`
pub(super) async fn list(State(studio): State<Arc<Studio>>) -> Json<Vec<WorkerView>> {
    Json(studio.core().workers())
}

/// `GET /api/workers/pending`
pub(super) async fn pending(State(studio): State<Arc<Studio>>) -> Json<Vec<PendingView>> {
    Json(studio.core().pending())
}

/// `POST /api/workers/pending/{id}/approve`
pub(super) async fn approve(
    State(studio): State<Arc<Studio>>,
    Path(request): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let approved = studio.core().approve(&request);
    Ok(Json(json!({"workerId": approved?})))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Rejection {
    reason: String,
}

/// `POST /api/workers/pending/{id}/reject`
pub(super) async fn reject(
    State(studio): State<Arc<Studio>>,
    Path(request): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let body = body?;
    let rejection: Rejection = if body.is_empty() {
        Rejection::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| ApiError::bad_request(format!("not a rejection: {error}")))?
    };
    let rejected = studio.core().reject_request(&request, rejection.reason);
    rejected?;
    Ok(Json(json!({"requestId": request})))
}

/// `DELETE /api/workers/{id}`
pub(super) async fn remove(
    State(studio): State<Arc<Studio>>,
    Path(worker): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if studio.core().delete_worker(&worker) {
        Ok(Json(json!({"workerId": worker})))
    } else {
        Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_worker",
            "there is no such worker",
        ))
    }
}

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: u64,
}

/// `GET /api/logs?after=SEQ`: shipped lines after a place, or all where that place is of another run.
pub(super) async fn logs(
    State(studio): State<Arc<Studio>>,
    query: Result<Query<After>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(After { after }) = query?;
    let core = studio.core();
    let (lines, seq) = core.logs_after(after);
    let lines = if after > seq {
        core.logs_after(0).0
    } else {
        lines
    };
    Ok(Json(json!({"entries": lines, "seq": seq})))
}
