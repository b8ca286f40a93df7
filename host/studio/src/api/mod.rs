//! The routes that people and commands use: JSON in, JSON out, errors as `{"error": code, "message": text}`.

mod error;
mod jobs;
mod results;
mod updates;
mod workers;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post, put};

use crate::components::COMPONENT_BYTES;
use crate::studio::Studio;

pub(crate) use error::ApiError;
pub(crate) use results::bytes;

/// Largest body of a route that only takes a few words.
const SMALL_BODY: usize = 1 << 20;

pub(crate) fn router(studio: Arc<Studio>) -> Router {
    Router::new()
        .route(
            "/api/jobs",
            get(jobs::list)
                .post(jobs::submit)
                .layer(DefaultBodyLimit::max(crate::guard::MAX_BODY_BYTES)),
        )
        .route("/api/jobs/{job}", get(jobs::one))
        .route("/api/jobs/{job}/result", get(results::result))
        .route("/api/jobs/{job}/cancel", post(jobs::cancel))
        .route("/api/workers", get(workers::list))
        .route("/api/workers/pending", get(workers::pending))
        .route(
            "/api/workers/pending/{request}/approve",
            post(workers::approve),
        )
        .route(
            "/api/workers/pending/{request}/reject",
            post(workers::reject).layer(DefaultBodyLimit::max(SMALL_BODY)),
        )
        .route("/api/workers/{worker}", delete(workers::remove))
        .route(
            "/api/components/{digest}",
            put(updates::component).layer(DefaultBodyLimit::max(COMPONENT_BYTES)),
        )
        .route(
            "/api/updates",
            get(updates::list)
                .post(updates::begin)
                .layer(DefaultBodyLimit::max(SMALL_BODY)),
        )
        .route("/api/updates/{update}", get(updates::one))
        .route("/api/updates/{update}/cancel", post(updates::cancel))
        .route("/api/logs", get(workers::logs))
        .with_state(studio)
}
