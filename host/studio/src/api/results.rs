//! Handing a result out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use tokio_util::io::ReaderStream;
use worker_wire::JobId;

use super::ApiError;
use crate::studio::Studio;

/// `GET /api/jobs/{id}/result`: the uploaded bytes under their media type, or the JSON.
pub(super) async fn result(
    State(studio): State<Arc<Studio>>,
    Path(job): Path<String>,
) -> Result<Response, ApiError> {
    let id = JobId::parse(&job).map_err(|_| ApiError::unknown_job())?;
    let (file, media_type) = {
        let core = studio.core();
        let job = core.job(&id).ok_or_else(ApiError::unknown_job)?;
        if !job.has_result() {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "no_result",
                format!("the job has no result: it is {}", job.shown_state()),
            ));
        }
        (job.file(&studio.results), job.row.media_type.clone())
    };
    match file {
        Some(path) => bytes(&path, media_type).await,
        None => json(&studio, &id).await,
    }
}

/// The bytes of a file under a media type.
pub(crate) async fn bytes(
    path: &std::path::Path,
    media_type: Option<String>,
) -> Result<Response, ApiError> {
    let lost = |error: std::io::Error| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "result_lost",
            format!("the result's file cannot be read: {error}"),
        )
    };
    let file = tokio::fs::File::open(path).await.map_err(lost)?;
    let length = file.metadata().await.map_err(lost)?.len();
    let body = Body::from_stream(ReaderStream::with_capacity(file, 256 << 10));
    let kind = media_type
        .and_then(|kind| HeaderValue::from_str(&kind).ok())
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
        // What a worker sent is never to be run as a page of this origin.
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ];
    Ok((headers, body).into_response())
}

async fn json(studio: &Studio, id: &JobId) -> Result<Response, ApiError> {
    let text = studio.store.json_result(id.to_string()).await?;
    let text = text.ok_or_else(|| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "result_lost",
            "the result is not in the database",
        )
    })?;
    let kind = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
