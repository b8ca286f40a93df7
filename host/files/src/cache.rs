//! Model files, kept for all jobs.
//!
//! A file whose SHA-256 the offer tells is kept under that digest; any other under the digest of its URL, apart from the
//! former, so that what some URL answered once can never pass for a file that somebody vouched for. Names are for showing
//! only: two models with one file name never meet. A file is written under a random name and renamed when it is whole,
//! checked and on the disk, so whatever has its final name is complete.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::scratch::random_hex;

/// Our folder in the models' root, where an older worker's flat files may lie beside.
const FOLDER: &str = ".studio-worker";

/// What a file is kept under.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheKey {
    /// The file's own SHA-256, as the offer gives it.
    Content([u8; 32]),
    /// The SHA-256 of the URL that it comes from.
    Url([u8; 32]),
}

impl CacheKey {
    /// Folder and file name.
    fn place(&self) -> (&'static str, String) {
        match self {
            Self::Content(digest) => ("blobs", hex::encode(digest)),
            Self::Url(digest) => ("urls", hex::encode(digest)),
        }
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (folder, name) = self.place();
        write!(f, "{folder}/{name}")
    }
}

/// A complete file of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedFile {
    /// Absolute.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Whether its content was checked against a digest that the offer gave.
    pub verified: bool,
}

/// What came over the network for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its SHA-256, computed here.
    pub sha256: [u8; 32],
    /// In bytes.
    pub bytes: u64,
}

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
    /// The worker is going down.
    #[error("the worker is stopping")]
    Stopping,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> CacheError + '_ {
    move |source| CacheError::Io {
        path: path.to_owned(),
        source,
    }
}

/// The cache under one models' root.
#[derive(Debug, Clone)]
pub struct ModelCache {
    dir: PathBuf,
}

/// A place for a file that is being written. Dropped without [`ModelCache::commit`], its file is removed.
#[derive(Debug)]
pub struct PendingEntry {
    key: CacheKey,
    path: PathBuf,
    kept: bool,
}

impl PendingEntry {
    /// Where to write it. Nothing is there yet.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it will be kept under.
    #[must_use]
    pub fn key(&self) -> CacheKey {
        self.key
    }
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "an unfinished download cannot be removed; remove it by hand");
            }
            _ => {}
        }
    }
}

impl ModelCache {
    /// The cache under `models_root`, whose folders are made where they are missing.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn open(models_root: &Path) -> Result<Self, CacheError> {
        fs::create_dir_all(models_root).map_err(io_at(models_root))?;
        let root = fs::canonicalize(models_root).map_err(io_at(models_root))?;
        let dir = root.join(FOLDER);
        for part in ["blobs", "urls", "partial"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(io_at(&path))?;
        }
        Ok(Self { dir })
    }

    /// What a file is kept under: its digest where the offer gives one, else its URL.
    #[must_use]
    pub fn key_for(sha256: Option<[u8; 32]>, url: &str) -> CacheKey {
        sha256.map_or_else(
            || CacheKey::Url(Sha256::digest(url.as_bytes()).into()),
            CacheKey::Content,
        )
    }

    /// The file of that key, when it is there.
    ///
    /// # Errors
    /// When something else is there, or it cannot be looked at.
    pub fn lookup(&self, key: &CacheKey) -> Result<Option<CachedFile>, CacheError> {
        let path = self.path_of(key);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CacheError::Io { path, source }),
        };
        if !metadata.is_file() {
            return Err(CacheError::NotRegular { path });
        }
        Ok(Some(CachedFile {
            path,
            size: metadata.len(),
            verified: matches!(key, CacheKey::Content(_)),
        }))
    }

    /// A place to write the file of that key to, on the cache's own file system.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn begin(&self, key: &CacheKey) -> Result<PendingEntry, CacheError> {
        let (_, name) = key.place();
        let random = random_hex().map_err(CacheError::Random)?;
        let path = self.dir.join("partial").join(format!("{name}.{random}"));
        Ok(PendingEntry {
            key: *key,
            path,
            kept: false,
        })
    }

    /// Checks a file against its key and against what came, puts it on the disk for good and gives it its name. When two
    /// jobs bring the same file, the later one replaces the earlier; whoever has that open keeps it.
    ///
    /// # Errors
    /// When it is not the file that the key says, or cannot be put in place. It is removed then.
    pub async fn commit(
        &self,
        pending: PendingEntry,
        received: Received,
    ) -> Result<CachedFile, CacheError> {
        let to = self.path_of(&pending.key);
        let commit = tokio::task::spawn_blocking(move || commit(pending, &to, received));
        commit.await.unwrap_or(Err(CacheError::Stopping))
    }

    fn path_of(&self, key: &CacheKey) -> PathBuf {
        let (folder, name) = key.place();
        self.dir.join(folder).join(name)
    }
}

fn commit(
    mut pending: PendingEntry,
    to: &Path,
    received: Received,
) -> Result<CachedFile, CacheError> {
    if let CacheKey::Content(wanted) = pending.key
        && wanted != received.sha256
    {
        return Err(CacheError::Digest {
            wanted: hex::encode(wanted),
            found: hex::encode(received.sha256),
        });
    }
    let path = pending.path.clone();
    let file = File::options()
        .write(true)
        .open(&path)
        .map_err(io_at(&path))?;
    let found = file.metadata().map_err(io_at(&path))?.len();
    if found != received.bytes {
        return Err(CacheError::Length {
            path,
            wanted: received.bytes,
            found,
        });
    }
    file.sync_all().map_err(io_at(&path))?;
    fs::rename(&path, to).map_err(io_at(to))?;
    pending.kept = true;
    if let Some(dir) = to.parent() {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(io_at(dir))?;
    }
    Ok(CachedFile {
        path: to.to_owned(),
        size: found,
        verified: matches!(pending.key, CacheKey::Content(_)),
    })
}
