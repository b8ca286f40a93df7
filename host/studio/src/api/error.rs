//! Errors of the local routes.

use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::components::ComponentError;
use crate::core::{ApprovalError, CancelError, PushError, SubmitError};
use crate::options::ComposeError;
use crate::store::StoreError;

/// What a local route answers when it does not do what was asked.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    known: Option<Vec<String>>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            known: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn unknown_job() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_job",
            "there is no such job; finished ones leave the history after a while",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({"error": self.code, "message": self.message});
        if let (Some(known), Some(object)) = (self.known, body.as_object_mut()) {
            object.insert("known".to_owned(), known.into());
        }
        (self.status, Json(body)).into_response()
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        let status = rejection.status();
        let code = if status == StatusCode::PAYLOAD_TOO_LARGE {
            "too_large"
        } else {
            "bad_request"
        };
        Self::new(status, code, rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let (status, code) = match error {
            SubmitError::NotAnObject(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            SubmitError::BadId(_) => (StatusCode::BAD_REQUEST, "bad_job_id"),
            SubmitError::Taken(_) => (StatusCode::CONFLICT, "job_exists"),
            SubmitError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            SubmitError::Full(_) => (StatusCode::SERVICE_UNAVAILABLE, "queue_full"),
            SubmitError::NoRandomness => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<ComposeError> for ApiError {
    fn from(error: ComposeError) -> Self {
        let message = error.to_string();
        let (code, known) = match error {
            ComposeError::UnknownKind { known } => ("unknown_kind", Some(known)),
            ComposeError::UnknownModel { known } => ("unknown_model", Some(known)),
            ComposeError::Failed { .. } => ("compose_failed", None),
        };
        Self {
            known,
            ..Self::new(StatusCode::BAD_REQUEST, code, message)
        }
    }
}

impl From<CancelError> for ApiError {
    fn from(error: CancelError) -> Self {
        let (status, code) = match error {
            CancelError::Unknown => return Self::unknown_job(),
            CancelError::Finished(_) | CancelError::Ending => {
                (StatusCode::CONFLICT, "already_finished")
            }
            CancelError::Deaf => (StatusCode::CONFLICT, "cannot_cancel"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<ApprovalError> for ApiError {
    fn from(error: ApprovalError) -> Self {
        let (status, code) = match error {
            ApprovalError::Unknown => (StatusCode::NOT_FOUND, "unknown_request"),
            ApprovalError::Decided => (StatusCode::CONFLICT, "already_decided"),
            ApprovalError::NoRandomness => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<PushError> for ApiError {
    fn from(error: PushError) -> Self {
        let (status, code) = match error {
            PushError::Malformed(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            PushError::Unsigned => (StatusCode::BAD_REQUEST, "unsigned"),
            PushError::NoComponent => (StatusCode::CONFLICT, "no_component"),
            PushError::UnknownWorker(_) => (StatusCode::NOT_FOUND, "unknown_worker"),
            PushError::Running(_) => (StatusCode::CONFLICT, "under_way"),
            PushError::Unknown => (StatusCode::NOT_FOUND, "unknown_update"),
            PushError::Ended => (StatusCode::CONFLICT, "already_ended"),
            PushError::NoRandomness => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<ComponentError> for ApiError {
    fn from(error: ComponentError) -> Self {
        let (status, code) = match error {
            ComponentError::Digest { .. } => (StatusCode::BAD_REQUEST, "wrong_digest"),
            ComponentError::Size => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            ComponentError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "full"),
            ComponentError::Disk(_) => (StatusCode::INSUFFICIENT_STORAGE, "not_kept"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "not_recorded",
            error.to_string(),
        )
    }
}
