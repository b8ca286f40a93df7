//! Putting a large file on the disk for good, behind the back of the job that waits for it.
//!
//! A disk writes slower than a line brings, and what a job reads next is in memory anyway. So a file may be used as soon as it
//! is whole, and its record says until when that is all: in which start of the system it was written. As long as the system
//! has not started anew, what was written is what is read. Where it has, before the file was on the disk, the file is
//! hashed again before its next use.

use std::fs::{self, File};
use std::path::Path;

use super::error::{CacheError, io_at};
use super::key::CacheKey;
use super::locks::{Exclusive, InUse, try_exclusive};
use super::record::Record;
use super::{CachedFile, ModelCache};

/// Files from this size on are put on the disk later. Smaller ones are there before it could be said that they are not.
const LATER_FROM: u64 = 64 << 20;

/// What a record says of a file of that size that was just written: this start of the system, where it is to be put on the disk
/// later.
pub(super) fn later(size: u64) -> Option<String> {
    if size < LATER_FROM { None } else { boot_id() }
}

/// What changes whenever the system starts; none where it does not say.
fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// What a record says, instead of a start of the system, of a file that could not be put on the disk: no start has that name.
const FAILED: &str = "failed";

/// Lets the system forget what it has of a file in memory, so that it is read from the disk: there something else may be, once
/// writing to it failed. What is not on the disk yet is put there first.
pub(super) fn forget_memory(path: &Path) -> Result<(), CacheError> {
    use rustix::fs::{Advice, fadvise};
    let file = File::open(path).map_err(io_at(path))?;
    file.sync_all()
        .and_then(|()| Ok(fadvise(&file, 0, None, Advice::DontNeed)?))
        .map_err(io_at(path))
}

/// Waits until a file is on the disk.
pub(super) fn sync(path: &Path) -> Result<(), CacheError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(io_at(path))
}

impl Record {
    /// Whether the file is as it was written: it is on the disk, or the system has not started anew since.
    pub(super) fn outlived_no_crash(&self) -> bool {
        self.unsettled.is_none() || self.unsettled == boot_id()
    }
}

impl ModelCache {
    /// Puts a file on the disk for good, where that is still to be done and nobody else is doing it. Blocks as long as the disk
    /// takes; meanwhile the file may be used and removed.
    pub(super) fn settle(&self, key: &CacheKey, flight: Option<Exclusive>) {
        if let Err(error) = self.try_settle(key, flight, sync) {
            tracing::warn!(target: "models", %key, %error, "a model file could not be put on the disk for good; it is hashed again before its next use");
        }
    }

    fn try_settle(
        &self,
        key: &CacheKey,
        flight: Option<Exclusive>,
        sync: impl Fn(&Path) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        let _flight = match flight {
            Some(flight) => flight,
            None => match try_exclusive(&self.flight_path(key))? {
                Some(flight) => flight,
                None => return Ok(()),
            },
        };
        let Some(record) = self
            .record(key)?
            .filter(|record| record.unsettled.is_some())
        else {
            return Ok(());
        };
        let synced = sync(&self.path_of(&record));
        let _in_use = InUse::take(&self.use_path(key))?;
        // It may have been removed, or hashed again, meanwhile.
        match self.record(key)? {
            Some(mut now) if now.stamp == record.stamp => {
                // The system says only once that writing failed: asked again, it would say that all is well.
                now.unsettled = synced.is_err().then(|| FAILED.to_owned());
                self.write_record(key, &now)?;
            }
            _ => {}
        }
        synced
    }
}

impl CachedFile {
    /// Begins to put the file on the disk for good where that was not done, and does not wait for it.
    pub(super) fn settle_later(&self, cache: &ModelCache, flight: Option<Exclusive>) {
        if !self.unsettled {
            return;
        }
        let (cache, key) = (cache.clone(), self.key);
        tokio::task::spawn_blocking(move || cache.settle(&key, flight));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Received;

    #[test]
    fn a_file_that_could_not_be_put_on_the_disk_is_hashed_again_before_its_next_use() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ModelCache::open(dir.path()).unwrap();
        let sha256 =
            sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix("model"));
        let key = CacheKey::Content(sha256.into());
        let received = Received {
            sha256: sha256.into(),
            bytes: 5,
            validator: None,
        };
        let recorded = || cache.record(&key).unwrap().unwrap();
        let bring = || {
            fs::create_dir_all(cache.partial_path(&key).parent().unwrap()).unwrap();
            fs::write(cache.partial_path(&key), "model").unwrap();
            let path = cache.commit(&key, "model.gguf", &received).unwrap().path;
            let mut record = recorded();
            record.unsettled = boot_id();
            cache.write_record(&key, &record).unwrap();
            assert!(recorded().outlived_no_crash());
            let failed = cache.try_settle(&key, None, |path| {
                Err(io_at(path)(std::io::Error::from_raw_os_error(5)))
            });
            assert!(failed.is_err());
            assert!(!recorded().outlived_no_crash());
            path
        };
        bring();
        assert!(cache.lookup(&key).unwrap().is_some());
        assert_eq!(recorded().unsettled, None);
        // The same look, and other bytes.
        let path = bring();
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"l", 0).unwrap();
        file.set_modified(before).unwrap();
        assert!(cache.lookup(&key).unwrap().is_none());
    }
}
