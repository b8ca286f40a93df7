//! Making room: for a download, and down to the operator's budget. What is in use or pinned stays; what an older worker
//! put there is not ours.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::error::{CacheError, io_at};
use super::key::CacheKey;
use super::locks::{exclusive_soon, last_used, try_exclusive};
use super::obtain::resume_path;
use super::record::{Place, Record};
use super::{ModelCache, remove_if_there};

/// Age from which a partial download is taken for given up. Shorter loses what a studio that is away for a week would
/// have gone on with; longer keeps dead weight.
const PARTIAL_AGE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Least room that a download leaves on the disk. Less than a download itself leaves, 64 MiB, would have it fail although
/// something might have gone; more removes models that might stay.
const SPARE: u64 = 64 << 20;

/// How long the room of a file that was removed may take to be free: a system closes what a process had open a moment after
/// the process is gone. Longer only puts off saying that there is none.
const FREE_SOON: Duration = Duration::from_secs(1);

/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// Names of the models removed.
    pub names: Vec<String>,
    /// Partial downloads removed.
    pub partials: usize,
    /// Files removed that were set aside long ago.
    pub set_aside: usize,
    /// Bytes that they took.
    pub bytes: u64,
    /// Bytes that the cache still holds.
    pub left: u64,
}

/// One thing that takes room.
struct Held {
    used: SystemTime,
    key: CacheKey,
    bytes: u64,
    what: What,
}

enum What {
    Model(Record),
    Partial,
}

impl ModelCache {
    /// Removes the least recently used files until the cache holds at most `limit` bytes, its budget where none is given,
    /// partial downloads that were given up, and what was set aside long ago. Blocks.
    ///
    /// # Errors
    /// When a file cannot be removed. That not enough may be removed is no error: `left` says.
    pub fn collect_garbage(&self, limit: Option<u64>) -> Result<Freed, CacheError> {
        let mut freed = match limit.or(self.budget) {
            Some(limit) => self.evict(limit, None, true)?,
            None => Freed {
                left: self.held(None)?.iter().map(|held| held.bytes).sum(),
                ..Freed::default()
            },
        };
        self.sweep_orphans()?;
        let (partials, bytes) = self.sweep_partials();
        freed.partials += partials;
        freed.bytes = freed.bytes.saturating_add(bytes);
        freed.left = freed.left.saturating_sub(bytes);
        let (set_aside, bytes) = self.sweep_quarantine();
        freed.set_aside = set_aside;
        freed.bytes = freed.bytes.saturating_add(bytes);
        Ok(freed)
    }

    /// Sees to it that a file of about `approx` bytes has room in the budget and on the disk. Where all that may go is not
    /// enough for both, nothing goes.
    pub(super) fn make_room(&self, key: &CacheKey, approx: Option<u64>) -> Result<(), CacheError> {
        let Some(approx) = approx else {
            return Ok(());
        };
        let needed = self.needed_on_disk(key, approx);
        let mut free = self.free_bytes()?;
        if needed > free && self.sweep_quarantine().0 > 0 {
            free = self.free_bytes()?;
        }
        let missing = needed.saturating_sub(free);
        // Without a budget the operator wants no model removed.
        let models = self.budget.is_some();
        if !models && missing == 0 {
            return Ok(());
        }
        let (held, may_go) = self.what_may_go(Some(key), models)?;
        let stays = held.saturating_sub(may_go);
        self.fits_budget(approx, stays)?;
        if missing > may_go {
            return Err(self.no_space(needed, free, held));
        }
        // Whichever bound asks for more.
        let limit = self.limit_beside(approx);
        let freed = self.evict(held.saturating_sub(missing).min(limit), Some(key), models)?;
        // Somebody came to use what might have gone, or wrote to the disk.
        self.fits_budget(approx, freed.left)?;
        let until = Instant::now() + FREE_SOON;
        loop {
            let free = self.free_bytes()?;
            if free >= needed {
                return Ok(());
            }
            if freed.bytes == 0 || Instant::now() >= until {
                return Err(self.no_space(needed, free, freed.left));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Bytes that must be free on the disk for a file of about `approx` bytes, of which some may be there.
    fn needed_on_disk(&self, key: &CacheKey, approx: u64) -> u64 {
        let partial = self.partial_path(key);
        let there = fs::symlink_metadata(&partial).map_or(0, |found| found.blocks() * 512);
        let spare = (approx / 10).max(SPARE);
        approx.saturating_add(spare).saturating_sub(there)
    }

    /// Most bytes that may be held beside a new file of about `approx` bytes.
    fn limit_beside(&self, approx: u64) -> u64 {
        self.budget
            .map_or(u64::MAX, |budget| budget.saturating_sub(approx))
    }

    /// Whether a new file of about `approx` bytes fits the budget beside `held` bytes.
    fn fits_budget(&self, approx: u64, held: u64) -> Result<(), CacheError> {
        match self.budget {
            Some(budget) if approx > budget || held > self.limit_beside(approx) => {
                Err(CacheError::Budget {
                    needed: approx,
                    held,
                    budget,
                })
            }
            _ => Ok(()),
        }
    }

    fn no_space(&self, needed: u64, free: u64, held: u64) -> CacheError {
        CacheError::Space {
            path: self.dir.clone(),
            needed,
            free,
            held,
        }
    }

    /// Goes back to the budget after a download whose size nobody knew. What fails is said and tried again the next time.
    pub(super) fn keep_budget(&self) {
        let Some(budget) = self.budget else { return };
        match self.evict(budget, None, true) {
            Ok(freed) if freed.left > budget => {
                tracing::warn!(target: "models", bytes = freed.left, budget, "the model cache is over its budget; everything in it is in use or pinned");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(target: "models", %error, "the model cache cannot be brought back to its budget");
            }
        }
    }

    /// Removes what was used longest ago until at most `limit` bytes are held: models, where `models` says so, and downloads
    /// that nobody goes on with now. What is of the key `but` stays.
    fn evict(&self, limit: u64, but: Option<&CacheKey>, models: bool) -> Result<Freed, CacheError> {
        let held = self.held(but)?;
        let mut freed = Freed {
            left: held.iter().map(|held| held.bytes).sum(),
            ..Freed::default()
        };
        for Held {
            key, bytes, what, ..
        } in held
        {
            if freed.left <= limit {
                break;
            }
            match what {
                What::Model(record) => {
                    if !models || but == Some(&key) || self.is_pinned(&key) {
                        continue;
                    }
                    if !self.remove_unused(&key, &record)? {
                        continue;
                    }
                    tracing::info!(target: "models", name = record.name, bytes, "removed the model used longest ago");
                    freed.names.push(record.name);
                }
                What::Partial => {
                    let Some(_flight) = try_exclusive(&self.flight_path(&key))? else {
                        continue;
                    };
                    let path = self.partial_path(&key);
                    remove_if_there(&path)?;
                    remove_if_there(&resume_path(&path))?;
                    tracing::info!(target: "models", %key, bytes, "removed an unfinished download to make room");
                    freed.partials += 1;
                }
            }
            freed.left = freed.left.saturating_sub(bytes);
            freed.bytes = freed.bytes.saturating_add(bytes);
        }
        Ok(freed)
    }

    /// Bytes held, and how many of them [`ModelCache::evict`] could remove now.
    fn what_may_go(&self, but: Option<&CacheKey>, models: bool) -> Result<(u64, u64), CacheError> {
        let (mut sum, mut may_go) = (0_u64, 0_u64);
        for Held {
            key, bytes, what, ..
        } in self.held(but)?
        {
            sum = sum.saturating_add(bytes);
            let may = match what {
                What::Partial => true,
                What::Model(_) => {
                    models
                        && but != Some(&key)
                        && !self.is_pinned(&key)
                        && exclusive_soon(&self.use_path(&key))?.is_some()
                }
            };
            if may {
                may_go = may_go.saturating_add(bytes);
            }
        }
        Ok((sum, may_go))
    }

    /// What the cache itself holds, what was used longest ago first: models, and downloads that nobody goes on with now, but
    /// for that of the key `but`.
    fn held(&self, but: Option<&CacheKey>) -> Result<Vec<Held>, CacheError> {
        let models = self.own_records()?.into_iter().map(|(key, record)| Held {
            used: last_used(&self.use_path(&key)).unwrap_or(SystemTime::UNIX_EPOCH),
            key,
            bytes: record.stamp.size,
            what: What::Model(record),
        });
        let idle = self
            .partials()?
            .into_iter()
            .filter(|partial| !partial.in_flight && but != Some(&partial.key));
        let partials = idle.map(|partial| Held {
            used: last_used(&self.partial_path(&partial.key)).unwrap_or(SystemTime::UNIX_EPOCH),
            key: partial.key,
            bytes: partial.bytes,
            what: What::Partial,
        });
        let mut held: Vec<Held> = models.chain(partials).collect();
        held.sort_by_key(|held| (held.used, held.key));
        Ok(held)
    }

    /// Removes an entry unless somebody uses it. The record goes first: without it nobody finds the file.
    pub(super) fn remove_unused(
        &self,
        key: &CacheKey,
        record: &Record,
    ) -> Result<bool, CacheError> {
        let Some(_lock) = exclusive_soon(&self.use_path(key))? else {
            return Ok(false);
        };
        self.forget(key)?;
        remove_if_there(&self.path_of(record))?;
        remove_if_there(&self.pin_path(key))?;
        Ok(true)
    }

    /// Bytes that this user may still write there.
    fn free_bytes(&self) -> Result<u64, CacheError> {
        let room = rustix::fs::statvfs(&self.dir).map_err(|error| CacheError::Io {
            path: self.dir.clone(),
            source: error.into(),
        })?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }

    pub(super) fn is_pinned(&self, key: &CacheKey) -> bool {
        self.pin_path(key).exists()
    }

    /// Every entry, in no order.
    pub(super) fn records(&self) -> Result<Vec<(CacheKey, Record)>, CacheError> {
        let mut records = Vec::new();
        let index = self.dir.join("index");
        for entry in fs::read_dir(&index).map_err(io_at(&index))? {
            let name = entry.map_err(io_at(&index))?.file_name();
            let key = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .and_then(CacheKey::parse);
            if let Some(key) = key
                && let Some(record) = self.record(&key)?
            {
                records.push((key, record));
            }
        }
        Ok(records)
    }

    fn own_records(&self) -> Result<Vec<(CacheKey, Record)>, CacheError> {
        let mut records = self.records()?;
        records.retain(|(_, record)| !matches!(record.place, Place::Adopted(_)));
        Ok(records)
    }

    /// Removes files without a record, which a worker killed while removing leaves. The files are listed before the records,
    /// and a record is written before its file, so that none is taken for an orphan while it is being brought.
    fn sweep_orphans(&self) -> Result<(), CacheError> {
        let mut files = Vec::new();
        for dir in [self.dir.join("blobs"), self.dir.join("urls")] {
            let entries = fs::read_dir(&dir).map_err(io_at(&dir))?;
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        let known: HashSet<PathBuf> = self
            .records()?
            .iter()
            .map(|(_, record)| self.path_of(record))
            .collect();
        for path in files.iter().filter(|path| !known.contains(*path)) {
            // One that is kept by its content says by its name whose it would be: nobody uses it, or has brought it meanwhile.
            let content = path.file_name().and_then(|name| name.to_str());
            let key = content.and_then(|name| CacheKey::parse(&format!("sha256-{name}")));
            let lock = match &key {
                Some(key) => exclusive_soon(&self.use_path(key))?,
                None => None,
            };
            if let Some(key) = &key
                && (lock.is_none() || self.record(key)?.is_some())
            {
                continue;
            }
            tracing::info!(target: "models", path = %path.display(), "removing a model file that has no record");
            remove_if_there(path)?;
        }
        Ok(())
    }

    /// Removes partial downloads that nobody went on with; how many, and their bytes.
    pub(super) fn sweep_partials(&self) -> (usize, u64) {
        let (mut count, mut bytes) = (0, 0);
        let entries = fs::read_dir(self.dir.join("partial")).into_iter().flatten();
        for entry in entries.flatten() {
            let path = entry.path();
            let key = path
                .file_name()
                .and_then(|name| name.to_str())
                .map(|name| name.strip_suffix(".resume").unwrap_or(name))
                .and_then(CacheKey::parse);
            let Ok(found) = entry.metadata() else {
                continue;
            };
            let age = found
                .modified()
                .ok()
                .and_then(|then| SystemTime::now().duration_since(then).ok());
            if age.is_none_or(|age| age < PARTIAL_AGE) {
                continue;
            }
            // What is called otherwise is an older version's, and nobody's flight.
            let lock = key.map(|key| try_exclusive(&self.flight_path(&key)));
            if matches!(lock, Some(Ok(None) | Err(_))) {
                continue;
            }
            if fs::remove_file(&path).is_ok() {
                let _ = fs::remove_file(resume_path(&path));
                count += 1;
                bytes += found.blocks() * 512;
            }
        }
        (count, bytes)
    }
}
