//! Close codes, error codes, and the reject words that studios match on.

/// Code of an `error` frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The token is not accepted.
    AuthFailed,
    /// A frame that the studio did not expect.
    ProtocolViolation,
    /// The same worker connected again elsewhere.
    DuplicateWorker,
    /// The worker was removed in the dashboard.
    WorkerDeleted,
    /// The studio failed.
    InternalError,
    /// A word that this worker does not know.
    Other(String),
}

impl ErrorCode {
    /// Reads the word of an `error` frame.
    pub fn from_wire(word: &str) -> Self {
        match word {
            "auth_failed" => Self::AuthFailed,
            "protocol_violation" => Self::ProtocolViolation,
            "duplicate_worker" => Self::DuplicateWorker,
            "worker_deleted" => Self::WorkerDeleted,
            "internal_error" => Self::InternalError,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The word on the wire.
    pub fn as_wire(&self) -> &str {
        match self {
            Self::AuthFailed => "auth_failed",
            Self::ProtocolViolation => "protocol_violation",
            Self::DuplicateWorker => "duplicate_worker",
            Self::WorkerDeleted => "worker_deleted",
            Self::InternalError => "internal_error",
            Self::Other(word) => word,
        }
    }

    /// The close code that follows it.
    pub fn close(&self) -> CloseCode {
        match self {
            Self::AuthFailed => CloseCode::AUTH_FAILED,
            Self::ProtocolViolation => CloseCode::PROTOCOL_VIOLATION,
            Self::DuplicateWorker => CloseCode::DUPLICATE_WORKER,
            Self::WorkerDeleted => CloseCode::WORKER_DELETED,
            Self::InternalError | Self::Other(_) => CloseCode::NORMAL,
        }
    }
}

/// A WebSocket close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// An ordinary end; what a worker always sends.
    pub const NORMAL: Self = Self(1000);
    /// Pairs with `auth_failed`.
    pub const AUTH_FAILED: Self = Self(4001);
    /// Pairs with `protocol_violation`.
    pub const PROTOCOL_VIOLATION: Self = Self(4002);
    /// Pairs with `duplicate_worker`.
    pub const DUPLICATE_WORKER: Self = Self(4003);
    /// Pairs with `worker_deleted`.
    pub const WORKER_DELETED: Self = Self(4004);
}

/// Reject codes and the texts that older studios match byte for byte.
pub mod reject {
    /// Code: the worker has a job.
    pub const BUSY: &str = "busy";
    /// Code: the operator paused the worker.
    pub const PAUSED: &str = "paused";
    /// Code: it would not fit into memory.
    pub const INSUFFICIENT_MEMORY: &str = "insufficient_memory";
    /// Code: the claim cannot be read.
    pub const BAD_OFFER: &str = "bad_offer";
    /// Code: the plugin that the router named is not there.
    pub const UNSUPPORTED_ENGINE: &str = "unsupported_engine";
    /// Code: a plugin failed while it decided.
    pub const PLUGIN_FAULT: &str = "plugin_fault";
    /// Text that goes with [`BUSY`].
    pub const BUSY_TEXT: &str = "worker already has an in-flight job";
    /// Text that goes with [`PAUSED`].
    pub const PAUSED_TEXT: &str = "worker paused by operator";
}
