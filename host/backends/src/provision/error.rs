//! How getting a release fails, in words for whoever runs the worker.

use std::io;
use std::path::PathBuf;

use worker_egress::DownloadError;

use super::{ArchiveError, KnownError};

/// Why a release is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// It did not come, or not as the plugin pins it.
    #[error("the program's release cannot be downloaded: {0}")]
    Download(DownloadError),
    /// It came, and is not one to unpack.
    #[error("the archive of the program's release, {url}, is refused: {why}")]
    Archive {
        /// Where it came from.
        url: String,
        /// The rule that it breaks.
        why: ArchiveError,
    },
    /// Another archive than the first one from the same address.
    #[error(
        "the archive at {url} is not the one it was: SHA-256 {found}, and {known} when it was first used; \
         if its publisher says that this is right, run `studio-worker programs accept {found}`"
    )]
    Changed {
        /// Where it came from.
        url: String,
        /// Digest of the first one.
        known: String,
        /// Digest now.
        found: String,
    },
    /// The plugin's pin is no digest.
    #[error("the plugin pins {url} to {text:?}, which is no SHA-256 digest")]
    Pin {
        /// The address.
        url: String,
        /// What stands there.
        text: String,
    },
    /// No such program in the archive, or more than one.
    #[error("the archive {url} holds {count} files named `{program}`; it must hold one")]
    Program {
        /// The archive.
        url: String,
        /// The program's file name.
        program: String,
        /// How many there are.
        count: usize,
    },
    /// The record of trusted archives cannot be used.
    #[error("the record of trusted archives cannot be used: {0}")]
    Known(#[from] KnownError),
    /// The system refused.
    #[error("the release cannot be kept in {}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The caller did not want it any more.
    #[error("the download of the program's release was cancelled")]
    Cancelled,
}

impl ProvisionError {
    /// Whether trying again can help without anybody changing anything.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Download(DownloadError::Disk { .. }) | Self::Io { .. } | Self::Cancelled => true,
            Self::Download(error) => error.retryable(),
            Self::Archive { why, .. } => why.retryable(),
            Self::Known(error) => error.retryable(),
            Self::Changed { .. } | Self::Pin { .. } | Self::Program { .. } => false,
        }
    }
}
