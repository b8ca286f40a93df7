//! Queueing, watching and cancelling jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use worker_wire::JobId;

use super::ApiError;
use crate::core::{JobStatus, Submission};
use crate::options::{ComposeError, Composed};
use crate::studio::Studio;

/// Longest long poll. A longer one meets the time limits of clients.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Jobs in one list.
const LONGEST_LIST: usize = 1_000;

/// States that a list can be asked for.
const STATES: [&str; 6] = [
    "queued",
    "offered",
    "running",
    "done",
    "failed",
    "cancelled",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wish<'a> {
    kind: Option<String>,
    text: Option<String>,
    model: Option<String>,
    options: Option<Value>,
    vram_gb_estimate: Option<f32>,
    #[serde(borrow)]
    offer: Option<&'a RawValue>,
}

/// A claim of a composed task, in the order that the protocol page shows.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Claim<'a> {
    game_id: &'a str,
    asset_name: &'a str,
    model: &'a str,
    vram_gb_estimate: f32,
    task: Box<RawValue>,
    model_source: Box<RawValue>,
}

/// `POST /api/jobs`
pub(super) async fn submit(
    State(studio): State<Arc<Studio>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body?;
    let wish: Wish<'_> = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("not a job: {error}")))?;
    let submission = match (wish.offer, wish.kind) {
        (Some(offer), None) => Submission {
            claim: offer.get().to_owned(),
            prompt: String::new(),
        },
        (None, Some(kind)) => {
            let text = wish.text.unwrap_or_default();
            let options = wish
                .options
                .unwrap_or_else(|| Value::Object(Default::default()));
            let mut composed = studio
                .compose
                .compose(kind, text.clone(), wish.model, options)
                .await?;
            if let Some(given) = wish.vram_gb_estimate {
                composed.vram_gb_estimate = given;
            }
            Submission {
                claim: claim(&composed)?,
                prompt: text,
            }
        }
        _ => {
            return Err(ApiError::bad_request(
                "give either `kind` (with `text`, `model`, `options`) or `offer`",
            ));
        }
    };
    let submitted = studio.core().submit(submission);
    let (id, receipt) = submitted?;
    let (engine, model) = studio.core().meant_for(&id).unwrap_or_default();
    if let Err(error) = receipt.committed().await {
        studio.core().unsubmit(&id);
        return Err(error.into());
    }
    let body = Json(serde_json::json!({"jobId": id, "engine": engine, "model": model}));
    Ok((StatusCode::CREATED, body).into_response())
}

fn claim(composed: &Composed) -> Result<String, ComposeError> {
    let object = |text: &str, what: &str| {
        let failed = || ComposeError::Failed {
            message: format!("the engine composed a {what} that is not a JSON object"),
        };
        RawValue::from_string(text.trim().to_owned())
            .ok()
            .filter(|value| value.get().starts_with('{'))
            .ok_or_else(failed)
    };
    let estimate = composed.vram_gb_estimate;
    let claim = Claim {
        game_id: "local",
        asset_name: "local",
        model: &composed.model,
        vram_gb_estimate: if estimate.is_finite() {
            estimate.max(0.0)
        } else {
            0.0
        },
        task: object(&composed.task, "task")?,
        model_source: object(&composed.model_source, "modelSource")?,
    };
    serde_json::to_string(&claim).map_err(|error| ComposeError::Failed {
        message: error.to_string(),
    })
}

#[derive(Deserialize)]
pub(super) struct Listing {
    state: Option<String>,
    limit: Option<usize>,
}

/// `GET /api/jobs?state=&limit=`, newest first.
pub(super) async fn list(
    State(studio): State<Arc<Studio>>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Json<Vec<JobStatus>>, ApiError> {
    let Query(listing) = query?;
    let state = listing.state.as_deref().filter(|state| !state.is_empty());
    if state.is_some_and(|state| !STATES.contains(&state)) {
        return Err(ApiError::bad_request(format!(
            "`state` must be one of {}",
            STATES.join(", ")
        )));
    }
    let limit = listing.limit.unwrap_or(100).min(LONGEST_LIST);
    Ok(Json(studio.core().statuses(state, limit)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Watching {
    after: Option<u64>,
    wait_ms: Option<u64>,
}

/// Waits until the version is another than the caller has seen, within what it asked for.
pub(super) async fn changed(
    studio: &Studio,
    mut versions: tokio::sync::watch::Receiver<u64>,
    watching: &Watching,
) {
    let wait = Duration::from_millis(watching.wait_ms.unwrap_or_default()).min(LONGEST_WAIT);
    if let Some(seen) = watching.after.filter(|_| !wait.is_zero()) {
        tokio::select! {
            () = studio.stop.cancelled() => {}
            // A version beyond what there is comes from before a restart: the caller has seen nothing of this run.
            _ = versions.wait_for(|version| *version != seen) => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// `GET /api/jobs/{id}?after=VERSION&waitMs=`: answers when the version is another than the caller has seen.
pub(super) async fn one(
    State(studio): State<Arc<Studio>>,
    Path(job): Path<String>,
    query: Result<Query<Watching>, QueryRejection>,
) -> Result<Json<JobStatus>, ApiError> {
    let Query(watching) = query?;
    let id = JobId::parse(&job).map_err(|_| ApiError::unknown_job())?;
    let versions = {
        let core = studio.core();
        core.job(&id).ok_or_else(ApiError::unknown_job)?.watch()
    };
    changed(&studio, versions, &watching).await;
    let status = studio.core().status(&id);
    status.map(Json).ok_or_else(ApiError::unknown_job)
}

/// `POST /api/jobs/{id}/cancel`
pub(super) async fn cancel(
    State(studio): State<Arc<Studio>>,
    Path(job): Path<String>,
) -> Result<Response, ApiError> {
    let id = JobId::parse(&job).map_err(|_| ApiError::unknown_job())?;
    let cancelled = studio.core().cancel(&id);
    let (state, receipt) = cancelled?;
    if let Some(receipt) = receipt {
        let committed = receipt.committed().await;
        let mut core = studio.core();
        match &committed {
            Ok(()) => core.drop_claim(&id),
            Err(_) => core.uncancel(&id),
        }
        drop(core);
        committed?;
    }
    // 202: the worker has been told, and says itself when it has stopped.
    let status = if state == "cancelled" {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let body = Json(serde_json::json!({"jobId": id, "state": state}));
    Ok((status, body).into_response())
}
