//! Empty files that lie ready for the next product.
//!
//! Making a file takes some filesystems a good part of a millisecond, and a product waits for two. So two are made
//! beforehand, in a directory of their own beside the spool, while nobody waits; a product's own then are these, moved. Where there are none
//! (the first time, a full disk, two products at once), files are made as they are needed, and whatever is wrong is said then.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{self, DiskError};
use crate::id::EntryId;

/// A row and its media. More are of no use: products come one after the other.
const FILES: usize = 2;

/// The files that lie ready.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    dir: PathBuf,
    files: Arc<Mutex<Vec<(PathBuf, File)>>>,
}

impl Ready {
    /// Beside a spool, emptied of what an earlier process made ready.
    pub(crate) fn beside(spool: &Path) -> Self {
        let dir = disk::with_suffix(spool, "-ready");
        // What cannot be removed is empty, and is in nobody's way.
        let _ = fs::remove_dir_all(&dir);
        Self {
            dir,
            files: Arc::default(),
        }
    }

    /// Makes as many as are missing. That it cannot is no error: see above. Blocks.
    pub(crate) fn fill(&self) {
        let missing = FILES.saturating_sub(self.lock().len());
        if missing > 0 && disk::private_dir(&self.dir).is_ok() {
            let made = (0..missing).filter_map(|_| {
                let path = self.dir.join(EntryId::fresh().ok()?.to_string());
                let file = disk::create_new(&path).ok()?;
                Some((path, file))
            });
            let made: Vec<_> = made.collect();
            self.lock().extend(made);
        }
    }

    /// Writes a new file, as [`disk::write_new`] does.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<File, DiskError> {
        let ready = self.lock().pop();
        match ready {
            Some((ready, file)) if fs::rename(&ready, path).is_ok() => {
                disk::write_whole(file, path, bytes)
            }
            _ => disk::write_new(path, bytes),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(PathBuf, File)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_ready_is_used_and_its_want_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("spool");
        disk::private_dir(&spool).unwrap();
        let ready = Ready::beside(&spool);
        let lying = || fs::read_dir(dir.path().join("spool-ready")).map_or(0, Iterator::count);
        let write = |name: &str| {
            let path = spool.join(name);
            drop(ready.write(&path, name.as_bytes()).unwrap());
            assert_eq!(fs::read_to_string(&path).unwrap(), name);
        };
        write("made at once");
        ready.fill();
        ready.fill();
        assert_eq!(lying(), FILES);
        write("first");
        assert_eq!(lying(), FILES - 1);
        // Somebody tidied up.
        fs::remove_dir_all(dir.path().join("spool-ready")).unwrap();
        write("second");
        write("third");
        ready.fill();
        assert_eq!(lying(), FILES);
        Ready::beside(&spool);
        assert_eq!(lying(), 0, "an earlier process's");
    }
}
