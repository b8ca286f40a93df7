//! Giving a finished download its name.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::error::{CacheError, io_at};
use super::key::CacheKey;
use super::locks::InUse;
use super::obtain::Received;
use super::record::{Place, Record, Stamp, sync_dir};
use super::{CachedFile, ModelCache, settle};

impl ModelCache {
    /// Checks a partial file against its key and against what came and gives it its name. A small one is on the disk for good
    /// then; a large one is left to [`ModelCache::settle`].
    ///
    /// The record is written first: a record without its file is forgotten when it is met, a file without its record
    /// would be nobody's. Blocks.
    pub(super) fn commit(
        &self,
        key: &CacheKey,
        name: &str,
        received: &Received,
    ) -> Result<CachedFile, CacheError> {
        let partial = self.partial_path(key);
        let checked = check(key, &partial, received);
        if matches!(
            checked,
            Err(CacheError::Digest { .. } | CacheError::Length { .. })
        ) {
            // Going on from a wrong beginning leads to a wrong end.
            super::remove_if_there(&partial)?;
        }
        let stamp = checked?;
        let place = match key {
            CacheKey::Content(_) => Place::Blob,
            CacheKey::Url(_) => Place::Url,
        };
        let mut record = Record::new(key, name, place, stamp);
        record.sha256 = Some(hex::encode(received.sha256));
        record.validator.clone_from(&received.validator);
        record.verified = matches!(key, CacheKey::Content(_));
        record.unsettled = settle::later(stamp.size);
        if record.unsettled.is_none() {
            // Asked again, the system would say that all is well: what may be lost is not kept.
            if let Err(error) = settle::sync(&partial) {
                super::remove_if_there(&partial)?;
                return Err(error);
            }
        }
        let in_use = InUse::take(&self.use_path(key))?;
        in_use.touch();
        let to = self.path_of(&record);
        self.write_record(key, &record)?;
        fs::rename(&partial, &to).map_err(io_at(&to))?;
        for dir in [self.record_path(key), to.clone()] {
            sync_dir(dir.parent().unwrap_or(&self.dir))?;
        }
        Ok(CachedFile {
            key: *key,
            path: to,
            size: stamp.size,
            verified: record.verified,
            stamp,
            in_use: in_use.into(),
            unsettled: record.unsettled.is_some(),
        })
    }
}

fn check(key: &CacheKey, partial: &Path, received: &Received) -> Result<Stamp, CacheError> {
    if let CacheKey::Content(wanted) = key
        && *wanted != received.sha256
    {
        return Err(CacheError::Digest {
            wanted: hex::encode(wanted),
            found: hex::encode(received.sha256),
        });
    }
    Stamp::of(partial)?;
    let file = File::open(partial).map_err(io_at(partial))?;
    let found = file.metadata().map_err(io_at(partial))?.len();
    if found != received.bytes {
        return Err(CacheError::Length {
            path: partial.to_owned(),
            wanted: received.bytes,
            found,
        });
    }
    // For whoever shares the group to read, and for nobody to write.
    file.set_permissions(Permissions::from_mode(0o444))
        .map_err(io_at(partial))?;
    Stamp::of(partial)?.ok_or_else(|| CacheError::NotRegular {
        path: partial.to_owned(),
    })
}
