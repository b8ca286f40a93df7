//! The files that one job holds, by number.
//!
//! Numbers only grow and a file is never replaced, so that a number means the same bytes for as long as the job lives.
//! Effects of one round run side by side: every method takes `&self`, and room is claimed before bytes are written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::cache::CachedFile;
use crate::entry::{Entry, FileError, FileId, FileInfo};
use crate::limits::Limits;
use crate::name::{check_bare_name, name_by_content};
use crate::own_thread::{QUICK_BYTES, file_work};
use crate::parts::{Part, Source, append, total};
use crate::scratch::{Scratch, make_new};
use crate::sniff::sniff_file;

/// The table of one job's files, and its scratch directory, which goes when this does.
#[derive(Debug)]
pub struct JobFiles {
    pub(crate) scratch: Scratch,
    pub(crate) limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Entry>,
    /// Sum of the entries that lie in scratch, and of what is being written there.
    bytes: u64,
    /// Directories handed out, for names that never repeat.
    places: u32,
}

/// Room claimed in the table's sum; given back unless it was used.
pub(crate) struct Room<'a> {
    files: &'a JobFiles,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut table = self.files.lock();
        table.bytes = table.bytes.saturating_sub(self.bytes);
    }
}

impl JobFiles {
    /// An empty table over the directory of one job.
    #[must_use]
    pub fn new(scratch: Scratch, limits: Limits) -> Self {
        Self {
            scratch,
            limits,
            table: Mutex::new(Table::default()),
        }
    }

    /// The job's directory.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Ends the job's files: removes the scratch directory without blocking the caller's thread.
    pub async fn remove(self) {
        self.scratch.remove().await;
    }

    /// The entry of a number that a plugin named.
    ///
    /// # Errors
    /// When the job has no such file.
    pub fn get(&self, id: FileId) -> Result<Entry, FileError> {
        let index = usize::try_from(id.0).map_err(|_| FileError::NoSuchFile(id))?;
        self.lock()
            .entries
            .get(index)
            .cloned()
            .ok_or(FileError::NoSuchFile(id))
    }

    /// All files, by number.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// A path in this job's scratch that nothing has yet, for a download.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn input_path(&self) -> Result<PathBuf, FileError> {
        Ok(self.place("input")?.join("download"))
    }

    /// Takes a finished file in this job's scratch into the table. It is named by `hint` (the last segment of a URL,
    /// say) and by its content: see [`name_by_content`].
    ///
    /// # Errors
    /// When it is no regular file, cannot be read, or is too much for the job.
    pub async fn adopt(&self, path: PathBuf, hint: &str) -> Result<FileInfo, FileError> {
        let hint = hint.to_owned();
        let (path, size, media_type, name) = file_work(true, move || {
            let (file, size) = open_regular(&path)?;
            let media_type = sniff_file(&file).map_err(FileError::io(&path))?;
            let name = name_by_content(&hint, media_type);
            let named = path.with_file_name(&name);
            fs::rename(&path, &named).map_err(FileError::io(&path))?;
            Ok((named, size, media_type, name))
        })
        .await?;
        let place = path.clone();
        let taken = self
            .claim(size, "the job's files together")
            .and_then(|room| self.insert(path, name, size, media_type, Some(room)));
        self.unless_refused(taken, place).await
    }

    /// What came of taking a file into the table. One that it refused would lie in the scratch directory and count nowhere: it
    /// is removed. Where it cannot be, the refusal is the answer all the same.
    async fn unless_refused(
        &self,
        taken: Result<FileInfo, FileError>,
        path: PathBuf,
    ) -> Result<FileInfo, FileError> {
        if taken.is_err() {
            let removed = file_work(false, move || {
                fs::remove_file(&path).map_err(FileError::io(&path))
            });
            if let Err(error) = removed.await {
                tracing::warn!(target: "job", %error, "a file that the job may not have stays in its directory");
            }
        }
        taken
    }

    /// Takes a file of the model cache into the table under `name`, which must be bare.
    ///
    /// # Errors
    /// When the name is not bare or the file cannot be read.
    pub async fn adopt_cached(
        &self,
        cached: &CachedFile,
        name: &str,
    ) -> Result<FileInfo, FileError> {
        bare(name)?;
        let model = cached.clone();
        let path = cached.path.clone();
        let (path, size, media_type) = file_work(true, move || {
            model.check()?;
            let (file, size) = open_regular(&path)?;
            let media_type = sniff_file(&file).map_err(FileError::io(&path))?;
            Ok((path, size, media_type))
        })
        .await?;
        let info = self.insert(path, name.to_owned(), size, media_type, None)?;
        self.hold(info.id, cached);
        Ok(info)
    }

    /// Makes a file from parts, joined, under the bare name `name`.
    ///
    /// # Errors
    /// When the name is not bare, a part does not exist, or it is too large.
    pub async fn write(&self, name: &str, parts: &[Part]) -> Result<FileInfo, FileError> {
        bare(name)?;
        let sources = self.sources(parts)?;
        let bytes = total(&sources);
        limit(format!("writing {name:?}"), bytes, self.limits.file_bytes)?;
        let room = self.claim(bytes, "the job's files together")?;
        let path = self.place("made")?.join(name);
        let place = path.clone();
        let written = file_work(bytes <= QUICK_BYTES, move || {
            let mut options = OpenOptions::new();
            let mut file = options
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(FileError::io(&path))?;
            for source in &sources {
                append(source, &mut file)?;
            }
            file.seek(SeekFrom::Start(0))
                .map_err(FileError::io(&path))?;
            let media_type = sniff_file(&file).map_err(FileError::io(&path))?;
            Ok((path, media_type))
        })
        .await;
        let (path, media_type) = match written {
            Ok(written) => written,
            Err(error) => {
                // What came of it, on a full disk say. That there is nothing is as good.
                let _ = file_work(true, move || Ok(fs::remove_file(&place).is_ok())).await;
                return Err(error);
            }
        };
        let taken = self.insert(path, name.to_owned(), bytes, media_type, Some(room));
        self.unless_refused(taken, place).await
    }

    /// Up to `length` bytes from `offset` on; fewer only where the file ends.
    ///
    /// # Errors
    /// When there is no such file, or more is asked for than may be read at once.
    pub async fn read(&self, id: FileId, offset: u64, length: u32) -> Result<Bytes, FileError> {
        let entry = self.get(id)?;
        limit(
            format!("reading file {id}"),
            u64::from(length),
            self.limits.read_bytes,
        )?;
        file_work(u64::from(length) <= QUICK_BYTES, move || {
            entry.check()?;
            let (mut file, size) = open_regular(&entry.path)?;
            if offset >= size {
                return Ok(Bytes::new());
            }
            file.seek(SeekFrom::Start(offset))
                .map_err(FileError::io(&entry.path))?;
            let mut bytes = Vec::new();
            file.take(u64::from(length))
                .read_to_end(&mut bytes)
                .map_err(FileError::io(&entry.path))?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    /// The whole of a file of at most `max` bytes.
    ///
    /// # Errors
    /// When there is no such file or it is longer.
    pub async fn bytes(&self, id: FileId, max: u64) -> Result<Bytes, FileError> {
        self.assemble(&[Part::File(id)], max).await
    }

    /// The parts, joined, in memory, when that is at most `max` bytes.
    ///
    /// # Errors
    /// When a part does not exist or the whole is longer.
    pub async fn assemble(&self, parts: &[Part], max: u64) -> Result<Bytes, FileError> {
        if let [Part::Bytes(bytes)] = parts {
            limit("the data".to_owned(), bytes.len() as u64, max)?;
            return Ok(bytes.clone());
        }
        let sources = self.sources(parts)?;
        limit(
            "the data".to_owned(),
            total(&sources),
            max.min(self.limits.read_bytes),
        )?;
        file_work(total(&sources) <= QUICK_BYTES, move || {
            let mut joined = Vec::with_capacity(usize::try_from(total(&sources)).unwrap_or(0));
            for source in &sources {
                append(source, &mut joined)?;
            }
            Ok(Bytes::from(joined))
        })
        .await
    }

    fn sources(&self, parts: &[Part]) -> Result<Vec<Source>, FileError> {
        let source = |part: &Part| {
            Ok(match part {
                Part::Bytes(bytes) => Source::Bytes(bytes.clone()),
                Part::File(id) => Source::File(self.get(*id)?),
                Part::Base64(id) => Source::Base64(self.get(*id)?),
            })
        };
        parts.iter().map(source).collect()
    }

    /// A new directory of the job's, for what `what` says.
    pub(crate) fn place(&self, what: &str) -> Result<PathBuf, FileError> {
        let number = {
            let mut table = self.lock();
            table.places = table.places.saturating_add(1);
            table.places
        };
        let dir = self.scratch.path().join(format!("{what}-{number}"));
        make_new(&dir).map_err(|error| match error {
            crate::scratch::ScratchError::Io { path, source } => FileError::Io { path, source },
            other => FileError::Io {
                path: dir.clone(),
                source: io::Error::other(other),
            },
        })?;
        Ok(dir)
    }

    /// Claims room for `bytes` in the job's sum.
    pub(crate) fn claim(&self, bytes: u64, what: &str) -> Result<Room<'_>, FileError> {
        let mut table = self.lock();
        let sum = table.bytes.saturating_add(bytes);
        limit(what.to_owned(), sum, self.limits.scratch_bytes)?;
        table.bytes = sum;
        Ok(Room { files: self, bytes })
    }

    /// Puts a file into the table; its room, if it takes any, is used up.
    pub(crate) fn insert(
        &self,
        path: PathBuf,
        name: String,
        size: u64,
        media_type: Option<&'static str>,
        room: Option<Room<'_>>,
    ) -> Result<FileInfo, FileError> {
        let mut table = self.lock();
        let index = table.entries.len();
        if index >= self.limits.files {
            drop(table);
            return Err(FileError::TooMany {
                what: "the job",
                limit: self.limits.files,
            });
        }
        let id = FileId(u32::try_from(index).unwrap_or(u32::MAX));
        let info = FileInfo {
            id,
            name,
            size,
            media_type,
        };
        table.entries.push(Entry {
            info: info.clone(),
            path,
            cached: room.is_none(),
            model: None,
        });
        if let Some(mut room) = room {
            // Used: nothing to give back.
            room.bytes = 0;
            drop(table);
            drop(room);
        }
        Ok(info)
    }

    /// Keeps a model file for as long as the job lives.
    fn hold(&self, id: FileId, model: &CachedFile) {
        let index = usize::try_from(id.0).unwrap_or(usize::MAX);
        if let Some(entry) = self.lock().entries.get_mut(index) {
            entry.model = Some(model.clone());
        }
    }

    /// The paths, without links, of these files as far as they lie outside the job's scratch directory: what a sandbox must
    /// let a program read so that it can use the names it is shown. Each is looked at again.
    ///
    /// # Errors
    /// When there is no such file, or it was changed since the job got it.
    pub fn real_paths(&self, ids: &[FileId]) -> Result<Vec<PathBuf>, FileError> {
        let mut paths = Vec::new();
        for id in ids {
            let entry = self.get(*id)?;
            entry.check()?;
            if entry.cached && !paths.contains(&entry.path) {
                paths.push(entry.path);
            }
        }
        Ok(paths)
    }

    /// What the job may hold.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes that the job's scratch directory may still take, by what is known of it: for whoever brings a file of unknown
    /// size into it.
    #[must_use]
    pub fn room_left(&self) -> u64 {
        self.limits.scratch_bytes.saturating_sub(self.lock().bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing is left half-done under this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a regular file, not following a link that a program may have put there.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64), FileError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = opened.map_err(|source| match rustix::io::Errno::from_io_error(&source) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => FileError::NotRegular {
            path: path.to_owned(),
        },
        _ => FileError::Io {
            path: path.to_owned(),
            source,
        },
    })?;
    let metadata = file.metadata().map_err(FileError::io(path))?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular {
            path: path.to_owned(),
        });
    }
    Ok((file, metadata.len()))
}

pub(crate) fn bare(name: &str) -> Result<(), FileError> {
    check_bare_name(name).map_err(|why| FileError::Name {
        name: name.chars().take(100).collect(),
        why,
    })
}

pub(crate) fn limit(what: String, bytes: u64, limit: u64) -> Result<(), FileError> {
    if bytes > limit {
        Err(FileError::TooLarge { what, bytes, limit })
    } else {
        Ok(())
    }
}
