//! Taking a result in.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Path, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::{StatusCode, header};
use worker_wire::JobId;

use super::upload::{UploadError, receive};
use super::{authorize, refuse};
use crate::core::{TakeError, UploadRefusal};
use crate::store::{Receipt, StoreError};
use crate::studio::Studio;

/// Body bytes of a refused upload that are read and thrown away, so that the sender gets to read the answer
/// instead of a reset connection. More would let the refused keep the studio busy.
const DRAIN_BYTES: usize = 64 << 20;

/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Route R4.
pub(super) async fn complete(
    State(studio): State<Arc<Studio>>,
    Path((worker, job)): Path<(String, String)>,
    request: Request,
) -> Response {
    if let Err(refused) = authorize(&studio, &worker, request.headers()) {
        return after_draining(request, refused.into_response()).await;
    }
    let begun = JobId::parse(&job)
        .map_err(|_| UploadRefusal::NotClaimed)
        .and_then(|id| studio.core().begin_upload(&worker, &id).map(|()| id));
    let id = match begun {
        Ok(id) => id,
        Err(refusal) => return after_draining(request, answer(refusal)).await,
    };
    let mark = Mark {
        studio: Arc::clone(&studio),
        id: id.clone(),
    };
    let limit = studio.core().limits.upload_bytes;
    if declared(&request).is_some_and(|bytes| bytes > limit.saturating_add(super::UPLOAD_SLACK)) {
        let error = UploadError::TooLarge(limit);
        return after_draining(request, refuse(error.status(), error.to_string())).await;
    }
    let response = store(&studio, &worker, &id, limit, request).await;
    drop(mark);
    response
}

async fn store(
    studio: &Arc<Studio>,
    worker: &str,
    id: &JobId,
    limit: u64,
    request: Request,
) -> Response {
    let stall = studio.core().timing.stall;
    let form = match Multipart::from_request(request, &()).await {
        Ok(form) => form,
        Err(rejection) => return refuse(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let (upload, part) = match receive(form, &studio.results, limit, stall).await {
        Ok(received) => received,
        Err(error) => {
            tracing::warn!(worker, job = %id, %error, "upload refused");
            return refuse(error.status(), error.to_string());
        }
    };
    let taken = studio.core().take_upload(worker, id, &upload, part.path());
    let receipt = match taken {
        Ok(receipt) => receipt,
        Err(TakeError::Refused(refusal)) => return answer(refusal),
        Err(TakeError::Disk(error)) => {
            let error = UploadError::Disk(error);
            return refuse(error.status(), error.to_string());
        }
    };
    part.placed();
    match recorded(Arc::clone(studio), worker.to_owned(), id.clone(), receipt).await {
        Ok(()) => refuse(StatusCode::OK, "complete"),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Waits for the record of an upload, in a task of its own: a sender that hangs up now would else leave the job
/// without an end.
async fn recorded(
    studio: Arc<Studio>,
    worker: String,
    id: JobId,
    receipt: Receipt,
) -> Result<(), StoreError> {
    let tasks = studio.tasks.clone();
    let settled = tasks.spawn(async move {
        let committed = receipt.committed().await;
        let mut core = studio.core();
        match committed {
            Ok(()) => core.delivered(&worker, &id),
            Err(_) => core.unsettle(&id),
        }
        committed
    });
    settled.await.unwrap_or(Err(StoreError::Closed))
}

fn answer(refusal: UploadRefusal) -> Response {
    match refusal {
        UploadRefusal::NotClaimed => refuse(
            StatusCode::CONFLICT,
            "the job is not claimed by this worker",
        ),
        UploadRefusal::AlreadyHere => refuse(StatusCode::OK, "complete already"),
        UploadRefusal::Recording => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "a result of the job is being recorded; ask again",
        ),
    }
}

fn declared(request: &Request) -> Option<u64> {
    let value = request.headers().get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

/// Reads a refused body, within bounds, before answering.
async fn after_draining(request: Request, response: Response) -> Response {
    drain(request.into_body()).await;
    response
}

pub(crate) async fn drain(body: Body) {
    let mut chunks = body.into_data_stream();
    let reading = async {
        let mut bytes = 0usize;
        while let Some(Ok(chunk)) = chunks.next().await {
            bytes = bytes.saturating_add(chunk.len());
            if bytes > DRAIN_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

/// Marks a job as being uploaded, for as long as it lives: the request may be dropped at any await.
struct Mark {
    studio: Arc<Studio>,
    id: JobId,
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.studio.core().end_upload(&self.id);
    }
}
