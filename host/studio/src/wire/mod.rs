//! The four routes of the protocol.

pub(crate) mod complete;
mod component;
mod connect;
mod register;
mod session;
mod upload;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;

use crate::studio::Studio;

pub(crate) use upload::{Upload, create_private};

/// Largest register request. Capabilities list model names, hundreds of them at times.
const REGISTER_BYTES: usize = 1 << 20;

/// What an upload may carry beyond the file: the prompt, fields that are not known, the boundaries.
const UPLOAD_SLACK: u64 = 80 << 20;

pub(crate) fn router(studio: Arc<Studio>) -> Router {
    let upload_bytes = studio.core().limits.upload_bytes;
    let body = usize::try_from(upload_bytes.saturating_add(UPLOAD_SLACK)).unwrap_or(usize::MAX);
    Router::new()
        .route(
            "/graphics/api/workers/register-request",
            post(register::request).layer(DefaultBodyLimit::max(REGISTER_BYTES)),
        )
        .route(
            "/graphics/api/workers/register-requests/{request}",
            get(register::poll),
        )
        .route(
            "/graphics/api/workers/{worker}/connect",
            get(connect::connect),
        )
        .route(
            "/graphics/api/workers/{worker}/jobs/{job}/complete",
            post(complete::complete).layer(DefaultBodyLimit::max(body)),
        )
        .route(
            "/graphics/api/workers/{worker}/plugins/{digest}",
            get(component::component),
        )
        .with_state(studio)
}

/// A refusal, as the protocol's routes word them: plain text.
pub(crate) fn refuse(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into()).into_response()
}

/// Checks a worker's bearer token.
fn authorize(studio: &Studio, worker: &str, headers: &http::HeaderMap) -> Result<(), Refused> {
    let token = crate::secrets::bearer(headers).ok_or(Refused::Token)?;
    match studio.core().authenticate(worker, token) {
        None => Err(Refused::Worker),
        Some(false) => Err(Refused::Token),
        Some(true) => Ok(()),
    }
}

/// Why a worker's request is refused.
#[derive(Clone, Copy, Debug)]
enum Refused {
    /// No such worker.
    Worker,
    /// No token, or not this worker's newest one.
    Token,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Worker => refuse(StatusCode::NOT_FOUND, "worker not found"),
            Self::Token => refuse(StatusCode::UNAUTHORIZED, "token not accepted"),
        }
    }
}
