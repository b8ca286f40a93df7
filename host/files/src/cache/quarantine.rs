//! Files that were set aside because they are not what they were: kept for a while to be looked at, never used, and then removed,
//! since a worker that runs for a year would fill its disk with them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::{CacheError, io_at};
use super::key::CacheKey;
use super::{FOLDER, ModelCache, QUARANTINE};

/// How long a file is kept that was set aside. Shorter takes it from under an operator who is away; longer keeps gigabytes that
/// nothing will ever use.
const KEPT: Duration = Duration::from_secs(14 * 24 * 60 * 60);

impl ModelCache {
    /// Sets a file aside, under a name that says when.
    pub(super) fn quarantine(&self, key: &CacheKey, path: &Path) -> Result<(), CacheError> {
        let random = crate::scratch::random_hex().map_err(CacheError::Random)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let name = format!("{key}.{}.{random}", now.unwrap_or_default().as_secs());
        let to = self.quarantined_to().join(name);
        tracing::warn!(target: "models", from = %path.display(), to = %to.display(), "a model file was changed; it is set aside and will be fetched again");
        fs::rename(path, &to).map_err(io_at(path))
    }

    /// Removes what was set aside long ago; how many, and their bytes.
    pub(super) fn sweep_quarantine(&self) -> (usize, u64) {
        let (mut count, mut bytes) = (0, 0_u64);
        for (path, found) in set_aside_files(&self.quarantined_to()) {
            let age = since(&path, &found).and_then(|since| since.elapsed().ok());
            if age.is_none_or(|age| age < KEPT) {
                continue;
            }
            if fs::remove_file(&path).is_ok() {
                tracing::info!(target: "models", path = %path.display(), "removed a model file that was set aside");
                count += 1;
                bytes = bytes.saturating_add(found.blocks() * 512);
            }
        }
        (count, bytes)
    }

    fn quarantined_to(&self) -> PathBuf {
        self.dir.join(QUARANTINE)
    }
}

/// Files of the cache under `models_root` that were set aside, and the bytes that they take. Blocks.
#[must_use]
pub fn quarantined(models_root: &Path) -> (usize, u64) {
    let files = set_aside_files(&models_root.join(FOLDER).join(QUARANTINE));
    files.fold((0, 0_u64), |(count, bytes), (_, found)| {
        (count + 1, bytes.saturating_add(found.blocks() * 512))
    })
}

fn set_aside_files(dir: &Path) -> impl Iterator<Item = (PathBuf, fs::Metadata)> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((entry.path(), found))
    })
}

/// When it was set aside: by its name, and of an older worker's by when the file was last written, which is longer ago.
fn since(path: &Path, found: &fs::Metadata) -> Option<SystemTime> {
    let name = path.file_name()?.to_str()?;
    let mut parts = name.split('.').skip(1);
    match (parts.next(), parts.next()) {
        (Some(seconds), Some(_)) => {
            UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))
        }
        _ => found.modified().ok(),
    }
}
