//! One file, from wherever it is to be had: the cache, an older worker's folder, the network. One flight per key: whoever
//! else wants the file meanwhile waits and finds it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::adopt::WantedFile;
use super::error::{CacheError, io_at};
use super::hash::{Stop, StopOnDrop};
use super::key::CacheKey;
use super::locks::{Exclusive, try_exclusive};
use super::record::Stamp;
use super::{CachedFile, ModelCache};

/// How often somebody else's download is looked at. Shorter costs wake-ups, longer is time that a job waits for nothing.
const LOOK: Duration = Duration::from_millis(100);

/// What came over the network for an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its SHA-256, computed here.
    pub sha256: [u8; 32],
    /// In bytes.
    pub bytes: u64,
    /// What the host said to tell versions of the URL apart.
    pub validator: Option<String>,
}

/// Where to download to. What an earlier try left is still there; it may be gone on from.
#[derive(Debug, Clone)]
pub struct Partial {
    path: PathBuf,
}

impl Partial {
    /// The file, which may exist.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Why a file is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError<E: std::error::Error> {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The download.
    #[error(transparent)]
    Download(E),
}

/// Where the download keeps what it needs to go on.
pub(super) fn resume_path(partial: &Path) -> PathBuf {
    let mut path = partial.as_os_str().to_owned();
    path.push(".resume");
    PathBuf::from(path)
}

impl ModelCache {
    /// The file, from the cache, from an older worker's folder, or by `download`, which is called at most once, while no
    /// one else downloads the same file. `waiting` is called once where another job, worker or command is doing so.
    ///
    /// # Errors
    /// When the cache cannot be used, there is no room, the download fails, or `cancel` says so. What came of an
    /// unfinished download stays for the next try.
    pub async fn obtain<F, D, E>(
        &self,
        wanted: &WantedFile,
        cancel: &CancellationToken,
        waiting: impl FnOnce() + Send,
        download: D,
    ) -> Result<CachedFile, ObtainError<E>>
    where
        D: FnOnce(Partial) -> F + Send,
        F: Future<Output = Result<Received, E>> + Send,
        E: std::error::Error,
    {
        let key = wanted.key();
        let stop = Stop::never();
        let _stop = StopOnDrop(stop.clone());
        if let Some(found) = self.find(wanted, &stop, cancel).await? {
            // Whoever brought it may have been killed before it was on the disk.
            found.settle_later(self, None);
            return Ok(found);
        }
        let flight = self.board(&key, cancel, waiting).await?;
        // Whoever had the flight before may have brought it.
        if let Some(found) = self.find(wanted, &stop, cancel).await? {
            return Ok(found);
        }
        let (cache, approx) = (self.clone(), wanted.approx_bytes);
        blocking(move || {
            cache.make_room(&key, approx)?;
            cache.make_writable(&key)
        })
        .await?;
        let partial = Partial {
            path: self.partial_path(&key),
        };
        let received = download(partial).await.map_err(ObtainError::Download)?;
        let (cache, name) = (self.clone(), wanted.name.clone());
        let file = blocking(move || {
            let file = cache.commit(&key, &name, &received)?;
            cache.keep_budget();
            Ok(file)
        })
        .await?;
        file.settle_later(self, Some(flight));
        Ok(file)
    }

    /// Gives back its write permission to a partial file whose worker was killed on the last step.
    fn make_writable(&self, key: &CacheKey) -> Result<(), CacheError> {
        let path = self.partial_path(key);
        if Stamp::of(&path)?.is_some() {
            fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(io_at(&path))?;
        }
        Ok(())
    }

    /// Looks in the cache, then in an older worker's folders.
    async fn find(
        &self,
        wanted: &WantedFile,
        stop: &Stop,
        cancel: &CancellationToken,
    ) -> Result<Option<CachedFile>, CacheError> {
        let (cache, wanted, stop) = (self.clone(), wanted.clone(), stop.clone());
        let work = blocking(move || match cache.acquire(&wanted.key(), &stop)? {
            Some(found) => Ok(Some(found)),
            None => cache.adopt(&wanted, &stop),
        });
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(CacheError::Cancelled),
            found = work => found,
        }
    }

    /// Waits for the flight of a key.
    async fn board(
        &self,
        key: &CacheKey,
        cancel: &CancellationToken,
        waiting: impl FnOnce() + Send,
    ) -> Result<Exclusive, CacheError> {
        let path = self.flight_path(key);
        let mut waiting = Some(waiting);
        loop {
            if cancel.is_cancelled() {
                return Err(CacheError::Cancelled);
            }
            // Opens a file and asks the system once: nothing to leave the thread for.
            if let Some(lock) = try_exclusive(&path)? {
                return Ok(lock);
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

async fn blocking<T, F>(work: F) -> Result<T, CacheError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, CacheError> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(CacheError::Stopping))
}
