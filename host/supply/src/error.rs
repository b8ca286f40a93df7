//! How fetching a plugin fails.

use worker_egress::DownloadError;

use crate::reference::BadReference;

/// Why no plugin came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupplyError {
    /// It is no URL.
    #[error(
        "{address} is no address that a plugin can be fetched from; use https://… or oci://HOST/NAME:TAG"
    )]
    NoAddress {
        /// What was given, fit to be shown.
        address: String,
    },
    /// What stands behind `oci://` names no artifact.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// A request was refused, or brought no answer.
    #[error(transparent)]
    Request(#[from] DownloadError),
    /// Any other answer than the one asked for.
    #[error("{url} answered HTTP {status}: {}", match *.status { 401 | 403 => "it wants a login; give one for this host in network.toml", 404 => "there is no such thing; check the name, the tag and the digest", 429 | 500..=599 => "it has a problem of its own, try later", _ => "that is no plugin" })]
    Status {
        /// What was asked for.
        url: String,
        /// Its answer.
        status: u16,
    },
    /// The registry sends whoever asks to a place where tokens are given, in a way that is not followed.
    #[error("the registry wants a token, and its word on where to get one cannot be used: {why}")]
    Challenge {
        /// What is wrong with it.
        why: String,
    },
    /// A document is not what it should be.
    #[error("{what} cannot be read: {why}; have it published anew")]
    Unreadable {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The bytes are not those that were named.
    #[error(
        "{what} has the digest {found}, and {wanted} was asked for: the registry, or somebody between, has changed it"
    )]
    Digest {
        /// Which.
        what: &'static str,
        /// What was named.
        wanted: String,
        /// What came.
        found: String,
    },
    /// The artifact holds no component, or several.
    #[error("{reference} is no plugin: {why}")]
    NoPlugin {
        /// Which.
        reference: String,
        /// What it is instead.
        why: String,
    },
}

impl SupplyError {
    /// Whether the same request may succeed later with nothing changed by anybody.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Request(error) => error.retryable(),
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}
