//! How a download fails, in words for whoever runs the worker.

use std::io;
use std::time::Duration;

use url::Url;

use crate::policy::UrlRefusal;

/// Why a file did not come. `url` is always as [`shown_url`] shows it: without query and user name, which hold tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// 404 or 410.
    #[error(
        "{url} is not there (HTTP {status}): correct the URL in the studio's registry, or put the file back"
    )]
    NotFound {
        /// What was asked for.
        url: String,
        /// 404 or 410.
        status: u16,
    },
    /// 401 or 403.
    #[error(
        "{url} wants a login (HTTP {status}): use a public mirror, or grant the worker a token for that host"
    )]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// Any other answer than a file.
    #[error("{url} answered HTTP {status}: {}", if is_transient(*.status) { "the host has a problem of its own, try later" } else { "the URL does not lead to a file" })]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: u16,
    },
    /// A redirect that leads nowhere, or one too many.
    #[error("{url} redirects {why}: correct the URL in the studio's registry")]
    Redirect {
        /// What was asked for.
        url: String,
        /// `more than 5 times`, `without saying where to`.
        why: String,
    },
    /// Longer than the limit.
    #[error("{url} is longer than the {limit} bytes allowed")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The host promised more than it sent.
    #[error("{url} ended after {got} of {promised} bytes: the connection was cut, try again")]
    Truncated {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that were promised.
        promised: u64,
    },
    /// Sent compressed although the file as it is was asked for; what would be stored is not the file.
    #[error("{url} comes encoded as {encoding}, which was not asked for: use another mirror")]
    Encoded {
        /// What was asked for.
        url: String,
        /// The encoding named.
        encoding: String,
    },
    /// Other bytes than the ones wanted.
    #[error(
        "{url} has SHA-256 {found}, not {wanted}: the file was changed or the registry is wrong"
    )]
    DigestMismatch {
        /// What was asked for.
        url: String,
        /// In hexadecimal.
        wanted: String,
        /// In hexadecimal.
        found: String,
    },
    /// Nothing, or next to nothing, came any more.
    #[error("{url} sent almost nothing for {} s: check the network, try again", .after.as_secs())]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// Never asked for.
    #[error("{url} is refused: {why}")]
    Refused {
        /// What would have been asked for.
        url: String,
        /// The rule that it breaks.
        why: UrlRefusal,
    },
    /// A `data:` URL that does not decode.
    #[error("the data: URL is not valid: {why}")]
    DataUrl {
        /// What is wrong with it.
        why: &'static str,
    },
    /// No connection, a broken one, or no valid certificate.
    #[error("{url} cannot be reached: {cause}; check the network and the host's name")]
    Transport {
        /// What was asked for.
        url: String,
        /// The innermost cause.
        cause: String,
    },
    /// The file cannot be written here.
    #[error("the download of {url} cannot be stored: {source}{}", if *.full { "; make room on the disk" } else { "" })]
    Disk {
        /// What was asked for.
        url: String,
        /// Whether the disk, or the quota, is full.
        full: bool,
        /// What the system said.
        source: io::Error,
    },
    /// The host answers ranges with something else, or its file changes while it is sent.
    #[error(
        "{url} was answered inconsistently ({why}): the file changes while it is sent, or a proxy between is broken; try later or use another mirror"
    )]
    Inconsistent {
        /// What was asked for.
        url: String,
        /// What did not fit.
        why: &'static str,
    },
    /// Somebody else is at the same partial file.
    #[error(
        "{url} is being downloaded by another process on this machine: wait for that one, or stop it"
    )]
    Busy {
        /// What was asked for.
        url: String,
    },
    /// The caller did not want it any more.
    #[error("the download of {url} was cancelled")]
    Cancelled {
        /// What was asked for.
        url: String,
    },
}

impl DownloadError {
    /// Whether the same request may succeed later with nothing changed by anybody.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Truncated { .. }
            | Self::Stalled { .. }
            | Self::Transport { .. }
            | Self::Inconsistent { .. }
            | Self::Busy { .. } => true,
            Self::Status { status, .. } => is_transient(*status),
            Self::NotFound { .. }
            | Self::Unauthorized { .. }
            | Self::Redirect { .. }
            | Self::TooLarge { .. }
            | Self::Encoded { .. }
            | Self::DigestMismatch { .. }
            | Self::Refused { .. }
            | Self::DataUrl { .. }
            | Self::Disk { .. }
            | Self::Cancelled { .. } => false,
        }
    }
}

/// Whether a host says with this answer that it is not the request's fault.
#[must_use]
pub fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// A URL as it may stand in a log or a message: scheme, host, port and path, no user name, query or fragment, at most
/// 200 characters of path. Of a `data:` URL nothing but that it is one.
#[must_use]
pub fn shown_url(text: &str) -> String {
    if is_data(text) {
        return "data: URL".to_owned();
    }
    Url::parse(text).map_or_else(|_| "malformed URL".to_owned(), |url| shown_parsed(&url))
}

pub(crate) fn shown_parsed(url: &Url) -> String {
    let path: String = url
        .path()
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect();
    let host = url.host_str().unwrap_or("");
    match url.port() {
        Some(port) => format!("{}://{host}:{port}{path}", url.scheme()),
        None => format!("{}://{host}{path}", url.scheme()),
    }
}

/// Whether it is a `data:` URL, by its first five characters.
pub(crate) fn is_data(text: &str) -> bool {
    text.get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}
