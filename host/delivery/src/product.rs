//! What a job made, as it is handed over.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use worker_wire::JobId;

use crate::id::EntryId;
use crate::row::Row;

/// A finished job's product, with all that delivering it later needs.
#[derive(Debug)]
pub struct Product {
    /// The job.
    pub job_id: JobId,
    /// Its task kind, for people.
    pub kind: String,
    /// Its model, for people.
    pub model: String,
    /// The full text that people know the job by; it goes to the studio with the result.
    pub prompt: String,
    /// Base URL of the studio that offered it.
    pub studio: String,
    /// The worker's id at that studio.
    pub worker_id: String,
    /// Number of the session that it was accepted in.
    pub session: u64,
    /// When it was finished.
    pub finished_at: SystemTime,
    /// What there is to deliver.
    pub payload: Payload,
}

/// What there is to deliver.
#[derive(Debug)]
pub enum Payload {
    /// A file: uploaded.
    Media {
        /// Its content.
        content: MediaContent,
        /// Extension without dot: 1 to 16 ASCII letters or digits.
        ext: String,
        /// Media type, where the job knows better than the extension.
        media_type: Option<String>,
    },
    /// A JSON result, verbatim: sent as a frame.
    Json(String),
    /// The job failed: sent as a frame.
    Failure {
        /// What, why, what to do: one line.
        message: String,
        /// Whether the studio should offer it again.
        retryable: bool,
    },
}

/// Where media is before it is kept.
#[derive(Debug)]
pub enum MediaContent {
    /// A regular file. It is moved into the spool, or copied when it lies on another filesystem.
    File(PathBuf),
    /// Bytes in memory.
    Bytes(Bytes),
}

/// A product that is safe on disk.
#[derive(Clone, Debug)]
pub struct Kept {
    pub(crate) id: EntryId,
    pub(crate) row: Arc<Row>,
    /// Small media as they were kept, so that sending them reads nothing. Others are read from the disk.
    pub(crate) bytes: Option<Bytes>,
}

impl Kept {
    /// Its name in the spool, and later in the aside.
    pub fn id(&self) -> &EntryId {
        &self.id
    }

    /// The job it belongs to.
    pub fn job(&self) -> &str {
        &self.row.job
    }
}
