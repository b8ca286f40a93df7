//! One worker per configuration: two would push each other out of their sessions for ever.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::document::open_lock;
use crate::private_file::{self, WriteError};

/// Held while a worker runs; the system lets go of it however the process ends.
#[derive(Debug)]
pub struct DaemonLock {
    _file: File,
}

/// Why the lock is not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another worker runs on this configuration.
    #[error("another worker{} runs with this configuration", of_pid(.pid))]
    Held {
        /// Its process, where it could be read.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {path}: {source}; check its owner", path = path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its folder cannot be made.
    #[error(transparent)]
    Folder(#[from] WriteError),
}

impl DaemonLock {
    /// Takes the lock, or says at once who has it.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        if let Some(folder) = path.parent() {
            private_file::private_folder(folder)?;
        }
        let failed = |source| LockError::File {
            path: path.to_owned(),
            source,
        };
        let mut file = open_lock(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held { pid: holder(file) }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Only for the other's message: what fails here does no harm.
        let _ = write_pid(&mut file);
        Ok(Self { _file: file })
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn of_pid(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
