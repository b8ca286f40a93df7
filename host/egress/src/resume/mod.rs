//! A download that goes on where an earlier one ended, through several connections where that helps.
//!
//! What is on disk is only ever added to under a strong validator: an entity tag that the host promises to change with
//! the bytes. Where the digest of the whole is known a weak tag or the time of the last change will do, since the digest
//! tells what was joined wrongly. Without any a download starts anew. Whatever does not fit, a range that was not asked for,
//! another length, another tag, throws away what is there: gigabytes are cheaper than one wrong byte.

mod drive;
mod opening;
mod pass;
mod patience;
mod piece;
mod record;
mod spans;

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::ask::{Failed, Place, is_strong};
use crate::download::{Downloaded, Egress, OnProgress, Wanted};
use crate::error::DownloadError;
use crate::transfer::disk;
use patience::Patience;
use record::{Earlier, Version};
use spans::Spans;

pub(crate) use record::Sidecar;

/// Fresh starts of one call because something did not fit. A host that needs more will never be consistent.
const RESTARTS: u32 = 3;
/// How long another holder of the partial file is waited for: an earlier call that was dropped ends its threads.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What is to be downloaded, and where to.
pub(crate) struct Task<'a> {
    pub(crate) egress: &'a Egress,
    pub(crate) start: Url,
    pub(crate) shown: String,
    pub(crate) partial: &'a Path,
    pub(crate) wanted: &'a Wanted,
    pub(crate) limit: u64,
    pub(crate) on_progress: OnProgress<'a>,
}

/// Why one attempt ended.
#[derive(Debug)]
pub(crate) enum Stop {
    /// What is there cannot be added to: from zero, with or without ranges.
    Restart { why: &'static str, ranges: bool },
    /// The usual ways of failing; patience decides.
    Failed(Failed),
    /// Whatever it is, it was decided: no other attempt.
    Final(DownloadError),
}

impl From<DownloadError> for Stop {
    fn from(error: DownloadError) -> Self {
        Self::Failed(error.into())
    }
}

/// What an attempt brought.
pub(crate) struct Brought {
    pub(crate) total: u64,
    pub(crate) sha256: [u8; 32],
    pub(crate) media_type_hint: Option<String>,
    pub(crate) validator: Option<String>,
}

/// One call at work.
pub(crate) struct Run<'a> {
    pub(crate) task: &'a Task<'a>,
    pub(crate) sidecar: Sidecar,
    pub(crate) file: Arc<File>,
    pub(crate) tasks: TaskTracker,
    /// Bytes that are there or on their way to the disk.
    pub(crate) received: AtomicU64,
    /// The furthest that was told.
    pub(crate) most: AtomicU64,
    /// Answers used for what is on disk now, an earlier call's counted as one.
    pub(crate) answers: AtomicU32,
    /// Where the redirects of the first answer led.
    pub(crate) resolved: Mutex<Option<Place>>,
    /// What the last attempt was working on, for the record.
    pub(crate) current: Mutex<Option<(Version, pass::Watch)>>,
    /// What of it this call put on the disk.
    pub(crate) synced: Mutex<Spans>,
}

/// Downloads; see [`Egress::download_resumable`].
pub(crate) async fn run(
    task: &Task<'_>,
    cancel: &CancellationToken,
) -> Result<Downloaded, DownloadError> {
    let run = Run {
        task,
        sidecar: Sidecar::new(task.partial, task.start.as_str()),
        file: lock(task).await?,
        tasks: TaskTracker::new(),
        received: AtomicU64::new(0),
        most: AtomicU64::new(0),
        answers: AtomicU32::new(0),
        resolved: Mutex::new(None),
        current: Mutex::new(None),
        synced: Mutex::default(),
    };
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(DownloadError::Cancelled { url: task.shown.clone() }),
        done = run.whole() => done,
    };
    run.settle(result).await
}

impl Run<'_> {
    async fn whole(&self) -> Result<Downloaded, DownloadError> {
        let task = self.task;
        let length = self.file.metadata().map_err(disk(&task.shown))?.len();
        // Begun while the digest was known: without it nothing tells whether what is joined is right.
        let usable = |earlier: &Earlier| {
            task.wanted.sha256.is_some() || is_strong(&earlier.version.validator)
        };
        let earlier = self.sidecar.load(length).filter(usable);
        let mut earlier = earlier.map(|earlier| {
            self.most.store(earlier.shown, Ordering::Relaxed);
            *locked(&self.synced) = earlier.synced;
            (earlier.version, earlier.spans)
        });
        self.check_room(
            task.wanted.approx_bytes,
            earlier.as_ref().map(|(_, spans)| spans),
        )?;
        let mut patience = Patience::new(&task.egress.policy);
        let (mut ranges, mut restarts, mut tried_again) = (true, 0, false);
        loop {
            let why = match self.attempt(earlier.take(), ranges, &mut patience).await {
                Ok(brought) if self.is_right(&brought) => return Ok(downloaded(brought)),
                // In one piece from one answer: the same would come again.
                Ok(brought) if tried_again || self.answers.load(Ordering::Relaxed) < 2 => {
                    return Err(self.mismatch(&brought));
                }
                Ok(_) => {
                    (tried_again, ranges) = (true, false);
                    "its pieces do not make the file that is wanted"
                }
                Err(Stop::Failed(failed)) => {
                    // Nothing that could be added to: from zero.
                    let pause = patience.fail(failed, self.received.load(Ordering::Relaxed))?;
                    self.reset().await?;
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Restart { why, ranges: again }) => {
                    ranges = ranges && again;
                    why
                }
            };
            restarts += 1;
            if restarts > RESTARTS {
                let url = task.shown.clone();
                return Err(DownloadError::Inconsistent { url, why });
            }
            // The last time in one piece: the nodes of a mirror may each have a tag of their own.
            ranges = ranges && restarts < RESTARTS;
            tracing::warn!(url = task.shown, why, "a download starts anew");
            self.reset().await?;
        }
    }

    fn is_right(&self, brought: &Brought) -> bool {
        self.task
            .wanted
            .sha256
            .is_none_or(|wanted| wanted == brought.sha256)
    }

    fn mismatch(&self, brought: &Brought) -> DownloadError {
        DownloadError::DigestMismatch {
            url: self.task.shown.clone(),
            wanted: self.task.wanted.sha256.map(hex::encode).unwrap_or_default(),
            found: hex::encode(brought.sha256),
        }
    }

    /// Throws away what is there.
    pub(crate) async fn reset(&self) -> Result<(), DownloadError> {
        self.quiet().await;
        *locked(&self.current) = None;
        *locked(&self.synced) = Spans::default();
        self.received.store(0, Ordering::Relaxed);
        self.answers.store(0, Ordering::Relaxed);
        let emptied = self.file.set_len(0).and_then(|()| self.sidecar.remove());
        emptied.map_err(disk(&self.task.shown))
    }

    /// Waits until no thread of this call is at the files any more.
    async fn quiet(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    async fn settle(
        &self,
        result: Result<Downloaded, DownloadError>,
    ) -> Result<Downloaded, DownloadError> {
        self.quiet().await;
        let shown = &self.task.shown;
        match &result {
            Ok(_) => self.sidecar.remove().map_err(disk(shown))?,
            Err(DownloadError::DigestMismatch { .. }) => {
                let removed = std::fs::remove_file(self.task.partial);
                removed
                    .and_then(|()| self.sidecar.remove())
                    .map_err(disk(shown))?;
            }
            Err(_) => {
                let current = locked(&self.current).take();
                if let Some((version, watch)) = current {
                    // Whoever gave up waits for this, and putting seconds of a fast line on a slow disk may take minutes. What
                    // is not on the disk yet counts until the machine goes down, which is what the record says.
                    if let Err(error) = self.note(version, watch.spans(), false).await {
                        self.not_on_disk(error);
                    }
                }
            }
        }
        result
    }

    /// Writes the record, on a thread that may wait for the disk; with `sync`, once what is there is on it. Without a record it
    /// is no worse: only resuming is not possible.
    ///
    /// # Errors
    /// What was written did not all get to the disk.
    pub(crate) async fn note(
        &self,
        version: Version,
        written: Spans,
        sync: bool,
    ) -> io::Result<()> {
        let (sidecar, file) = (self.sidecar.clone(), Arc::clone(&self.file));
        let synced = match sync {
            true => written.clone(),
            false => locked(&self.synced).clone(),
        };
        let on_disk = synced.clone();
        let most = self.most.load(Ordering::Relaxed);
        // Tracked: nothing writes a record after this call has ended.
        let noted = self.tasks.spawn_blocking(move || {
            write_record(&sidecar, &file, &version, &written, &synced, most, sync)
        });
        match noted.await {
            Ok(Ok(())) => *locked(&self.synced) = on_disk,
            Ok(Err(NotNoted::Lost(error))) => return Err(error),
            Ok(Err(NotNoted::Record(error))) => self.not_noted(&error),
            Err(_) => {}
        }
        Ok(())
    }

    /// Forgets how far it is: what was written did not all get to the disk, and the system says so only once.
    pub(crate) fn not_on_disk(&self, error: io::Error) -> DownloadError {
        *locked(&self.current) = None;
        if let Err(error) = self.sidecar.remove() {
            self.not_noted(&error);
        }
        tracing::warn!(url = self.task.shown, %error, "a download did not get to the disk; it starts anew");
        disk(&self.task.shown)(error)
    }

    pub(crate) fn not_noted(&self, error: &io::Error) {
        tracing::warn!(url = self.task.shown, %error, "how far a download is cannot be written down; it could not be resumed");
    }

    /// Tells how far it is. The first number never falls.
    pub(crate) fn tell(&self, total: Option<u64>) {
        let received = self.received.load(Ordering::Relaxed);
        let received = total.map_or(received, |total| received.min(total));
        let most = self
            .most
            .fetch_max(received, Ordering::Relaxed)
            .max(received);
        let total = total.or(self.task.wanted.approx_bytes);
        (self.task.on_progress)(most, total.map(|total| total.max(most)));
    }

    /// Whether the disk has room for a file of `total` bytes, of which some are there.
    pub(crate) fn check_room(
        &self,
        total: Option<u64>,
        there: Option<&Spans>,
    ) -> Result<(), DownloadError> {
        let Some(total) = total else { return Ok(()) };
        let folder = self.task.partial.parent().unwrap_or(Path::new("."));
        let shown = &self.task.shown;
        let room = rustix::fs::statvfs(folder).map_err(|error| disk(shown)(error.into()))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let missing = total.saturating_sub(there.map_or(0, Spans::covered));
        let needed = missing.saturating_add(self.task.egress.policy.disk_reserve);
        if missing == 0 || needed <= free {
            return Ok(());
        }
        let message = format!("{missing} bytes more are needed and {free} are free");
        Err(disk(shown)(io::Error::new(
            io::ErrorKind::StorageFull,
            message,
        )))
    }
}

/// Why it is not written down how far a download is.
#[derive(Debug)]
pub(crate) enum NotNoted {
    /// What was written did not all get to the disk.
    Lost(io::Error),
    /// The record cannot be written.
    Record(io::Error),
}

/// Writes the record of a file; with `sync` the file is put on the disk first.
pub(crate) fn write_record(
    sidecar: &Sidecar,
    file: &File,
    version: &Version,
    written: &Spans,
    synced: &Spans,
    most: u64,
    sync: bool,
) -> Result<(), NotNoted> {
    if sync {
        file.sync_data().map_err(NotNoted::Lost)?;
    }
    let saved = sidecar.save(version, written, synced, most, sync);
    saved.map_err(NotNoted::Record)
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn downloaded(brought: Brought) -> Downloaded {
    Downloaded {
        bytes: brought.total,
        sha256: brought.sha256,
        media_type_hint: brought.media_type_hint,
        validator: brought.validator,
    }
}

/// Opens the partial file for this call alone. The lock goes with the last thread that has the file open.
async fn lock(task: &Task<'_>) -> Result<Arc<File>, DownloadError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let file = open(task.partial).map_err(disk(&task.shown))?;
        match file.try_lock() {
            Ok(()) if is_at(&file, task.partial) => return Ok(Arc::new(file)),
            // It was renamed or removed meanwhile: this is another file now.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                let url = task.shown.clone();
                return Err(DownloadError::Busy { url });
            }
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, "the file system has no locks; take care that one worker only uses it");
                return Ok(Arc::new(file));
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let no_links = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(no_links)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(own), Ok(there)) => (own.dev(), own.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}
