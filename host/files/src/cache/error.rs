//! Why the cache cannot be used, in words for whoever runs the worker.

use std::io;
use std::path::{Path, PathBuf};

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The file is another one than its key says.
    #[error("the file has SHA-256 {found}, not {wanted}: it was changed, or the registry is wrong")]
    Digest {
        /// In hexadecimal.
        wanted: String,
        /// In hexadecimal.
        found: String,
    },
    /// What lies on the disk is not what came.
    #[error("{} has {found} bytes on the disk, but {wanted} came: check the disk", .path.display())]
    Length {
        /// The unfinished file.
        path: PathBuf,
        /// Bytes that came.
        wanted: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Something else has the place of a file of the cache.
    #[error("{} is not a regular file: remove it", .path.display())]
    NotRegular {
        /// What is in the way.
        path: PathBuf,
    },
    /// A file without a known digest was touched: nobody can say whether it is the same.
    #[error("{} was changed since it was last checked: move it away, so that it is fetched again", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The disk has not the room that the file needs.
    #[error("the download needs {needed} bytes but {} has {free} free: make room on the disk, or remove models (studio-worker models gc --max GB)", .path.display())]
    Space {
        /// The cache.
        path: PathBuf,
        /// Bytes that must still come, and a tenth.
        needed: u64,
        /// Bytes free for this user.
        free: u64,
        /// Bytes that the cache holds itself.
        held: u64,
    },
    /// The budget has not the room that the file needs.
    #[error(
        "the download of {needed} bytes does not fit models_budget_gb: {held} of {budget} bytes are pinned or in use; raise it, or unpin models"
    )]
    Budget {
        /// Bytes of the new file.
        needed: u64,
        /// Bytes that cannot be removed.
        held: u64,
        /// The bound.
        budget: u64,
    },
    /// Somebody uses it right now.
    #[error("{name} is in use by a job or a command; try again when that has ended")]
    InUse {
        /// The entry's name.
        name: String,
    },
    /// It is not to be removed.
    #[error("{name} is pinned; unpin it first (studio-worker models unpin)")]
    Pinned {
        /// The entry's name.
        name: String,
    },
    /// It is the operator's.
    #[error("{} lies where an older worker put it and is not this worker's to remove: delete that file yourself", .path.display())]
    Adopted {
        /// The file.
        path: PathBuf,
    },
    /// No entry is called so.
    #[error("no model is called {wanted:?}; see studio-worker models list")]
    Unknown {
        /// What was asked for.
        wanted: String,
    },
    /// Several entries are called so.
    #[error("{wanted:?} means more than one model ({}); give more of an id", .ids.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// A lock was not given up for half a minute.
    #[error("{} stays locked: another command works on that model; try again when it has ended", .path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{} in the model cache: {source}; check the folder's permissions and the disk", .path.display())]
    Io {
        /// What was looked at, made or moved.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no randomness for a name.
    #[error("the system's random generator fails: {0}")]
    Random(getrandom::Error),
    /// The caller did not want it any more.
    #[error("it was cancelled")]
    Cancelled,
    /// The worker is going down.
    #[error("the worker is stopping")]
    Stopping,
}

impl CacheError {
    /// Whether the same may go well later, here or on another worker, without the registry or the plugin changing.
    #[must_use]
    pub fn retryable(&self) -> bool {
        !matches!(
            self,
            Self::NotRegular { .. } | Self::Changed { .. } | Self::Cancelled
        )
    }
}

pub(super) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> CacheError + '_ {
    move |source| CacheError::Io {
        path: path.to_owned(),
        source,
    }
}
