//! What an operator does with the cache, beside a running worker or without one.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::ModelCache;
use super::error::{CacheError, io_at};
use super::hash::{Stop, hash};
use super::key::CacheKey;
use super::locks::{last_used, try_exclusive};
use super::record::{Place, Record};

/// Fewest digits of an id that name an entry.
const MIN_ID: usize = 6;

/// One file of the cache, as a listing shows it.
#[derive(Debug, Clone)]
pub struct CacheEntry {
    /// What it is kept under.
    pub key: CacheKey,
    /// The name that its offer gave it.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// In hexadecimal, where it was ever computed.
    pub sha256: Option<String>,
    /// Whether it was compared with a digest that the offer gave.
    pub verified: bool,
    /// Whether it is an older worker's, used where it lies.
    pub adopted: bool,
    /// Whether it is never removed to make room.
    pub pinned: bool,
    /// Whether a job or a command uses it now.
    pub in_use: bool,
    /// When it was last used.
    pub last_used: Option<SystemTime>,
}

/// A download that is not finished.
#[derive(Debug, Clone)]
pub struct PartialEntry {
    /// What it will be kept under.
    pub key: CacheKey,
    /// Bytes that are on the disk.
    pub bytes: u64,
    /// Whether somebody is downloading it now.
    pub in_flight: bool,
}

/// What checking a file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has its digest.
    Whole,
    /// No digest was known; the one it has now is kept for the next time.
    Recorded,
    /// It is another file: set aside, or, when adopted, forgotten.
    Damaged,
    /// It is not there any more: forgotten.
    Gone,
}

/// A file that was checked.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Which.
    pub key: CacheKey,
    /// Its name.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
}

impl ModelCache {
    /// All entries, by name. Blocks.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn list(&self) -> Result<Vec<CacheEntry>, CacheError> {
        let mut entries = Vec::new();
        for (key, record) in self.records()? {
            entries.push(CacheEntry {
                path: self.path_of(&record),
                size: record.stamp.size,
                adopted: matches!(record.place, Place::Adopted(_)),
                pinned: self.is_pinned(&key),
                in_use: try_exclusive(&self.use_path(&key))?.is_none(),
                last_used: last_used(&self.use_path(&key)),
                key,
                name: record.name,
                sha256: record.sha256,
                verified: record.verified,
            });
        }
        entries.sort_by(|a, b| (&a.name, a.key).cmp(&(&b.name, b.key)));
        Ok(entries)
    }

    /// Downloads that are not finished. Blocks.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn partials(&self) -> Result<Vec<PartialEntry>, CacheError> {
        let dir = self.dir.join("partial");
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io_at(&dir))? {
            let entry = entry.map_err(io_at(&dir))?;
            let key = entry.file_name().to_str().and_then(CacheKey::parse);
            let (Some(key), Ok(metadata)) = (key, entry.metadata()) else {
                continue;
            };
            found.push(PartialEntry {
                key,
                bytes: metadata.blocks() * 512,
                in_flight: try_exclusive(&self.flight_path(&key))?.is_none(),
            });
        }
        found.sort_by_key(|partial| partial.key);
        Ok(found)
    }

    /// The entry that a person means: by its name, or by the first digits of its id.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find_entry(&self, wanted: &str) -> Result<CacheKey, CacheError> {
        let digits = wanted
            .strip_prefix("sha256-")
            .or_else(|| wanted.strip_prefix("url-"))
            .unwrap_or(wanted);
        let by_id = digits.len() >= MIN_ID;
        let mut found: Vec<CacheKey> = Vec::new();
        for (key, record) in self.records()? {
            let id = key.to_string();
            let bare = id.split('-').nth(1).unwrap_or_default();
            let named = record.name == wanted;
            if named || (by_id && (id.starts_with(wanted) || bare.starts_with(wanted))) {
                found.push(key);
            }
        }
        match found.as_slice() {
            [] => Err(CacheError::Unknown {
                wanted: wanted.chars().take(100).collect(),
            }),
            [one] => Ok(*one),
            many => Err(CacheError::Ambiguous {
                wanted: wanted.chars().take(100).collect(),
                ids: many.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// Keeps an entry from being removed to make room, or lets it.
    ///
    /// # Errors
    /// When there is no such entry, or the mark cannot be written.
    pub fn pin(&self, key: &CacheKey, pinned: bool) -> Result<(), CacheError> {
        self.known(key)?;
        let path = self.pin_path(key);
        if pinned {
            File::create(&path).map(drop).map_err(io_at(&path))
        } else {
            super::remove_if_there(&path)
        }
    }

    /// Removes an entry and its file; its size in bytes. Blocks for a moment.
    ///
    /// # Errors
    /// When it is in use, pinned, adopted or unknown.
    pub fn remove(&self, key: &CacheKey) -> Result<u64, CacheError> {
        let record = self.known(key)?;
        if let Place::Adopted(path) = record.place {
            return Err(CacheError::Adopted { path });
        }
        if self.is_pinned(key) {
            return Err(CacheError::Pinned { name: record.name });
        }
        if self.remove_unused(key, &record)? {
            Ok(record.stamp.size)
        } else {
            Err(CacheError::InUse { name: record.name })
        }
    }

    /// Reads an entry's file from end to end and compares it with what it must be. Blocks as long as that takes.
    ///
    /// # Errors
    /// When there is no such entry, or its file cannot be read.
    pub fn verify(&self, key: &CacheKey) -> Result<Checked, CacheError> {
        let _in_use = super::InUse::take(&self.use_path(key))?;
        let mut record = self.known(key)?;
        let path = self.path_of(&record);
        let done = |verdict, name: String| {
            Ok(Checked {
                key: *key,
                name,
                verdict,
            })
        };
        if super::Stamp::of(&path)?.is_none() {
            self.forget(key)?;
            return done(Verdict::Gone, record.name);
        }
        // From the disk, not from memory: that it is there as it should be is what was asked.
        super::settle::forget_memory(&path)?;
        let (digest, stamp) = hash(&path, &Stop::never())?;
        let found = hex::encode(digest);
        match &record.sha256 {
            Some(wanted) if *wanted != found => {
                self.set_aside(key, &record, &path)?;
                return done(Verdict::Damaged, record.name);
            }
            Some(_) if record.stamp == stamp && record.unsettled.is_none() => {
                return done(Verdict::Whole, record.name);
            }
            // A file that was touched, and of which nothing but its look was known: the operator asked, and has it now.
            _ => {}
        }
        let verdict = match record.sha256 {
            Some(_) => Verdict::Whole,
            None => Verdict::Recorded,
        };
        record.sha256 = Some(found);
        record.stamp = stamp;
        record.unsettled = None;
        self.write_record(key, &record)?;
        done(verdict, record.name)
    }

    fn known(&self, key: &CacheKey) -> Result<Record, CacheError> {
        self.record(key)?.ok_or_else(|| CacheError::Unknown {
            wanted: key.to_string(),
        })
    }
}
