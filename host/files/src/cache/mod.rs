//! Model files, kept for all jobs.
//!
//! A file whose SHA-256 the offer tells is kept under that digest; any other under its URL, with the validator and size
//! that the host named, apart from the former, so that what some URL answered once can never pass for a file that somebody
//! vouched for. Names are for showing only: two models with one file name never meet.
//!
//! Beside each file lies a record with its size, modification time and inode. As long as those agree the file is used
//! without being read, however large it is; a file that was touched is hashed again, and set aside when it is another one.
//! Records are replaced by renaming, and locks are the system's, so that a worker, a second one and the commands of their
//! operator can share a cache, and one killed at any point leaves nothing that others trip over.

mod adopt;
mod commit;
mod error;
mod evict;
mod hash;
mod key;
mod locks;
mod manage;
mod obtain;
mod quarantine;
mod record;
mod settle;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use adopt::WantedFile;
pub use error::CacheError;
pub use evict::Freed;
pub use key::CacheKey;
pub use locks::InUse;
pub use manage::{CacheEntry, Checked, PartialEntry, Verdict};
pub use obtain::{ObtainError, Partial, Received};
pub use quarantine::quarantined;
pub use record::Stamp;

use error::io_at;
use hash::Stop;
use record::{Place, Record};

/// Our folder in the models' root, where an older worker's flat files may lie beside.
const FOLDER: &str = ".studio-worker";

/// The one of them for what was set aside.
const QUARANTINE: &str = "quarantine";

/// The folders in it.
const PARTS: [&str; 9] = [
    "blobs", "urls", "partial", "index", "use", "flight", "pins", QUARANTINE, "hashes",
];

/// A complete file of the cache. As long as it is held, nothing removes it.
#[derive(Debug, Clone)]
pub struct CachedFile {
    /// What it is kept under.
    pub key: CacheKey,
    /// Absolute, without links; of an adopted file, where the older worker had it.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Whether its content was checked against a digest that the offer gave.
    pub verified: bool,
    /// What it looked like when it was last known to be whole.
    pub stamp: Stamp,
    /// Keeps it from being removed.
    pub in_use: Arc<InUse>,
    /// Whether it is still to be put on the disk for good.
    unsettled: bool,
}

impl CachedFile {
    /// Whether the file is still the one that was checked. Costs one look at its metadata.
    ///
    /// # Errors
    /// When it is another one, or gone.
    pub fn check(&self) -> Result<(), CacheError> {
        match Stamp::of(&self.path)? {
            Some(now) if now == self.stamp => Ok(()),
            _ => Err(CacheError::Changed {
                path: self.path.clone(),
            }),
        }
    }
}

/// The cache under one models' root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ModelCache {
    root: PathBuf,
    dir: PathBuf,
    budget: Option<u64>,
}

impl ModelCache {
    /// The cache under `models_root`, whose folders are made where they are missing. Partial files that nobody went on
    /// with for two weeks are removed, files that were set aside so long ago, and records that a killed worker left half
    /// written.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn open(models_root: &Path) -> Result<Self, CacheError> {
        fs::create_dir_all(models_root).map_err(io_at(models_root))?;
        let root = fs::canonicalize(models_root).map_err(io_at(models_root))?;
        let dir = root.join(FOLDER);
        for part in PARTS {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(io_at(&path))?;
        }
        let cache = Self {
            root,
            dir,
            budget: None,
        };
        cache.sweep_partials();
        cache.sweep_quarantine();
        for part in ["index", "hashes"] {
            record::sweep_unfinished(&cache.dir.join(part));
        }
        Ok(cache)
    }

    /// Bounds the bytes of all files that the cache itself holds; adopted ones do not count. None: no bound.
    #[must_use]
    pub fn with_budget(mut self, bytes: Option<u64>) -> Self {
        self.budget = bytes;
        self
    }

    /// The bound on the bytes of all files, where there is one.
    #[must_use]
    pub fn budget(&self) -> Option<u64> {
        self.budget
    }

    /// The file of that key, when it is there and whole. It is looked at, not read, unless it was touched since; then it
    /// is hashed again, which takes as long as reading it. Blocks.
    ///
    /// # Errors
    /// When something else is in its place, or it cannot be looked at.
    pub fn lookup(&self, key: &CacheKey) -> Result<Option<CachedFile>, CacheError> {
        self.acquire(key, &Stop::never())
    }

    fn acquire(&self, key: &CacheKey, stop: &Stop) -> Result<Option<CachedFile>, CacheError> {
        // A miss makes no lock file.
        if self.record(key)?.is_none() {
            return Ok(None);
        }
        let in_use = InUse::take(&self.use_path(key))?;
        // Read again under the lock: it may have been removed in between.
        let Some(record) = self.record(key)? else {
            return Ok(None);
        };
        let path = self.path_of(&record);
        let mut unsettled = record.unsettled.is_some();
        let stamp = match Stamp::of(&path)? {
            Some(stamp) if stamp == record.stamp && record.outlived_no_crash() => stamp,
            Some(_) => match self.check_again(key, &record, &path, stop)? {
                Some(stamp) => {
                    unsettled = false;
                    stamp
                }
                None => return Ok(None),
            },
            None => {
                // One that is being brought has its record before its file.
                let Some(_flight) = locks::try_exclusive(&self.flight_path(key))? else {
                    return Ok(None);
                };
                tracing::warn!(target: "models", path = %path.display(), "a model file is gone; it will be fetched again");
                self.forget(key)?;
                return Ok(None);
            }
        };
        in_use.touch();
        Ok(Some(CachedFile {
            key: *key,
            path,
            size: stamp.size,
            verified: record.verified,
            stamp,
            in_use: Arc::new(in_use),
            unsettled,
        }))
    }

    /// Decides about a file that was touched, or that a crash of the machine may have cut: its stamp where its content is the
    /// same, none where it was set aside.
    fn check_again(
        &self,
        key: &CacheKey,
        record: &Record,
        path: &Path,
        stop: &Stop,
    ) -> Result<Option<Stamp>, CacheError> {
        let Some(wanted) = &record.sha256 else {
            return Err(CacheError::Changed {
                path: path.to_owned(),
            });
        };
        tracing::warn!(target: "models", path = %path.display(), "a model file was touched, or the machine went down, since it was checked; hashing it");
        if record.unsettled.is_some() {
            settle::forget_memory(path)?;
        }
        let (found, stamp) = hash::hash(path, stop)?;
        if hex::encode(found) == *wanted {
            let mut record = record.clone();
            record.stamp = stamp;
            record.unsettled = None;
            settle::sync(path)?;
            self.write_record(key, &record)?;
            return Ok(Some(stamp));
        }
        self.set_aside(key, record, path)?;
        Ok(None)
    }

    /// Takes a file that is not what its record says out of the cache. One that was adopted is only forgotten: it is the
    /// operator's.
    fn set_aside(&self, key: &CacheKey, record: &Record, path: &Path) -> Result<(), CacheError> {
        self.forget(key)?;
        if matches!(record.place, Place::Adopted(_)) {
            tracing::warn!(target: "models", path = %path.display(), "an adopted model file was changed; it is used no more");
            return Ok(());
        }
        self.quarantine(key, path)
    }

    fn forget(&self, key: &CacheKey) -> Result<(), CacheError> {
        remove_if_there(&self.record_path(key))
    }

    /// Where a record's file is.
    fn path_of(&self, record: &Record) -> PathBuf {
        match &record.place {
            Place::Blob => self.dir.join("blobs").join(record.own_name()),
            Place::Url => self.dir.join("urls").join(record.own_name()),
            Place::Adopted(path) => path.clone(),
        }
    }

    fn record(&self, key: &CacheKey) -> Result<Option<Record>, CacheError> {
        Record::read(&self.record_path(key), key)
    }

    fn write_record(&self, key: &CacheKey, record: &Record) -> Result<(), CacheError> {
        record::write_json(&self.record_path(key), record)
    }

    fn record_path(&self, key: &CacheKey) -> PathBuf {
        self.dir.join("index").join(format!("{key}.json"))
    }

    fn use_path(&self, key: &CacheKey) -> PathBuf {
        self.dir.join("use").join(key.to_string())
    }

    fn flight_path(&self, key: &CacheKey) -> PathBuf {
        self.dir.join("flight").join(key.to_string())
    }

    fn pin_path(&self, key: &CacheKey) -> PathBuf {
        self.dir.join("pins").join(key.to_string())
    }

    fn partial_path(&self, key: &CacheKey) -> PathBuf {
        self.dir.join("partial").join(key.to_string())
    }
}

fn remove_if_there(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::Io {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}
