//! Products on their way to the studio: a directory of `<id>.row` files, and `<id>.media` beside those of media. Small
//! ones are kept [in place](crate::in_place) instead, while there is room; what follows is of the others.
//!
//! A product enters in this order: its row under a temporary name; its media; the row's real name; and then all of it is
//! synced at once. A process killed in between leaves a temporary row that says whose media the file beside it is, so
//! [`Spool::open`] can finish what was begun, and a row under its real name has its media. Syncing each file before
//! the next step would order a power cut the same way, at the price of three flushes of the device instead of one for
//! every job; as it is, what a power cut spoils is a product that [`Spool::keep`] had not yet answered for, and opening
//! finds it out by its row, which must be whole, and by its media's size.
//!
//! A product leaves in the order row, media: media without any row is a product that the studio has.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::aside::{Aside, AsideLimits};
use crate::disk::{self, DiskError};
use crate::event::Event;
use crate::id::EntryId;
use crate::in_place::{self, InPlace};
use crate::product::{Kept, MediaContent, Payload, Product};
use crate::recover::{self, Recovered};
use crate::row::{MAX_ROW_BYTES, Row, RowError};
use crate::steps::Steps;
use crate::upload;

/// Products that the studio does not have yet.
#[derive(Clone, Debug)]
pub struct Spool {
    pub(crate) dir: PathBuf,
    pub(crate) aside: Aside,
    pub(crate) process: Arc<str>,
    recovered: Recovered,
    in_place: InPlace,
    pub(crate) steps: Steps,
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory cannot be used.
    #[error(
        "the spool of results cannot be opened: {0}; check the state directory's owner and room"
    )]
    Disk(#[from] DiskError),
    /// The operating system has no randomness.
    #[error("the spool of results cannot be opened: {0}")]
    Randomness(getrandom::Error),
}

/// Why a product could not be kept. Nothing half-written is left, and media given as a file is still where it was.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// No room. Trying again helps once there is some.
    #[error(
        "no room to keep the result of job {job}: {source}; free some space there, then run the job again"
    )]
    Full {
        /// The job.
        job: String,
        /// Where and what.
        source: DiskError,
    },
    /// The disk failed otherwise.
    #[error(
        "the result of job {job} cannot be kept: {source}; check the state directory's owner and disk"
    )]
    Disk {
        /// The job.
        job: String,
        /// Where and what.
        source: DiskError,
    },
    /// A JSON result that is none.
    #[error("the result of job {job} is not valid JSON; the engine that made it is at fault")]
    NotJson {
        /// The job.
        job: String,
    },
    /// An extension that cannot stand in a file name.
    #[error(
        "the result of job {job} has an extension that is not 1 to 16 letters or digits; the engine that made it is at fault"
    )]
    Extension {
        /// The job.
        job: String,
    },
    /// The operating system has no randomness.
    #[error("the result of job {job} cannot be kept: {cause}")]
    Randomness {
        /// The job.
        job: String,
        /// What the system said.
        cause: getrandom::Error,
    },
}

impl Spool {
    /// Opens, and first makes, the spool in `dir`, with `aside` for what is refused, and finishes or sweeps what a
    /// killed process left. Only one process may have it open. It blocks, shortly.
    pub fn open(dir: &Path, aside: &Path) -> Result<Self, OpenError> {
        Self::open_with_limits(dir, aside, AsideLimits::default())
    }

    /// The same with other limits on what is kept aside.
    pub fn open_with_limits(
        dir: &Path,
        aside: &Path,
        limits: AsideLimits,
    ) -> Result<Self, OpenError> {
        Self::open_stepwise(dir, aside, limits, in_place::FILES, Steps::default())
    }

    pub(crate) fn open_stepwise(
        dir: &Path,
        aside: &Path,
        limits: AsideLimits,
        in_place: usize,
        steps: Steps,
    ) -> Result<Self, OpenError> {
        let mut process = [0u8; 8];
        getrandom::fill(&mut process).map_err(OpenError::Randomness)?;
        disk::private_dir(dir)?;
        disk::private_dir(aside)?;
        let (in_place, swept) = InPlace::beside(dir, in_place, steps.clone())?;
        let mut spool = Self {
            dir: dir.to_owned(),
            aside: Aside::with_steps(aside, limits, steps.clone()),
            process: hex::encode(process).into(),
            recovered: Recovered::default(),
            in_place,
            steps,
        };
        spool.recovered = recover::run(&spool)?;
        spool.recovered.swept += swept;
        if spool.recovered != Recovered::default() {
            let found = spool.recovered;
            tracing::info!(
                target: "delivery",
                waiting = found.waiting,
                finished = found.finished,
                swept = found.swept,
                set_aside = found.set_aside,
                "results of an earlier run"
            );
        }
        Ok(spool)
    }

    /// What was found when it was opened.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Puts a product on disk. When this returns, it survives a crash of the process and of the machine.
    pub async fn keep(&self, product: Product) -> Result<Kept, KeepError> {
        let spool = self.clone();
        let job = product.job_id.as_str().to_owned();
        let task = tokio::task::spawn_blocking(move || spool.keep_here(product));
        task.await.unwrap_or_else(|e| {
            let source = io::Error::other(e.to_string());
            let source = DiskError {
                doing: "write",
                path: self.dir.clone(),
                source,
            };
            Err(KeepError::Disk { job, source })
        })
    }

    /// How many products wait, or `None` where the directory cannot be listed.
    pub fn waiting(&self) -> Option<usize> {
        self.entries().ok().map(|entries| entries.len())
    }

    /// Those kept aside.
    pub fn aside(&self) -> &Aside {
        &self.aside
    }

    /// The same on this thread, which has to be one that may wait for the disk.
    pub fn keep_here(&self, product: Product) -> Result<Kept, KeepError> {
        let job = product.job_id.as_str().to_owned();
        let failed = |source: DiskError| {
            let job = job.clone();
            if source.is_full() {
                KeepError::Full { job, source }
            } else {
                KeepError::Disk { job, source }
            }
        };
        let id = EntryId::fresh().map_err(|cause| KeepError::Randomness {
            job: job.clone(),
            cause,
        })?;
        let bytes = size(&product.payload).map_err(failed)?;
        let row = Row::of(&product, &self.process, bytes).map_err(|e| match e {
            RowError::NotJson => KeepError::NotJson { job: job.clone() },
            RowError::Extension => KeepError::Extension { job: job.clone() },
        })?;
        let small = match &product.payload {
            Payload::Media {
                content: MediaContent::Bytes(media),
                ..
            } if bytes <= upload::AT_ONCE => Some(media.clone()),
            _ => None,
        };
        let row_bytes = encode(&row, &row_path(&self.dir, &id)).map_err(failed)?;
        let kept = Kept {
            id,
            row: Arc::new(row),
            bytes: small,
        };
        if self.in_place.keep(&kept, &row_bytes).map_err(failed)? {
            return Ok(kept);
        }
        if let Err(error) = self.write(&kept.id, &row_bytes, &product.payload) {
            self.undo(&kept.id, &product.payload);
            return Err(failed(error));
        }
        Ok(kept)
    }

    fn write(&self, id: &EntryId, row: &[u8], payload: &Payload) -> Result<(), DiskError> {
        let row_path = row_path(&self.dir, id);
        let partial = disk::with_suffix(&row_path, ".tmp");
        let row = disk::write_new(&partial, row)?;
        self.steps.at("row written", &partial)?;
        let path = media_path(&self.dir, id);
        let media = self.write_media(&path, payload)?;
        disk::name(&partial, &row_path)?;
        self.steps.at("row named", &row_path)?;
        let media = media.as_ref().map(|media| (media, path.as_path()));
        let files: Vec<_> = media
            .into_iter()
            .chain([(&row, row_path.as_path())])
            .collect();
        disk::sync_all(&files, &self.dir)?;
        self.steps.at("kept", &row_path)
    }

    fn write_media(&self, path: &Path, payload: &Payload) -> Result<Option<File>, DiskError> {
        let Payload::Media { content, .. } = payload else {
            return Ok(None);
        };
        let file = match content {
            MediaContent::File(from) => {
                disk::take_in(from, path)?;
                disk::open_to_sync(path)?
            }
            MediaContent::Bytes(bytes) => self.write_bytes(path, bytes)?,
        };
        self.steps.at("media named", path)?;
        Ok(Some(file))
    }

    fn write_bytes(&self, path: &Path, bytes: &[u8]) -> Result<File, DiskError> {
        let partial = disk::with_suffix(path, ".tmp");
        let file = disk::write_new(&partial, bytes)?;
        self.steps.at("media written", &partial)?;
        disk::name(&partial, path)?;
        Ok(file)
    }

    /// Takes back what an error interrupted, moved media to where it came from.
    fn undo(&self, id: &EntryId, payload: &Payload) {
        let (row, media) = (row_path(&self.dir, id), media_path(&self.dir, id));
        if let Payload::Media {
            content: MediaContent::File(file),
            ..
        } = payload
            && disk::is_there(&media)
            && !disk::is_there(file)
            && let Err(error) = disk::name(&media, file)
        {
            // The product matters more than the order: it and its temporary row stay for the next start.
            tracing::error!(%error, "media of a result that could not be kept stays in the spool");
            return;
        }
        for path in [&row, &media] {
            disk::remove_quietly(path);
            disk::remove_quietly(&disk::with_suffix(path, ".tmp"));
        }
    }

    /// Names of what waits, oldest first.
    pub(crate) fn entries(&self) -> Result<Vec<EntryId>, DiskError> {
        let mut entries = self.rows()?;
        entries.extend(self.in_place.entries());
        entries.sort_unstable();
        Ok(entries)
    }

    /// Those of them that have a row of their own.
    pub(crate) fn rows(&self) -> Result<Vec<EntryId>, DiskError> {
        Ok(rows_in(&disk::names(&self.dir)?))
    }

    /// Whether a product is kept in place.
    pub(crate) fn is_in_place(&self, id: &EntryId) -> bool {
        self.in_place.load(id).is_some()
    }

    /// Wipes a product that is kept in place although the aside has it.
    pub(crate) fn leave_place(&self, id: &EntryId) -> Result<(), DiskError> {
        self.in_place.free(id, true).map(drop)
    }

    /// Reads a row. `Ok(None)`: it is gone. A row that cannot be understood is an error.
    pub(crate) fn load(&self, id: &EntryId) -> Result<Option<Kept>, DiskError> {
        if let Some(kept) = self.in_place.load(id) {
            return Ok(Some(kept));
        }
        let path = row_path(&self.dir, id);
        let bytes = match disk::read_bounded(&path, MAX_ROW_BYTES) {
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let row = Row::read(&bytes).ok_or_else(|| DiskError {
            doing: "understand",
            path,
            source: io::Error::new(
                io::ErrorKind::InvalidData,
                "not a whole row of this version",
            ),
        })?;
        Ok(Some(Kept {
            id: id.clone(),
            row: Arc::new(row),
            bytes: None,
        }))
    }

    /// Where the media of a product is.
    pub(crate) fn media(&self, id: &EntryId) -> PathBuf {
        media_path(&self.dir, id)
    }

    /// Takes out what the studio has. The directory is not synced: a product that comes back after a power cut is
    /// posted again, and refused.
    pub(crate) fn remove(&self, id: &EntryId) -> Result<(), DiskError> {
        let (row, media) = (row_path(&self.dir, id), media_path(&self.dir, id));
        self.steps.at("leaving", &row)?;
        if self.in_place.free(id, false)? {
            return self.steps.at("wiped", &row);
        }
        disk::remove(&row)?;
        self.steps.at("row removed", &row)?;
        disk::remove(&media)
    }

    /// Media that are kept in place, as a file.
    fn copy_out(&self, id: &EntryId, media: &Path) -> Result<(), DiskError> {
        let Some(bytes) = self.in_place.load(id).and_then(|kept| kept.bytes) else {
            return Ok(());
        };
        // Left by an attempt that failed.
        disk::remove(&disk::with_suffix(media, ".tmp"))?;
        self.write_bytes(media, &bytes).map(drop)
    }

    /// Takes a product to the aside, with the reason. Killed in between, it is in one of the two.
    pub(crate) fn set_aside(&self, kept: &Kept, reason: &str) -> Result<Vec<Event>, DiskError> {
        let media = self.media(&kept.id);
        let admitted = self
            .copy_out(&kept.id, &media)
            .and_then(|()| self.aside.admit(kept, reason, &media));
        if let Err(error) = admitted {
            if self.is_in_place(&kept.id) {
                // A copy: the product is where it was.
                disk::remove_quietly(&media);
                disk::remove_quietly(&disk::with_suffix(&media, ".tmp"));
            }
            return Err(error);
        }
        let row = row_path(&self.dir, &kept.id);
        disk::remove(&row)?;
        self.steps.at("row removed after aside", &row)?;
        disk::sync_dir(&self.dir)?;
        self.leave_place(&kept.id)?;
        Ok(self.aside.trim())
    }
}

/// Bytes of media; 0 for anything else.
fn size(payload: &Payload) -> Result<u64, DiskError> {
    match payload {
        Payload::Media {
            content: MediaContent::File(path),
            ..
        } => {
            let file = disk::open_regular(path)?;
            disk::Doing::doing(file.metadata(), "read", path).map(|m| m.len())
        }
        Payload::Media {
            content: MediaContent::Bytes(bytes),
            ..
        } => Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        Payload::Json(_) | Payload::Failure { .. } => Ok(0),
    }
}

/// Path of a row.
pub(crate) fn row_path(dir: &Path, id: &EntryId) -> PathBuf {
    dir.join(format!("{id}.row"))
}

/// Path of a product's media.
pub(crate) fn media_path(dir: &Path, id: &EntryId) -> PathBuf {
    dir.join(format!("{id}.media"))
}

/// The ids that have a row, in the order of the names.
pub(crate) fn rows_in(names: &[String]) -> Vec<EntryId> {
    names
        .iter()
        .filter_map(|name| EntryId::parse(name.strip_suffix(".row")?).ok())
        .collect()
}

/// A row as a file's content.
pub(crate) fn encode(row: &Row, path: &Path) -> Result<Vec<u8>, DiskError> {
    row.to_bytes().map_err(|e| DiskError {
        doing: "write",
        path: path.to_owned(),
        source: io::Error::other(e),
    })
}
