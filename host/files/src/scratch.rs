//! One directory per job, gone when the job is.
//!
//! In it lies a home for programs, and a directory for each thing the job has: `input-1`, `output-2`, side by side, since
//! each directory more is a file more to make and to remove for every job.
//!
//! Prompts, inputs and half-made products lie here, so the directories are for their owner only. A worker that was
//! killed leaves its directories behind; the next one to open the same root removes them. A lock keeps two workers from
//! sweeping each other.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::tree::remove_tree;

/// What every directory of ours begins with; the sweep touches nothing else.
const PREFIX: &str = "job-";
/// The file whose lock says that a worker is using the root.
const LOCK: &str = ".lock";

/// Why a scratch directory cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScratchError {
    /// Another worker uses the same root.
    #[error("{} is in use by another worker: stop it, or give this one a folder of its own", .dir.display())]
    InUse {
        /// The root.
        dir: PathBuf,
    },
    /// The root is a link or no directory.
    #[error("{} is not a directory of its own: choose another folder for scratch files", .dir.display())]
    NotADirectory {
        /// The root.
        dir: PathBuf,
    },
    /// The system refused.
    #[error("{} cannot be used for scratch files: {source}; check its permissions and the disk", .path.display())]
    Io {
        /// What was being made, opened or removed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no randomness for a name.
    #[error("the system's random generator fails: {0}")]
    Random(getrandom::Error),
}

/// The folder that holds one directory per running job.
#[derive(Debug)]
pub struct ScratchRoot {
    dir: PathBuf,
    swept: u64,
    /// Held for as long as the root, or a job's directory in it, is in use.
    lock: Arc<File>,
}

impl ScratchRoot {
    /// Makes `dir` (mode 0700) when it is not there, takes its lock, and removes what earlier runs left behind.
    ///
    /// # Errors
    /// When another worker holds it, or it cannot be made. A leftover that cannot be removed is logged, not an error.
    pub fn open(dir: &Path) -> Result<Self, ScratchError> {
        let io = |source| ScratchError::Io {
            path: dir.to_owned(),
            source,
        };
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        make_private(dir)?;
        if !fs::symlink_metadata(dir).map_err(io)?.is_dir() {
            return Err(ScratchError::NotADirectory {
                dir: dir.to_owned(),
            });
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io)?;
        let lock = take_lock(dir)?;
        let swept = sweep(dir).map_err(io)?;
        let dir = fs::canonicalize(dir).map_err(io)?;
        Ok(Self {
            dir,
            swept,
            lock: Arc::new(lock),
        })
    }

    /// How many directories of earlier runs were removed.
    #[must_use]
    pub fn swept(&self) -> u64 {
        self.swept
    }

    /// Where it is; absolute, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A new directory for one job. `job` may be any text; what of it is harmless becomes part of the name, for people
    /// looking around.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn job(&self, job: &str) -> Result<Scratch, ScratchError> {
        let id: String = job
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .take(48)
            .collect();
        let dir = self.dir.join(format!(
            "{PREFIX}{id}-{}",
            random_hex().map_err(ScratchError::Random)?
        ));
        make_new(&dir)?;
        let scratch = Scratch {
            dir,
            removed: false,
            _lock: Arc::clone(&self.lock),
        };
        make_new(&scratch.home())?;
        Ok(scratch)
    }
}

/// The directory of one job. Removed when it is dropped, or, without blocking, by [`Scratch::remove`].
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    removed: bool,
    _lock: Arc<File>,
}

impl Scratch {
    /// Absolute, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What its commands see as home and temporary directory.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// Removes it on a thread for blocking work. What cannot be removed is logged and swept at the next start.
    pub async fn remove(mut self) {
        self.removed = true;
        let dir = self.dir.clone();
        let gone = tokio::task::spawn_blocking(move || remove(&dir)).await;
        if gone.is_err() {
            // The runtime is going down and never ran it.
            self.removed = false;
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.removed {
            remove(&self.dir);
        }
    }
}

/// Removes a directory of ours. Logs a failure; whether it went.
fn remove(dir: &Path) -> bool {
    let removed = remove_tree(dir);
    if let Err(error) = &removed {
        tracing::warn!(dir = %dir.display(), %error, "a scratch directory cannot be removed; remove it by hand");
    }
    removed.is_ok()
}

fn sweep(root: &Path) -> io::Result<u64> {
    let mut swept = 0;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if ours && entry.file_type()?.is_dir() && remove(&entry.path()) {
            swept += 1;
        }
    }
    if swept > 0 {
        tracing::info!(dir = %root.display(), count = swept, "removed scratch directories of earlier runs");
    }
    Ok(swept)
}

fn take_lock(dir: &Path) -> Result<File, ScratchError> {
    let path = dir.join(LOCK);
    let io = |source| ScratchError::Io {
        path: path.clone(),
        source,
    };
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nofollow);
    let file = options.open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(ScratchError::InUse {
            dir: dir.to_owned(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Makes `dir` for its owner only, or leaves it when it is there.
fn make_private(dir: &Path) -> Result<(), ScratchError> {
    match make_new(dir) {
        Err(ScratchError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            Ok(())
        }
        other => other,
    }
}

/// Makes `dir` for its owner only; that it is there already is an error.
pub(crate) fn make_new(dir: &Path) -> Result<(), ScratchError> {
    DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .map_err(|source| ScratchError::Io {
            path: dir.to_owned(),
            source,
        })
}

/// 16 hexadecimal digits that nobody can foresee.
pub(crate) fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}
