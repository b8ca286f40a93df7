//! The folder of plugin files that were taken in, each under the SHA-256 of its bytes.
//!
//! A file appears whole or not at all: temporary name, fsync, rename, fsync of the folder. It is hashed again whenever it is
//! read, so that what a disk or a hand has changed is found and never loaded.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::failpoint::failpoint;

/// Larger than any plugin file may be.
const MAX_BYTES: u64 = 128 << 20;

/// The folder.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
}

/// Why a kept file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The disk refused.
    #[error("cannot use {}: {source}; check its owner and the free space", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Its bytes are no longer those that were stored.
    #[error("{} does not hold the bytes that it is named after; it was changed or damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl Kept {
    /// Opens the folder, makes it where it is missing, and removes what an interrupted write left.
    pub fn open(dir: &Path) -> Result<Self, KeptError> {
        let failed = |source| KeptError::Io {
            path: dir.to_owned(),
            source,
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(dir).map_err(failed)?;
        for entry in fs::read_dir(dir).map_err(failed)?.flatten() {
            if entry.path().extension().is_none_or(|ext| ext != "wasm") {
                // One that cannot be removed does no harm: it has no name that is ever read.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The folder as another process uses it: nothing is made or cleared away.
    pub fn beside(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Stores bytes under their digest; does nothing when they are there and whole.
    pub fn put(&self, digest: &str, bytes: &[u8]) -> Result<(), KeptError> {
        if self.get(digest).is_ok() {
            return Ok(());
        }
        let path = self.path(digest);
        let failed = |source| KeptError::Io {
            path: path.clone(),
            source,
        };
        let mut file = tempfile::NamedTempFile::new_in(&self.dir).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        failpoint("storing");
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        sync(&self.dir).map_err(failed)
    }

    /// The bytes of this digest, hashed again.
    pub fn get(&self, digest: &str) -> Result<Vec<u8>, KeptError> {
        let path = self.path(digest);
        let failed = |source| KeptError::Io {
            path: path.clone(),
            source,
        };
        let mut bytes = Vec::new();
        let file = fs::File::open(&path).map_err(failed)?;
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if hex::encode(Sha256::digest(&bytes)) == digest {
            Ok(bytes)
        } else {
            Err(KeptError::Damaged { path })
        }
    }

    /// Removes every file whose digest is not among these.
    pub fn sweep(&self, wanted: &dyn Fn(&str) -> bool) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if stem.is_none_or(|digest| !wanted(digest)) {
                // It only takes space.
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Removes the temporary files that interrupted writes left in a folder. What cannot be removed only takes space. Blocks.
pub fn remove_unfinished(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        // As `tempfile` names them.
        let is_temporary = entry.file_name().to_string_lossy().starts_with(".tmp");
        if is_temporary && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(unix)]
fn sync(dir: &Path) -> std::io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync(_dir: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_never_read_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".tmpleft"), "half").unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        assert!(!dir.path().join(".tmpleft").exists());
        let digest = hex::encode(Sha256::digest(b"bytes"));
        kept.put(&digest, b"bytes").unwrap();
        assert_eq!(kept.get(&digest).unwrap(), b"bytes");
        fs::write(dir.path().join(format!("{digest}.wasm")), "other").unwrap();
        assert!(matches!(kept.get(&digest), Err(KeptError::Damaged { .. })));
        kept.put(&digest, b"bytes").unwrap();
        assert_eq!(kept.get(&digest).unwrap(), b"bytes");
        kept.sweep(&|_| false);
        assert!(kept.get(&digest).is_err());
    }
}
