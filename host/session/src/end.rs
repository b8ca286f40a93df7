//! How a session ends, and what each way means for the next one.

use worker_wire::{CloseCode, ErrorCode};

use crate::text::one_line;

/// Characters of a studio's reason that are kept.
const REASON_CHARS: usize = 300;

/// Why a session, or the attempt to open one, is over.
#[derive(Debug)]
pub(crate) enum End {
    /// Told to stop.
    Stopped,
    /// Worth another attempt.
    Disconnected { cause: String },
    /// Another process runs as this worker: worth another attempt, later.
    Duplicate { cause: String },
    /// The token is not accepted.
    AuthFailed { reason: String },
    /// The worker was removed at the studio.
    Revoked { cause: String },
    /// The studio said that connecting again is pointless.
    Fatal { code: ErrorCode, message: String },
}

impl End {
    pub(crate) fn disconnected(cause: impl Into<String>) -> Self {
        Self::Disconnected {
            cause: cause.into(),
        }
    }

    /// What an `error` frame means; `None` for a word that this worker does not know, which ends nothing.
    pub(crate) fn of_error(code: ErrorCode, message: &str) -> Option<Self> {
        let message = one_line(message, REASON_CHARS);
        let said = format!("error {}: {message}", code.as_wire());
        match code {
            ErrorCode::AuthFailed => Some(Self::AuthFailed { reason: said }),
            ErrorCode::WorkerDeleted => Some(Self::Revoked { cause: said }),
            ErrorCode::DuplicateWorker => Some(Self::Duplicate { cause: said }),
            ErrorCode::ProtocolViolation | ErrorCode::InternalError => {
                Some(Self::Fatal { code, message })
            }
            ErrorCode::Other(_) => None,
        }
    }

    /// What the studio's close means.
    pub(crate) fn of_close(close: Option<(CloseCode, &str)>) -> Self {
        let Some((code, reason)) = close else {
            return Self::disconnected("the studio closed the session without a code");
        };
        let said = format!("close {}: {}", code.0, one_line(reason, REASON_CHARS));
        match code {
            CloseCode::AUTH_FAILED => Self::AuthFailed { reason: said },
            CloseCode::WORKER_DELETED => Self::Revoked { cause: said },
            CloseCode::DUPLICATE_WORKER => Self::Duplicate { cause: said },
            _ => Self::Disconnected { cause: said },
        }
    }

    /// Whether the worker's close is news to the studio, so that it is worth waiting until it has been read.
    pub(crate) fn is_said_by_worker(&self) -> bool {
        !matches!(self, Self::Disconnected { .. } | Self::Duplicate { .. })
    }

    /// Reason text of the close that the worker sends; its code is always 1000.
    pub(crate) fn close_reason(&self, welcomed: bool) -> &'static str {
        match self {
            Self::AuthFailed { .. } => "auth failed",
            Self::Revoked { .. } => "registration revoked",
            Self::Fatal { .. } if !welcomed => "protocol violation",
            _ => "session ended",
        }
    }
}
