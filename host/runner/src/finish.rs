//! The chain of finishers: is it what it says it is, and what made it.

use std::sync::Arc;

use bytes::Bytes;
use worker_files::{FileError, FileId, JobFiles};
use worker_plugins::contract::{Job, Media, Output, Part, Product, Provenance};
use worker_plugins::{CallError, Generation};

use crate::report::Reporter;
use worker_wire::JobId;

/// A product as it goes to the studio.
#[derive(Debug)]
pub(crate) enum Ready {
    /// Bytes in memory.
    Bytes {
        bytes: Vec<u8>,
        ext: String,
        media_type: Option<String>,
    },
    /// A file of the job, as it is.
    File {
        path: std::path::PathBuf,
        ext: String,
        media_type: Option<String>,
    },
    /// A JSON document.
    Json(String),
}

/// Why a product was not finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FinishError {
    #[error("{message}")]
    Refused { message: String, retryable: bool },
    #[error(transparent)]
    Fault(#[from] CallError),
    #[error("the plugin's product cannot be used: {0}")]
    Unusable(String),
    #[error(
        "plugin `{plugin}` gave its product the extension {ext:?}, which cannot be used: {why}; use 1 to 16 ASCII letters or digits"
    )]
    Extension {
        plugin: String,
        ext: String,
        why: worker_files::BadName,
    },
}

/// The product before finishing: in memory where some finisher wants it, else where it lies.
pub(crate) async fn finish(
    generation: &Generation,
    job: &Arc<Job>,
    job_id: &JobId,
    output: Output,
    provenance: Provenance,
    files: Option<&JobFiles>,
    reporter: &Reporter,
) -> Result<Ready, FinishError> {
    let media = match output {
        // JSON passes untouched, if it is JSON.
        Output::Json(text) => {
            return match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => Ok(Ready::Json(text)),
                Err(error) => Err(FinishError::Unusable(format!(
                    "its JSON result is not JSON: {error}"
                ))),
            };
        }
        Output::Media(media) => media,
    };
    let Media {
        content,
        mut ext,
        mut media_type,
    } = media;
    // The plugin that made the product stands first.
    let engine = provenance.plugins.first().map_or("", |(name, ..)| name);
    sound_extension(engine, &ext)?;
    let mut held = Held::of(content, files).await?;
    for finisher in generation.finishers() {
        let Some(limit) = finisher.limit_for(&ext.to_ascii_lowercase()) else {
            continue;
        };
        if held.size() > limit {
            let name = &finisher.identity().name;
            reporter.warn(
                Some(job_id),
                format!("{name} passed the product by: {} bytes, it takes {limit} at most; delivered unchecked", held.size()),
            );
            continue;
        }
        let bytes = held.into_bytes().await?;
        let job = Arc::new(Job {
            settings: finisher.settings().to_owned(),
            ..Job::clone(job)
        });
        let product = Arc::new(Product::Media((bytes, ext.clone())));
        match finisher.finish(&job, product, provenance.clone()).await? {
            Ok(Product::Media((bytes, finished_ext))) => {
                sound_extension(&finisher.identity().name, &finished_ext)?;
                // Converted: what the engine said of the media type is no longer true.
                media_type = media_type.filter(|_| finished_ext.eq_ignore_ascii_case(&ext));
                ext = finished_ext;
                held = Held::Bytes(bytes);
            }
            Ok(Product::Json(_)) => {
                let name = &finisher.identity().name;
                return Err(FinishError::Unusable(format!(
                    "finisher `{name}` made JSON of a media product"
                )));
            }
            Err(failure) => {
                return Err(FinishError::Refused {
                    message: failure.message,
                    retryable: failure.retryable,
                });
            }
        }
    }
    Ok(held.ready(ext, media_type))
}

/// How much of a wrong extension is shown, in characters: a plugin may make it as long as it likes.
const SHOWN_EXTENSION: usize = 32;

fn sound_extension(plugin: &str, ext: &str) -> Result<(), FinishError> {
    worker_files::check_extension(ext).map_err(|why| FinishError::Extension {
        plugin: plugin.to_owned(),
        ext: ext.chars().take(SHOWN_EXTENSION).collect(),
        why,
    })
}

enum Held {
    Bytes(Vec<u8>),
    File { path: std::path::PathBuf, size: u64 },
}

impl Held {
    async fn of(content: Part, files: Option<&JobFiles>) -> Result<Self, FinishError> {
        let unusable = |error: FileError| FinishError::Unusable(error.to_string());
        let none = || FinishError::Unusable("it names a file, but the job has none".to_owned());
        let id = match content {
            Part::Bytes(bytes) => return Ok(Self::Bytes(bytes)),
            Part::File(id) => FileId(id),
            Part::Base64(id) => {
                let part = worker_files::Part::Base64(FileId(id));
                files
                    .ok_or_else(none)?
                    .write("product.b64", &[part])
                    .await
                    .map_err(unusable)?
                    .id
            }
        };
        let files = files.ok_or_else(none)?;
        let mut entry = files.get(id).map_err(unusable)?;
        if entry.cached {
            // What is delivered is moved; the cache keeps its file.
            let copy = files
                .write("product", &[worker_files::Part::File(id)])
                .await
                .map_err(unusable)?;
            entry = files.get(copy.id).map_err(unusable)?;
        }
        Ok(Self::File {
            path: entry.path,
            size: entry.info.size,
        })
    }

    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    async fn into_bytes(self) -> Result<Vec<u8>, FinishError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::File { path, .. } => tokio::fs::read(&path)
                .await
                .map_err(|e| FinishError::Unusable(format!("it cannot be read: {e}"))),
        }
    }

    fn ready(self, ext: String, media_type: Option<String>) -> Ready {
        match self {
            Self::Bytes(bytes) => Ready::Bytes {
                bytes,
                ext,
                media_type,
            },
            Self::File { path, .. } => Ready::File {
                path,
                ext,
                media_type,
            },
        }
    }
}

/// The bytes of a part that a plugin handed over.
pub(crate) fn part(part: Part) -> worker_files::Part {
    match part {
        Part::Bytes(bytes) => worker_files::Part::Bytes(Bytes::from(bytes)),
        Part::File(id) => worker_files::Part::File(FileId(id)),
        Part::Base64(id) => worker_files::Part::Base64(FileId(id)),
    }
}
