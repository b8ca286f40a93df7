//! What is known of a file: one JSON document each, replaced by renaming.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{CacheError, io_at};
use super::key::CacheKey;
use crate::scratch::random_hex;

/// Shape of the records; one of another shape counts as none.
const VERSION: u32 = 1;

/// Longest record that is read, in bytes.
const MAX_RECORD: u64 = 64 * 1024;

/// What the names of records end with while they are written.
const UNFINISHED: &str = ".new";

/// Age from which such a record is nobody's: writing takes moments. Shorter may take it from another worker or a command on a
/// slow disk; longer keeps some kilobytes.
const UNFINISHED_AGE: Duration = Duration::from_secs(60 * 60);

/// What tells without reading a file that nobody wrote to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// In bytes.
    pub size: u64,
    /// Seconds of its modification time.
    pub modified: i64,
    /// And nanoseconds.
    pub nanos: i64,
    /// Its inode: another file under the same name has another.
    pub inode: u64,
}

impl Stamp {
    /// What a file looks like now; none where there is none.
    ///
    /// # Errors
    /// When it is no regular file, a link for instance, or cannot be looked at.
    pub fn of(path: &Path) -> Result<Option<Self>, CacheError> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(Self::from_metadata(&metadata))),
            Ok(_) => Err(CacheError::NotRegular {
                path: path.to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CacheError::Io {
                path: path.to_owned(),
                source,
            }),
        }
    }

    pub(crate) fn from_metadata(metadata: &fs::Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: metadata.mtime(),
            nanos: metadata.mtime_nsec(),
            inode: metadata.ino(),
        }
    }
}

/// Where a file lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// In `blobs`, by its digest.
    Blob,
    /// In `urls`, by URL, validator and size.
    Url,
    /// Where an older worker put it.
    Adopted(PathBuf),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// The key that it is kept under, so that a record moved by hand is not taken for another's.
    key: String,
    /// For showing.
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) stamp: Stamp,
    /// In hexadecimal, where it was ever computed.
    pub(super) sha256: Option<String>,
    /// What the host said to tell versions apart.
    pub(super) validator: Option<String>,
    /// Whether the offer's digest was compared.
    pub(super) verified: bool,
    /// Seconds since 1970.
    pub(super) added: u64,
    /// The system's start during which it was written, while it is not known to be on the disk for good.
    #[serde(default)]
    pub(super) unsettled: Option<String>,
}

impl Record {
    pub(super) fn new(key: &CacheKey, name: &str, place: Place, stamp: Stamp) -> Self {
        Self {
            version: VERSION,
            key: key.to_string(),
            name: name.to_owned(),
            place,
            stamp,
            sha256: None,
            validator: None,
            verified: false,
            added: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |age| age.as_secs()),
            unsettled: None,
        }
    }

    /// The file's name in `blobs` or `urls`. Of a URL's file it names validator and size too, so that what the URL answers
    /// another time is another file.
    pub(super) fn own_name(&self) -> String {
        match self.place {
            Place::Url => {
                let mut hasher = Sha256::new();
                for part in [
                    self.key.as_bytes(),
                    self.validator.as_deref().unwrap_or("").as_bytes(),
                    &self.stamp.size.to_le_bytes(),
                ] {
                    hasher.update((part.len() as u64).to_le_bytes());
                    hasher.update(part);
                }
                hex::encode(hasher.finalize())
            }
            _ => self.key.split('-').nth(1).unwrap_or_default().to_owned(),
        }
    }

    /// The record at `path`. One that cannot be understood is as good as none: the file is fetched again.
    pub(super) fn read(path: &Path, key: &CacheKey) -> Result<Option<Self>, CacheError> {
        let record: Option<Self> = read_json(path)?;
        Ok(record.filter(|record| {
            let place_fits = match (&record.place, key) {
                (Place::Blob, CacheKey::Content(_)) | (Place::Url, CacheKey::Url(_)) => true,
                (Place::Adopted(path), _) => path.is_absolute(),
                _ => false,
            };
            record.version == VERSION && record.key == key.to_string() && place_fits
        }))
    }
}

pub(super) fn read_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
) -> Result<Option<T>, CacheError> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(nofollow)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(CacheError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_RECORD), &mut text)
        .map_err(io_at(path))?;
    match serde_json::from_str(&text) {
        Ok(record) => Ok(Some(record)),
        Err(error) => {
            tracing::warn!(target: "models", path = %path.display(), %error, "a record of the model cache cannot be read; it counts as none");
            Ok(None)
        }
    }
}

/// Removes what was being written in `dir` when its worker was killed.
pub(super) fn sweep_unfinished(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let unfinished = entry.file_name().to_str().is_some_and(|name| {
            name.strip_suffix(UNFINISHED)
                .is_some_and(|name| name.contains(".json."))
        });
        let modified = entry.metadata().and_then(|found| found.modified());
        let age = modified.ok().and_then(|then| then.elapsed().ok());
        if unfinished && age.is_some_and(|age| age > UNFINISHED_AGE) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes beside its place, onto the disk, and renames.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), CacheError> {
    let text = serde_json::to_vec(value).map_err(|error| CacheError::Io {
        path: path.to_owned(),
        source: error.into(),
    })?;
    let random = random_hex().map_err(CacheError::Random)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{random}{UNFINISHED}"));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.map_err(io_at(path))
}

/// Puts a directory's names onto the disk.
pub(super) fn sync_dir(dir: &Path) -> Result<(), CacheError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_at(dir))
}
