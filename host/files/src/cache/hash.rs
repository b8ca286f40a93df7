//! Reading a whole file, which for a model takes minutes: it can be stopped.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::error::{CacheError, io_at};
use super::record::Stamp;
use crate::entry::FileError;
use crate::job::open_regular;

/// Bytes read at once. Smaller costs calls; larger only memory.
const BUFFER: usize = 1 << 20;

/// Ends the reading of its clones, once somebody says so or the one who wanted it is gone.
#[derive(Debug, Clone)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn never() -> Self {
        Self(Arc::default())
    }

    fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Stops the work when it is dropped: when the job that waited for it has gone.
#[derive(Debug)]
pub(super) struct StopOnDrop(pub(super) Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// SHA-256 of a file, and what it looked like. A file that changes meanwhile is an error.
pub(super) fn hash(path: &Path, stop: &Stop) -> Result<([u8; 32], Stamp), CacheError> {
    let (mut file, _) = open_regular(path).map_err(|error| match error {
        FileError::NotRegular { path } => CacheError::NotRegular { path },
        FileError::Io { path, source } => CacheError::Io { path, source },
        _ => CacheError::Stopping,
    })?;
    let before = Stamp::from_metadata(&file.metadata().map_err(io_at(path))?);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        if stop.asked() {
            return Err(CacheError::Cancelled);
        }
        let read = file.read(&mut buffer).map_err(io_at(path))?;
        if read == 0 {
            break;
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
    let after = Stamp::from_metadata(&file.metadata().map_err(io_at(path))?);
    if before != after {
        return Err(CacheError::Changed {
            path: path.to_owned(),
        });
    }
    Ok((hasher.finalize().into(), after))
}
