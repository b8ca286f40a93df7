//! What can end a session for good, and what can go wrong around it.

use std::num::NonZeroU32;

use worker_wire::ErrorCode;

/// Why [`crate::run`] gave up. Everything else is mended by connecting again.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The studio does not accept the token.
    #[error(
        "the studio refused this worker's token ({reason}); run `studio-worker register --reset` to register again"
    )]
    AuthFailed {
        /// Where and how it was refused.
        reason: String,
    },
    /// The operator said no.
    #[error(
        "registration rejected by the studio operator: {reason}. Run `studio-worker register --reset` to ask again"
    )]
    Rejected {
        /// The operator's words; may be empty.
        reason: String,
    },
    /// The studio ended the session with an error that connecting again would only repeat.
    #[error("the studio ended the session: {} ({message})", code.as_wire())]
    Fatal {
        /// Which error.
        code: ErrorCode,
        /// The studio's words.
        message: String,
    },
    /// As many connections in a row failed as the operator allows.
    #[error(
        "ws reconnect cap reached: {attempts} attempts in a row failed, the last one because {cause}; \
         check the studio's address, or raise `ws_reconnect_attempts` (0 means no limit)"
    )]
    ReconnectCap {
        /// How many attempts the operator allows.
        attempts: NonZeroU32,
        /// What the last one met.
        cause: String,
    },
    /// The operating system gave no random bytes. Anything else would be a guessable secret.
    #[error("the operating system gave no random bytes for the registration secret: {0}")]
    Randomness(getrandom::Error),
}

/// An identity could not be written. The text says which file and why, and carries no secret.
#[derive(Debug, thiserror::Error)]
#[error("the worker's identity could not be saved: {0}")]
pub struct SaveError(pub Box<dyn std::error::Error + Send + Sync>);

/// The TLS and HTTP clients could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No protocol version, or no trust store.
    #[error("TLS cannot be set up on this machine: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client refused its settings.
    #[error("the HTTP client cannot be set up: {0}")]
    Http(#[from] reqwest::Error),
}
