//! Empty files that lie ready for the next product.
//!
//! Making a file takes some filesystems a good part of a millisecond, the more, the more were removed shortly before; and a
//! product waits for two. So those of a product that is delivered are emptied and laid by, in a directory beside the spool,
//! and the next product's are these, moved. Where there are none (the first time, two products at once), files are made as
//! they are needed, and whatever is wrong is said then.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{self, DiskError, Doing};
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

    /// Removes a file, and lays it by where there is room for it. Nobody may have it open. One that is gone already is as good.
    /// Blocks.
    pub(crate) fn take_back(&self, path: &Path) -> Result<(), DiskError> {
        let laid_by = self
            .has_room()
            .then(|| self.lay_by(path))
            .and_then(Result::ok);
        match laid_by {
            Some(ready) => {
                self.lock().push(ready);
                Ok(())
            }
            None => disk::remove(path),
        }
    }

    fn has_room(&self) -> bool {
        self.lock().len() < FILES
    }

    /// Moved first, and then emptied: a product is there whole, or not at all.
    fn lay_by(&self, path: &Path) -> Result<(PathBuf, File), DiskError> {
        let name = EntryId::fresh().map_err(|_| io::Error::other("no randomness"));
        let ready = self.dir.join(name.doing("name", path)?.to_string());
        if disk::name(path, &ready).is_err() {
            // The first of all, or somebody tidied up.
            disk::private_dir(&self.dir)?;
            disk::name(path, &ready)?;
        }
        let emptied = disk::open_to_sync(&ready).and_then(|file| {
            file.set_len(0).doing("empty", &ready)?;
            Ok(file)
        });
        match emptied {
            Ok(file) => Ok((ready, file)),
            Err(error) => {
                disk::remove_quietly(&ready);
                Err(error)
            }
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
    fn what_was_delivered_lies_ready_empty_and_its_want_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("spool");
        disk::private_dir(&spool).unwrap();
        let ready = Ready::beside(&spool);
        let lying = || fs::read_dir(dir.path().join("spool-ready")).map_or(0, Iterator::count);
        let write = |name: &str| {
            let path = spool.join(name);
            drop(ready.write(&path, name.as_bytes()).unwrap());
            assert_eq!(fs::read_to_string(&path).unwrap(), name);
            path
        };
        let files = ["a longer one", "another", "a third"].map(write);
        for file in &files {
            ready.take_back(file).unwrap();
            assert!(!file.exists());
        }
        assert_eq!(lying(), FILES, "more are of no use");
        ready.take_back(&spool.join("never there")).unwrap();
        write("short");
        assert_eq!(lying(), FILES - 1);
        // Somebody tidied up.
        fs::remove_dir_all(dir.path().join("spool-ready")).unwrap();
        let file = write("made anew");
        ready.take_back(&file).unwrap();
        assert_eq!(lying(), 1);
        Ready::beside(&spool);
        assert_eq!(lying(), 0, "an earlier process's");
    }
}
