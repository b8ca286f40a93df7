//! The row of a product: one JSON file, complete or absent.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::unix_millis;
use crate::product::{Payload, Product};

/// Version of the row's format; a row of a later one is kept aside rather than misread.
pub(crate) const VERSION: u32 = 1;

/// Longest row read, in bytes: a JSON result as large as the largest frame, with room for the rest. A larger file is
/// none of ours.
pub(crate) const MAX_ROW_BYTES: u64 = 80 * 1024 * 1024;

/// What is known of a product, on disk. Exactly one of `media`, `json` and `failure` is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) version: u32,
    pub(crate) job: String,
    pub(crate) kind: String,
    pub(crate) model: String,
    pub(crate) prompt: String,
    pub(crate) studio: String,
    pub(crate) worker_id: String,
    pub(crate) session: u64,
    /// Random id of the process that kept it: session numbers begin anew with each.
    pub(crate) process: String,
    pub(crate) finished_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) media: Option<MediaRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) json: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<FailureRow>,
    /// Only in the aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aside: Option<AsideRow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MediaRow {
    pub(crate) ext: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FailureRow {
    pub(crate) message: String,
    pub(crate) retryable: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AsideRow {
    pub(crate) reason: String,
    pub(crate) at_ms: u64,
}

/// Why a product cannot become a row.
#[derive(Debug)]
pub(crate) enum RowError {
    NotJson,
    Extension,
}

impl Row {
    /// The row of a product. The size of media is filled in when it is known.
    pub(crate) fn of(product: &Product, process: &str, bytes: u64) -> Result<Self, RowError> {
        let mut row = Self {
            version: VERSION,
            job: product.job_id.as_str().to_owned(),
            kind: product.kind.clone(),
            model: product.model.clone(),
            prompt: product.prompt.clone(),
            studio: product.studio.clone(),
            worker_id: product.worker_id.clone(),
            session: product.session,
            process: process.to_owned(),
            finished_at_ms: unix_millis(product.finished_at),
            media: None,
            json: None,
            failure: None,
            aside: None,
        };
        match &product.payload {
            Payload::Media {
                ext, media_type, ..
            } => {
                if !is_extension(ext) {
                    return Err(RowError::Extension);
                }
                row.media = Some(MediaRow {
                    ext: ext.clone(),
                    media_type: media_type.clone(),
                    bytes,
                });
            }
            Payload::Json(text) => {
                row.json =
                    Some(RawValue::from_string(text.clone()).map_err(|_| RowError::NotJson)?);
            }
            Payload::Failure { message, retryable } => {
                row.failure = Some(FailureRow {
                    message: message.clone(),
                    retryable: *retryable,
                });
            }
        }
        Ok(row)
    }

    /// Reads a row; `None` for anything that is not one whole row of this version.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let row: Self = serde_json::from_slice(bytes).ok()?;
        let parts = usize::from(row.media.is_some())
            + usize::from(row.json.is_some())
            + usize::from(row.failure.is_some());
        (row.version == VERSION && parts == 1).then_some(row)
    }

    /// The file's content.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// An extension becomes part of a file name at the studio.
fn is_extension(ext: &str) -> bool {
    (1..=16).contains(&ext.len()) && ext.bytes().all(|b| b.is_ascii_alphanumeric())
}
