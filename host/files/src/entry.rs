//! What is known of a job's file, and why something cannot be done with it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::{CacheError, CachedFile, InUse};
use crate::name::BadName;

/// Number of a file within its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

impl std::fmt::Display for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a plugin may know of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its number.
    pub id: FileId,
    /// Bare and checked.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// By content; none where that does not tell.
    pub media_type: Option<&'static str>,
}

/// What the host knows of a file.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What a plugin may know.
    pub info: FileInfo,
    /// Absolute.
    pub path: PathBuf,
    /// Whether it belongs to the model cache and outlives the job.
    pub cached: bool,
    /// Its place in the model cache: held so that nothing removes it, and looked at before each use.
    pub(crate) model: Option<CachedFile>,
}

/// Why something cannot be done with a job's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The plugin named a number that the job does not have.
    #[error("the job has no file {0}: the plugin named a number that it was never given")]
    NoSuchFile(FileId),
    /// A name that is no bare name.
    #[error("{name:?} cannot be a file's name: {why}")]
    Name {
        /// The name, shortened.
        name: String,
        /// The rule that it breaks.
        why: BadName,
    },
    /// More than a limit allows.
    #[error("{what} would take {bytes} bytes, more than the {limit} allowed")]
    TooLarge {
        /// `reading file 3`, `the job's files together`.
        what: String,
        /// What it takes.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// More files than a limit allows.
    #[error("{what} would be more than {limit} files")]
    TooMany {
        /// `the job`, `the command`.
        what: &'static str,
        /// What is allowed.
        limit: usize,
    },
    /// Two outputs of one command from its standard output.
    #[error("a command has one standard output, but several outputs ask for it")]
    SecondStdout,
    /// A link, a directory or a device where a file should be.
    #[error("{} is not a regular file", .path.display())]
    NotRegular {
        /// What it is instead of a file.
        path: PathBuf,
    },
    /// Nobody knows how much is there.
    #[error("{} holds a folder that cannot be looked into, so that what it takes is unknown: the command shut it, or nested it too deep", .path.display())]
    Closed {
        /// The job's directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: {source}{}", .path.display(), if is_full(.source) { "; make room on the disk" } else { "" })]
    Io {
        /// What was opened, made or moved.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A model file is not what it was when the job got it.
    #[error(transparent)]
    Model(#[from] CacheError),
    /// The worker is going down.
    #[error("the worker is stopping")]
    Stopping,
}

impl Entry {
    /// What keeps a file of the model cache from being removed, for whoever uses it longer than the job; none for the
    /// job's own files.
    #[must_use]
    pub fn hold(&self) -> Option<Arc<InUse>> {
        self.model.as_ref().map(|model| model.in_use.clone())
    }

    /// That a model file is still the one that was checked. A job's own files are its own affair.
    pub(crate) fn check(&self) -> Result<(), FileError> {
        match &self.model {
            Some(model) => Ok(model.check()?),
            None => Ok(()),
        }
    }
}

impl FileError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
