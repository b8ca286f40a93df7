//! Registration and its polls.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use worker_wire::RegisterRequest;

use super::refuse;
use crate::core::{Poll, RegisterRefusal};
use crate::secrets;
use crate::serve::Peer;
use crate::studio::Studio;

/// Route R1.
pub(super) async fn request(
    State(studio): State<Arc<Studio>>,
    peer: Option<Extension<Peer>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse(rejection.status(), rejection.body_text()),
    };
    let request: RegisterRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("not a register request: {error}"),
            );
        }
    };
    let address = peer.map(|Extension(Peer(address))| address.ip());
    let taken = studio.core().register(request, address);
    match taken {
        Ok((answer, receipt)) => match receipt.committed().await {
            Ok(()) => Json(answer).into_response(),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        Err(refusal) => {
            let status = match refusal {
                RegisterRefusal::BadInstallId | RegisterRefusal::BadHash => StatusCode::BAD_REQUEST,
                RegisterRefusal::TooMany => StatusCode::TOO_MANY_REQUESTS,
                RegisterRefusal::NoRandomness => StatusCode::INTERNAL_SERVER_ERROR,
            };
            refuse(status, refusal.to_string())
        }
    }
}

/// Route R2.
pub(super) async fn poll(
    State(studio): State<Arc<Studio>>,
    Path(request): Path<String>,
    headers: HeaderMap,
) -> Response {
    let polled = studio.core().poll(&request, secrets::bearer(&headers));
    match polled {
        Poll::Unknown => refuse(StatusCode::NOT_FOUND, "request not found"),
        Poll::WrongSecret => refuse(StatusCode::UNAUTHORIZED, "secret not accepted"),
        Poll::Answer(answer, None) => Json(answer).into_response(),
        // The token is good only once its hash is recorded: a restart must not forget it.
        Poll::Answer(answer, Some(receipt)) => match receipt.committed().await {
            Ok(()) => Json(answer).into_response(),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
    }
}
