//! Locks between jobs, workers and commands. They are the system's, on open files, so that they go with their process.
//! Lock files stay for good: removing one under somebody who waits for it would make two locks of one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::error::{CacheError, io_at};

/// How often a lock is tried again, and how many times. Whoever holds one against users holds it for moments; half a
/// minute means that something hangs.
const PAUSE: Duration = Duration::from_millis(10);
const TRIES: u32 = 3000;

/// Tries before a file counts as in use: a listing of the cache holds locks for a moment, too.
const REMOVE_TRIES: u32 = 10;

/// A shared lock on an entry: it is in use, and stays.
#[derive(Debug)]
pub struct InUse(File);

impl InUse {
    /// Waits for whoever is removing the entry. Blocks.
    pub(super) fn take(path: &Path) -> Result<Self, CacheError> {
        let file = open(path)?;
        for _ in 0..TRIES {
            match file.try_lock_shared() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(source)) => {
                    return Err(CacheError::Io {
                        path: path.to_owned(),
                        source,
                    });
                }
            }
        }
        Err(CacheError::Locked {
            path: path.to_owned(),
        })
    }

    /// Notes that it was used now. A cache whose clock cannot be written still works; it only forgets what is old.
    pub(super) fn touch(&self) {
        let _ = self.0.set_modified(SystemTime::now());
    }
}

/// An exclusive lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct Exclusive(#[expect(dead_code, reason = "closing it is the unlocking")] File);

/// The lock, where nobody has it.
pub(super) fn try_exclusive(path: &Path) -> Result<Option<Exclusive>, CacheError> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Exclusive(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(CacheError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The lock of an entry that is to be removed, where nobody uses it. Blocks for a moment.
pub(super) fn exclusive_soon(path: &Path) -> Result<Option<Exclusive>, CacheError> {
    for _ in 0..REMOVE_TRIES {
        if let Some(lock) = try_exclusive(path)? {
            return Ok(Some(lock));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(None)
}

/// When the entry was last used.
pub(super) fn last_used(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).ok()?.modified().ok()
}

fn open(path: &Path) -> Result<File, CacheError> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(path)
        .map_err(io_at(path))
}
