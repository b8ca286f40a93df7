//! Reading one multipart upload into a file.
//!
//! Small results, which most are, are collected in memory and written in one go; large ones go to disk a piece at a
//! time. Nothing is synced to the platter before the answer: a killed process loses nothing, and waiting for the disk
//! would cost every job milliseconds. The sync follows at once, in the background.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError};
use http::StatusCode;
use tokio::time::timeout;

use crate::core::PART_PREFIX;
use crate::secrets;

/// Piece that is written at a time. Larger costs memory per upload, smaller costs more turns of a blocking thread.
const PIECE: usize = 1 << 20;

/// Longest prompt.
const PROMPT_BYTES: usize = 64 << 20;

/// Longest extension.
const EXT_BYTES: usize = 16;

/// What an upload said of itself.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Extension of the result, ASCII letters and digits.
    pub(crate) ext: String,
    /// The full prompt; empty where none came.
    pub(crate) prompt: String,
    /// Size of the file.
    pub(crate) bytes: u64,
}

/// Why an upload is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the upload is not sound multipart: {0}")]
    Malformed(String),
    #[error("the upload has no field `{0}`")]
    Missing(&'static str),
    #[error("`ext` must be 1 to {EXT_BYTES} ASCII letters or digits")]
    BadExtension,
    #[error("the field `{0}` came twice")]
    Twice(&'static str),
    #[error("the upload is larger than {0} bytes")]
    TooLarge(u64),
    #[error("no bytes came for {0:?}")]
    Stalled(Duration),
    #[error("the result could not be written: {0}")]
    Disk(std::io::Error),
}

impl UploadError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Missing(_) | Self::BadExtension | Self::Twice(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Stalled(_) => StatusCode::REQUEST_TIMEOUT,
            // 507 and not 500: the worker keeps the result and tries again either way.
            Self::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
        }
    }
}

/// A file that is removed unless it was moved to its place.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
    file: Option<std::fs::File>,
    held: Vec<u8>,
    bytes: u64,
    limit: u64,
}

impl Part {
    fn new(folder: &Path, limit: u64) -> Result<Self, UploadError> {
        let name = secrets::id(PART_PREFIX)
            .map_err(|error| UploadError::Disk(std::io::Error::other(error)))?;
        Ok(Self {
            path: folder.join(name),
            file: None,
            held: Vec::new(),
            bytes: 0,
            limit,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    async fn take(mut self, chunk: Bytes) -> Result<Self, UploadError> {
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if self.bytes > self.limit {
            return Err(UploadError::TooLarge(self.limit));
        }
        self.held.extend_from_slice(&chunk);
        if self.held.len() >= PIECE {
            return self.write().await;
        }
        Ok(self)
    }

    /// Writes what is held.
    async fn write(mut self) -> Result<Self, UploadError> {
        let written = tokio::task::spawn_blocking(move || {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(create_private(&self.path)?),
            };
            file.write_all(&self.held)?;
            self.held.clear();
            Ok::<Self, std::io::Error>(self)
        });
        match written.await {
            Ok(outcome) => outcome.map_err(UploadError::Disk),
            Err(error) => Err(UploadError::Disk(std::io::Error::other(error))),
        }
    }

    /// The file is in its place; it reaches the platter in the background.
    pub(crate) fn placed(mut self) {
        self.path = PathBuf::new();
        if let Some(file) = self.file.take() {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = file.sync_data() {
                    tracing::warn!(%error, "a result may not survive a power cut");
                }
            });
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.file.is_some() && !self.path.as_os_str().is_empty() {
            // Best effort: the next start sweeps what is left.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes a file that only this user can read; it must not exist.
pub(crate) fn create_private(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

/// Reads the fields in whatever order they come; those that are not known are skipped.
pub(crate) async fn receive(
    mut form: Multipart,
    folder: &Path,
    limit: u64,
    stall: Duration,
) -> Result<(Upload, Part), UploadError> {
    let (mut ext, mut prompt, mut part) = (None, None, None);
    loop {
        let Some(mut field) = wait(stall, limit, form.next_field()).await? else {
            break;
        };
        match field.name().unwrap_or_default() {
            "ext" => {
                let text = small(&mut field, EXT_BYTES, stall, limit).await?;
                once(&mut ext, check_ext(text)?, "ext")?;
            }
            "prompt" => {
                let text = small(&mut field, PROMPT_BYTES, stall, limit).await?;
                once(&mut prompt, text, "prompt")?;
            }
            "image" => {
                let file = large(&mut field, Part::new(folder, limit)?, stall, limit).await?;
                once(&mut part, file, "image")?;
            }
            _ => while wait(stall, limit, field.chunk()).await?.is_some() {},
        }
    }
    let ext = ext.ok_or(UploadError::Missing("ext"))?;
    let part = part.ok_or(UploadError::Missing("image"))?.write().await?;
    let upload = Upload {
        ext,
        prompt: prompt.unwrap_or_default(),
        bytes: part.bytes,
    };
    Ok((upload, part))
}

async fn small(
    field: &mut Field<'_>,
    most: usize,
    stall: Duration,
    limit: u64,
) -> Result<String, UploadError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = wait(stall, limit, field.chunk()).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > most {
            return Err(UploadError::Malformed(format!(
                "a text field is longer than {most} bytes"
            )));
        }
    }
    String::from_utf8(bytes)
        .map_err(|_| UploadError::Malformed("a text field is not UTF-8".to_owned()))
}

async fn large(
    field: &mut Field<'_>,
    mut part: Part,
    stall: Duration,
    limit: u64,
) -> Result<Part, UploadError> {
    while let Some(chunk) = wait(stall, limit, field.chunk()).await? {
        part = part.take(chunk).await?;
    }
    Ok(part)
}

fn once<T>(place: &mut Option<T>, value: T, name: &'static str) -> Result<(), UploadError> {
    if place.replace(value).is_some() {
        return Err(UploadError::Twice(name));
    }
    Ok(())
}

fn check_ext(ext: String) -> Result<String, UploadError> {
    let sound = !ext.is_empty()
        && ext.len() <= EXT_BYTES
        && ext.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if sound {
        Ok(ext)
    } else {
        Err(UploadError::BadExtension)
    }
}

async fn wait<T>(
    stall: Duration,
    limit: u64,
    next: impl Future<Output = Result<T, MultipartError>>,
) -> Result<T, UploadError> {
    match timeout(stall, next).await {
        Err(_) => Err(UploadError::Stalled(stall)),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(UploadError::TooLarge(limit))
        }
        Ok(Err(error)) => Err(UploadError::Malformed(error.body_text())),
    }
}
