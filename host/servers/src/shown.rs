//! Files of the model cache under names of their own, for servers.
//!
//! A server outlives its job, so what it is given may not lie in the job's folder. Each file, and each directory of files,
//! is shown in a folder named by what it holds: equal contents give equal paths, and so equal launch arguments.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A file of the cache, to be shown under a name.
#[derive(Debug, Clone)]
pub struct ShownFile {
    /// Its bare name; the caller has checked that it is one.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// Why a file cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; check the state folder's permissions and the disk", .path.display())]
pub struct ShownError {
    path: PathBuf,
    source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ShownError + '_ {
    move |source| ShownError {
        path: path.to_owned(),
        source,
    }
}

/// Where files are shown.
#[derive(Debug, Clone)]
pub struct Shown {
    dir: PathBuf,
}

impl Shown {
    /// In a folder that is there.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The path of one file, ending in its name.
    ///
    /// # Errors
    /// When it is not there or cannot be linked.
    pub fn file(&self, file: &ShownFile) -> Result<PathBuf, ShownError> {
        Ok(self.directory(std::slice::from_ref(file))?.join(&file.name))
    }

    /// A folder that shows just these files.
    ///
    /// # Errors
    /// When one is not there or cannot be linked, or a name stands twice.
    pub fn directory(&self, files: &[ShownFile]) -> Result<PathBuf, ShownError> {
        let mut hasher = Sha256::new();
        for file in files {
            let metadata = fs::metadata(&file.path).map_err(at(&file.path))?;
            // A file of the cache is never written again, only replaced by another.
            for part in [
                file.name.as_bytes(),
                file.path.as_os_str().as_encoded_bytes(),
                &metadata.dev().to_le_bytes(),
                &metadata.ino().to_le_bytes(),
                &metadata.len().to_le_bytes(),
                &metadata.mtime().to_le_bytes(),
                &metadata.mtime_nsec().to_le_bytes(),
            ] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        let dir = self.dir.join(hex::encode(hasher.finalize()).split_at(32).0);
        if !dir.is_dir() {
            // Made beside its place and renamed, so that a folder of that name is complete.
            let making = dir.with_extension(format!("{:016x}", random()));
            fs::create_dir(&making).map_err(at(&making))?;
            for file in files {
                let link = making.join(&file.name);
                symlink(&file.path, &link).map_err(at(&link))?;
            }
            if let Err(error) = fs::rename(&making, &dir) {
                // Where another was quicker, its folder serves.
                let _ = fs::remove_dir_all(&making);
                if !dir.is_dir() {
                    return Err(at(&dir)(error));
                }
            }
        }
        Ok(dir)
    }
}

/// Random enough for a name. Where the system gives none, two that collide fail to be made and say so.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}
