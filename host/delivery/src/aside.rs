//! What no studio will take: kept for its operator, with the reason, until it is removed or the oldest make room.
//!
//! The same two files per product as in the spool, and one line more in the row. Commands read this directory while
//! the worker writes it: a row under its real name is always whole, and its media is there unless it has just been
//! removed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;

use crate::disk::{self, DiskError, Doing};
use crate::event::Event;
use crate::id::{EntryId, unix_millis};
use crate::product::Kept;
use crate::row::{AsideRow, MAX_ROW_BYTES, Row};
use crate::spool::{encode, media_path, row_path, rows_in};
use crate::steps::Steps;

/// How much is kept aside. The oldest make room.
#[derive(Clone, Copy, Debug)]
pub struct AsideLimits {
    /// Products. More would make listing slow; fewer would drop some of a bad night's work.
    pub entries: usize,
    /// Bytes of all files. More could fill the disk that jobs need.
    pub bytes: u64,
}

impl Default for AsideLimits {
    fn default() -> Self {
        Self {
            entries: 1000,
            bytes: 20 * 1024 * 1024 * 1024,
        }
    }
}

/// The directory of what was kept aside.
#[derive(Clone, Debug)]
pub struct Aside {
    dir: PathBuf,
    limits: AsideLimits,
    steps: Steps,
}

/// One product that was kept aside.
#[derive(Clone, Debug)]
pub struct AsideEntry {
    /// Its name.
    pub id: EntryId,
    /// The job.
    pub job: String,
    /// The job's kind.
    pub kind: String,
    /// Its model.
    pub model: String,
    /// The full text that people know the job by.
    pub prompt: String,
    /// The studio that offered it.
    pub studio: String,
    /// The worker's id there.
    pub worker_id: String,
    /// When it was finished.
    pub finished_at: SystemTime,
    /// When it was kept aside.
    pub set_aside_at: SystemTime,
    /// Why.
    pub reason: String,
    /// What it is.
    pub content: AsideContent,
}

/// What was kept aside.
#[derive(Clone, Debug)]
pub enum AsideContent {
    /// A file.
    Media {
        /// Its extension.
        ext: String,
        /// Its size.
        bytes: u64,
    },
    /// A JSON result, verbatim.
    Json(String),
    /// What the job failed of.
    Failure(String),
}

impl AsideContent {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Media { bytes, .. } => *bytes,
            Self::Json(text) | Self::Failure(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
        }
    }
}

/// Why one of those kept aside cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AsideError {
    /// No such id, and no such job.
    #[error("no result `{wanted}` was kept aside; `studio-worker results` lists those that were")]
    None {
        /// What was asked for.
        wanted: String,
    },
    /// Several results of one job.
    #[error("{count} results of job `{wanted}` were kept aside; name one by its id")]
    Several {
        /// What was asked for.
        wanted: String,
        /// How many there are.
        count: usize,
    },
    /// The disk failed.
    #[error("{0}")]
    Disk(#[from] DiskError),
}

impl Aside {
    /// The aside in `dir`, for commands. Nothing is created or changed by this.
    pub fn at(dir: &Path) -> Self {
        Self::with_steps(dir, AsideLimits::default(), Steps::default())
    }

    pub(crate) fn with_steps(dir: &Path, limits: AsideLimits, steps: Steps) -> Self {
        Self {
            dir: dir.to_owned(),
            limits,
            steps,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// All that was kept aside, oldest first. A directory that is not there yet is an empty one; a row that cannot be
    /// read is passed over with a log line.
    pub fn list(&self) -> Result<Vec<AsideEntry>, AsideError> {
        Ok(self.ids()?.iter().filter_map(|id| self.entry(id)).collect())
    }

    /// One of them, by its id or by its job's.
    pub fn find(&self, wanted: &str) -> Result<AsideEntry, AsideError> {
        if let Ok(id) = EntryId::parse(wanted)
            && let Some(entry) = self.entry(&id)
        {
            return Ok(entry);
        }
        let mut of_job: Vec<_> = self.list()?;
        of_job.retain(|entry| entry.job == wanted);
        let count = of_job.len();
        let wanted = wanted.to_owned();
        match of_job.pop() {
            Some(entry) if count == 1 => Ok(entry),
            Some(_) => Err(AsideError::Several { wanted, count }),
            None => Err(AsideError::None { wanted }),
        }
    }

    /// Writes the content to a file of the caller's, which appears whole or not at all.
    pub fn write_out(&self, entry: &AsideEntry, to: &Path) -> Result<(), AsideError> {
        let folder = match to.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::NamedTempFile::new_in(folder).doing("create a file in", folder)?;
        match &entry.content {
            AsideContent::Media { .. } => {
                let mut media = disk::open_regular(&media_path(&self.dir, &entry.id))?;
                io::copy(&mut media, file.as_file_mut()).doing("write", to)?;
            }
            AsideContent::Json(text) | AsideContent::Failure(text) => {
                io::Write::write_all(&mut file, text.as_bytes()).doing("write", to)?;
            }
        }
        file.as_file().sync_all().doing("write", to)?;
        file.persist(to).map_err(|e| e.error).doing("name", to)?;
        Ok(())
    }

    /// Removes one for good. `false`: it was gone already.
    pub fn remove(&self, id: &EntryId) -> Result<bool, AsideError> {
        let row = row_path(&self.dir, id);
        let there = disk::is_there(&row);
        self.forget(id)?;
        Ok(there)
    }

    /// Whether all of a product is here; it is on disk then.
    pub(crate) fn has_whole(&self, id: &EntryId) -> Result<bool, DiskError> {
        let (row_path, media_path) = (row_path(&self.dir, id), media_path(&self.dir, id));
        let read = disk::read_bounded(&row_path, MAX_ROW_BYTES);
        let Some(row) = read.ok().and_then(|bytes| Row::read(&bytes)) else {
            return Ok(false);
        };
        if let Some(media) = &row.media
            && disk::size_of(&media_path) != Some(media.bytes)
        {
            return Ok(false);
        }
        self.sync(id, &row)?;
        Ok(true)
    }

    /// Waits until a product's row and media are on disk, and their names.
    fn sync(&self, id: &EntryId, row: &Row) -> Result<(), DiskError> {
        let mut paths = vec![row_path(&self.dir, id)];
        paths.extend(row.media.is_some().then(|| media_path(&self.dir, id)));
        let open = |path: &PathBuf| disk::open_to_sync(path);
        let files: Vec<File> = paths.iter().map(open).collect::<Result<_, _>>()?;
        let both: Vec<_> = files
            .iter()
            .zip(paths.iter().map(PathBuf::as_path))
            .collect();
        disk::sync_all(&both, &self.dir)
    }

    /// Removes what there is of a product that is not whole here. Its media go to where they came from, if they did.
    pub(crate) fn give_back(&self, id: &EntryId, media: Option<&Path>) -> Result<(), DiskError> {
        let here = media_path(&self.dir, id);
        if let Some(media) = media
            && disk::is_there(&here)
            && !disk::is_there(media)
        {
            disk::name(&here, media)?;
        }
        self.forget(id)
    }

    fn forget(&self, id: &EntryId) -> Result<(), DiskError> {
        disk::remove(&row_path(&self.dir, id))?;
        disk::remove(&media_path(&self.dir, id))
    }

    /// Takes a product in. The spool's row of it is still there when this returns.
    pub(crate) fn admit(&self, kept: &Kept, reason: &str, media: &Path) -> Result<(), DiskError> {
        let mut row: Row = (*kept.row).clone();
        row.aside = Some(AsideRow {
            reason: reason.to_owned(),
            at_ms: unix_millis(SystemTime::now()),
        });
        let path = row_path(&self.dir, &kept.id);
        let partial = disk::with_suffix(&path, ".tmp");
        // One of an earlier, failed try.
        disk::remove(&partial)?;
        drop(disk::write_new(&partial, &encode(&row, &path)?)?);
        self.steps.at("aside row written", &partial)?;
        let target = media_path(&self.dir, &kept.id);
        if row.media.is_some() && !disk::is_there(&target) {
            disk::take_in(media, &target)?;
            self.steps.at("aside media moved", &target)?;
        }
        disk::name(&partial, &path)?;
        self.steps.at("aside row named", &path)?;
        self.sync(&kept.id, &row)?;
        // On another filesystem it was copied.
        disk::remove(media)
    }

    /// Removes the oldest until the limits hold. What cannot be removed is said and left.
    pub(crate) fn trim(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let ids = match self.ids() {
            Ok(ids) => ids,
            Err(error) => {
                return vec![Event::Trouble {
                    job: None,
                    what: error.to_string(),
                }];
            }
        };
        let sizes: Vec<u64> = ids.iter().map(|id| self.size(id)).collect();
        let mut left = ids.len();
        let mut bytes: u64 = sizes.iter().sum();
        for (id, size) in ids.iter().zip(sizes) {
            if left <= self.limits.entries && bytes <= self.limits.bytes {
                break;
            }
            let reason = if left > self.limits.entries {
                format!("more than {} are kept", self.limits.entries)
            } else {
                format!("more than {} bytes are kept", self.limits.bytes)
            };
            let job = self.entry(id).map(|entry| entry.job);
            events.push(match self.remove(id) {
                Ok(_) => Event::Dropped {
                    job: job.unwrap_or_else(|| id.to_string()),
                    reason,
                },
                Err(error) => Event::Trouble {
                    job,
                    what: error.to_string(),
                },
            });
            left -= 1;
            bytes = bytes.saturating_sub(size);
        }
        events
    }

    fn ids(&self) -> Result<Vec<EntryId>, DiskError> {
        match disk::names(&self.dir) {
            Ok(names) => Ok(rows_in(&names)),
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    fn size(&self, id: &EntryId) -> u64 {
        let length = |path| std::fs::symlink_metadata(path).map_or(0, |m| m.len());
        length(row_path(&self.dir, id)) + length(media_path(&self.dir, id))
    }

    fn entry(&self, id: &EntryId) -> Option<AsideEntry> {
        let path = row_path(&self.dir, id);
        let bytes = disk::read_bounded(&path, MAX_ROW_BYTES).ok()?;
        let Some(row) = Row::read(&bytes) else {
            tracing::warn!(path = %path.display(), "a row of the aside cannot be read");
            return None;
        };
        let note = row.aside.unwrap_or(AsideRow {
            reason: String::new(),
            at_ms: row.finished_at_ms,
        });
        let content = match (row.media, row.json, row.failure) {
            (Some(media), _, _) => AsideContent::Media {
                ext: media.ext,
                bytes: media.bytes,
            },
            (None, Some(json), _) => AsideContent::Json(RawValue::get(&json).to_owned()),
            (None, None, failure) => {
                AsideContent::Failure(failure.map_or_else(String::new, |f| f.message))
            }
        };
        Some(AsideEntry {
            id: id.clone(),
            job: row.job,
            kind: row.kind,
            model: row.model,
            prompt: row.prompt,
            studio: row.studio,
            worker_id: row.worker_id,
            finished_at: time_of(row.finished_at_ms),
            set_aside_at: time_of(note.at_ms),
            reason: note.reason,
            content,
        })
    }
}

fn time_of(millis: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))
        .unwrap_or(UNIX_EPOCH)
}
