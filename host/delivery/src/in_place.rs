//! Small products, each in a file that is written in place, again and again.
//!
//! Making, naming and removing files costs a filesystem several times what writing into them does, and each change of a
//! name has to be flushed beside the bytes themselves. So a few files lie beside the spool and are neither named nor
//! removed: a product that fits is written over whatever was in one of them, which one flush of its bytes makes safe, and
//! when it has left, the file is wiped. A checksum tells a product from what a power cut left of one, and nobody was
//! promised that one yet. Products that are larger, or more than there are files, are files of their own in the spool.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::disk::{self, DiskError, Doing};
use crate::id::EntryId;
use crate::product::Kept;
use crate::record::{HEAD, Head};
use crate::row::Row;
use crate::steps::Steps;
use crate::upload;

/// Files at most. Products come one after the other and mostly leave before the next; more would take room for nothing,
/// fewer would send those that wait for a studio to files of their own sooner.
pub(crate) const FILES: usize = 4;

/// Longest row that is kept in place, in bytes: with the longest media, less than half a megabyte for each file.
const LONGEST_ROW: u64 = 128 * 1024;

/// Longest media: what is sent from memory, so that nobody reads the file.
const LONGEST_MEDIA: u64 = upload::AT_ONCE;

/// Written over what has left.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// The files, and whose they are.
#[derive(Clone, Debug)]
pub(crate) struct InPlace {
    dir: PathBuf,
    /// How many there may be.
    most: usize,
    state: Arc<Mutex<State>>,
    steps: Steps,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Place>,
    taken: HashMap<EntryId, (Place, Kept)>,
    /// Being written or wiped at this moment.
    busy: usize,
}

/// One file.
#[derive(Debug)]
struct Place {
    file: File,
    path: PathBuf,
    /// Bytes from its beginning that may be other than zero.
    used: usize,
}

impl InPlace {
    /// Beside a spool, with the products that an earlier process left there. `most` 0 keeps nothing in place.
    pub(crate) fn beside(spool: &Path, most: usize, steps: Steps) -> Result<Self, DiskError> {
        let dir = disk::with_suffix(spool, "-in-place");
        let mut state = State::default();
        if dir.exists() {
            for number in 0..most {
                let path = dir.join(number.to_string());
                if let Some(mut place) = Place::open(path)? {
                    match place.content()? {
                        Some(kept) => {
                            state.taken.insert(kept.id.clone(), (place, kept));
                        }
                        None => state.free.push(place),
                    }
                }
            }
        }
        Ok(Self {
            dir,
            most,
            state: Arc::new(Mutex::new(state)),
            steps,
        })
    }

    /// Keeps a product, if it fits; `false` where it has to be kept otherwise. When this returns `true`, it survives a crash
    /// of the process and of the machine. On an error nothing of it is left. Blocks.
    pub(crate) fn keep(&self, kept: &Kept, row: &[u8]) -> Result<bool, DiskError> {
        let media = kept.bytes.as_deref().unwrap_or_default();
        let fits = within(row.len(), LONGEST_ROW)
            && within(media.len(), LONGEST_MEDIA)
            && kept.row.media.is_some() == kept.bytes.is_some();
        let Some(head) = Head::of(&kept.id, row, media).filter(|_| fits) else {
            return Ok(false);
        };
        let Some(mut place) = self.begin()? else {
            return Ok(false);
        };
        let written = place
            .write(&head, row, media)
            .and_then(|()| self.steps.at("written in place", &place.path))
            .and_then(|()| place.file.sync_data().doing("write", &place.path))
            .and_then(|()| self.steps.at("kept in place", &place.path));
        let mut state = self.lock();
        state.busy -= 1;
        match written {
            Ok(()) => {
                state.taken.insert(kept.id.clone(), (place, kept.clone()));
                Ok(true)
            }
            Err(error) => {
                // A file that the disk cannot write is not used again. One that cannot even be wiped may be sent after a
                // restart, although its job is known to have failed: the studio refuses it.
                if place.wipe().is_ok() && error.is_full() {
                    state.free.push(place);
                }
                Err(error)
            }
        }
    }

    /// Wipes a product that has left; `false` where it is not here. A power cut may bring it back: that it has left is not
    /// flushed. Blocks.
    pub(crate) fn free(&self, id: &EntryId) -> Result<bool, DiskError> {
        let Some((mut place, kept)) = self.take(id) else {
            return Ok(false);
        };
        let wiped = place.wipe();
        let mut state = self.lock();
        state.busy -= 1;
        match wiped {
            Ok(()) => state.free.push(place),
            Err(error) => {
                state.taken.insert(id.clone(), (place, kept));
                return Err(error);
            }
        }
        Ok(true)
    }

    /// A product that is here.
    pub(crate) fn load(&self, id: &EntryId) -> Option<Kept> {
        self.lock().taken.get(id).map(|(_, kept)| kept.clone())
    }

    /// The names of all.
    pub(crate) fn entries(&self) -> Vec<EntryId> {
        self.lock().taken.keys().cloned().collect()
    }

    fn take(&self, id: &EntryId) -> Option<(Place, Kept)> {
        let mut state = self.lock();
        let taken = state.taken.remove(id)?;
        state.busy += 1;
        Some(taken)
    }

    /// A file that is nobody's; it counts as busy.
    fn begin(&self) -> Result<Option<Place>, DiskError> {
        let mut state = self.lock();
        while let Some(place) = state.free.pop() {
            // Where somebody tidied up, what is written into it is gone with the process.
            if place.is_there() {
                state.busy += 1;
                return Ok(Some(place));
            }
        }
        if state.busy + state.taken.len() >= self.most {
            return Ok(None);
        }
        let place = self.make()?;
        state.busy += usize::from(place.is_some());
        Ok(place)
    }

    /// Makes the first file whose name is free, and sees to it that the name is on disk.
    fn make(&self) -> Result<Option<Place>, DiskError> {
        disk::private_dir(&self.dir)?;
        for number in 0..self.most {
            let path = self.dir.join(number.to_string());
            if disk::is_there(&path) {
                continue;
            }
            drop(disk::create_new(&path)?);
            disk::sync_dir(&self.dir)?;
            if let Some(parent) = self.dir.parent() {
                disk::sync_dir(parent)?;
            }
            return Place::open(path);
        }
        Ok(None)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Opens a file; none where there is none.
    fn open(path: PathBuf) -> Result<Option<Self>, DiskError> {
        if !disk::is_there(&path) {
            return Ok(None);
        }
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.doing("open", &path)?;
        let length = file.metadata().doing("read", &path)?.len();
        Ok(Some(Self {
            file,
            path,
            used: usize::try_from(length).unwrap_or(usize::MAX),
        }))
    }

    fn is_there(&self) -> bool {
        let (Ok(named), Ok(open)) = (fs::symlink_metadata(&self.path), self.file.metadata()) else {
            return false;
        };
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            (named.dev(), named.ino()) == (open.dev(), open.ino())
        }
        #[cfg(not(unix))]
        {
            named.is_file() && open.is_file()
        }
    }

    /// The head last: a process killed before it leaves no product.
    fn write(&mut self, head: &[u8; HEAD], row: &[u8], media: &[u8]) -> Result<(), DiskError> {
        self.used = self.used.max(HEAD + row.len() + media.len());
        let mut write = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(HEAD as u64))?;
            self.file.write_all(row)?;
            self.file.write_all(media)?;
            self.file.rewind()?;
            self.file.write_all(head)
        };
        write().doing("write", &self.path)
    }

    /// The head first: a process killed after it has removed the product.
    fn wipe(&mut self) -> Result<(), DiskError> {
        let mut wipe = || -> io::Result<()> {
            // What a full disk cut off is not to be made longer.
            let length = usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX);
            let mut left = self.used.min(length);
            self.file.rewind()?;
            while left > 0 {
                let zeros = ZEROS.get(..left.min(ZEROS.len())).unwrap_or(&ZEROS);
                self.file.write_all(zeros)?;
                left -= zeros.len();
            }
            Ok(())
        };
        wipe().doing("wipe", &self.path)?;
        self.used = 0;
        Ok(())
    }

    /// The whole product that is in it, if one is; anything else is wiped.
    fn content(&mut self) -> Result<Option<Kept>, DiskError> {
        let found = self.read().doing("read", &self.path)?;
        if found.is_none() && self.used > 0 {
            self.wipe()?;
        }
        Ok(found)
    }

    fn read(&mut self) -> io::Result<Option<Kept>> {
        let mut head = [0; HEAD];
        self.file.rewind()?;
        match self.file.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let Some(head) = Head::read(&head) else {
            return Ok(None);
        };
        if !within(head.row, LONGEST_ROW) || !within(head.media, LONGEST_MEDIA) {
            return Ok(None);
        }
        let mut row = vec![0; head.row];
        let mut media = vec![0; head.media];
        for bytes in [&mut row, &mut media] {
            match self.file.read_exact(bytes) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                read => read?,
            }
        }
        let read = Row::read(&row).filter(|_| head.is_of(&row, &media));
        Ok(read.map(|row| Kept {
            bytes: row.media.is_some().then(|| Bytes::from(media)),
            id: head.id,
            row: Arc::new(row),
        }))
    }
}

fn within(length: usize, most: u64) -> bool {
    u64::try_from(length).is_ok_and(|length| length <= most)
}

#[cfg(test)]
mod tests;
