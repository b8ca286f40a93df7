//! Small products, each in a file that is written in place, again and again.
//!
//! Making, naming and removing files costs a filesystem several times what writing into them does, and each change of a
//! name has to be flushed beside the bytes themselves. So a few files lie beside the spool and are neither named nor
//! removed: a product that fits is written over whatever was in one of them, which one flush of its bytes makes safe, and
//! when it has left, the file is wiped. A checksum tells a product from what a power cut left of one, and nobody was
//! promised that one yet.
//!
//! Larger products, media that are a file already, and what there is no place for are files of their own in the spool.
//! They are so too where something is wrong with the places themselves: that is said, and costs no product.

mod place;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use place::{Found, LONGEST_MEDIA, LONGEST_ROW, Place, within};

use crate::disk::{self, DiskError, Doing};
use crate::id::EntryId;
use crate::product::Kept;
use crate::record::Head;
use crate::spool::{media_path, row_path};
use crate::steps::Steps;

/// Files at most. Products come one after the other and mostly leave before the next; more would take room for nothing,
/// fewer would send those that wait for a studio to files of their own sooner.
pub(crate) const FILES: usize = 4;

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
    /// Whether the names of all are known to be on disk.
    named: bool,
}

impl InPlace {
    /// Beside a spool, with the products that an earlier process left there, and how many files held what is no whole
    /// product. `most` 0 keeps nothing in place. What is wrong with one file is said, and that file not used.
    pub(crate) fn beside(
        spool: &Path,
        most: usize,
        steps: Steps,
    ) -> Result<(Self, usize), DiskError> {
        let dir = disk::with_suffix(spool, "-in-place");
        let (mut state, mut swept) = (State::default(), 0);
        if dir.try_exists().doing("look into", &dir)? {
            for number in 0..most {
                let path = dir.join(number.to_string());
                match state.take_over(&path, spool) {
                    Ok(spoiled) => swept += usize::from(spoiled),
                    Err(error) => unused(&path, &error),
                }
            }
        }
        let this = Self {
            dir,
            most,
            state: Arc::new(Mutex::new(state)),
            steps,
        };
        Ok((this, swept))
    }

    /// Keeps a product, if it fits; `false` where it has to be kept otherwise. When this returns `true`, it survives a crash
    /// of the process and of the machine. Where the disk is full nothing of it is left. Blocks.
    pub(crate) fn keep(&self, kept: &Kept, row: &[u8]) -> Result<bool, DiskError> {
        let media = kept.bytes.as_deref().unwrap_or_default();
        let fits = within(row.len(), LONGEST_ROW)
            && within(media.len(), LONGEST_MEDIA)
            && kept.row.media.is_some() == kept.bytes.is_some();
        let Some(head) = Head::of(&kept.id, row, media).filter(|_| fits) else {
            return Ok(false);
        };
        let Some(mut place) = self.begin() else {
            return Ok(false);
        };
        let written = place
            .write(&head, row, media)
            .and_then(|()| self.steps.at("written in place", place.path()))
            .and_then(|()| place.flush())
            .and_then(|()| self.steps.at("kept in place", place.path()));
        let Err(error) = written else {
            let mut state = self.lock();
            state.busy -= 1;
            state.taken.insert(kept.id.clone(), (place, kept.clone()));
            return Ok(true);
        };
        // One that cannot even be cleared may be sent after a restart, although its job is known to have failed: the studio
        // refuses it.
        let cleared = place.clear();
        let mut state = self.lock();
        state.busy -= 1;
        if error.is_full() {
            state.free.extend(cleared.ok().flatten());
            return Err(error);
        }
        // Not used again: the next product would fare no better.
        cleared?;
        unused(&self.dir, &error);
        Ok(false)
    }

    /// Wipes a product that has left; `false` where it is not here. A power cut may bring it back, but for `flushed`. Blocks.
    pub(crate) fn free(&self, id: &EntryId, flushed: bool) -> Result<bool, DiskError> {
        let Some((place, kept)) = self.take(id) else {
            return Ok(false);
        };
        let path = place.path().to_owned();
        let cleared = place.clear();
        let flush = match &cleared {
            Ok(Some(place)) if flushed => place.flush(),
            _ => Ok(()),
        };
        // It is still there where it cannot be cleared, and so it is still to be spoken of.
        let again = match &cleared {
            Ok(_) => None,
            Err(_) => Place::open(&path).ok().flatten(),
        };
        let mut state = self.lock();
        state.busy -= 1;
        if let Some(place) = again {
            state.taken.insert(id.clone(), (place, kept));
        }
        state.free.extend(cleared?);
        flush.map(|()| true)
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

    /// A file that is nobody's; it counts as busy. Nobody waits for the disk with the state in hand.
    fn begin(&self) -> Option<Place> {
        let (mut place, mut named) = {
            let mut state = self.lock();
            let free = state.free.pop();
            if free.is_none() && state.busy + state.taken.len() >= self.most {
                return None;
            }
            state.busy += 1;
            (free, state.named)
        };
        // Where somebody tidied up, what is written into it is gone with the process.
        place = place.filter(Place::is_there);
        if place.is_none() {
            named = false;
            place = self.said(self.make()).flatten();
        }
        if place.is_some() && !named {
            let dirs = [Some(self.dir.as_path()), self.dir.parent()];
            let synced = dirs.into_iter().flatten().try_for_each(disk::sync_dir);
            named = self.said(synced).is_some();
            place = place.filter(|_| named);
        }
        let mut state = self.lock();
        state.named = named;
        state.busy -= usize::from(place.is_none());
        place
    }

    /// Makes the first file whose name is free.
    fn make(&self) -> Result<Option<Place>, DiskError> {
        disk::private_dir(&self.dir)?;
        for number in 0..self.most {
            let path = self.dir.join(number.to_string());
            if disk::is_taken(&path) {
                continue;
            }
            match disk::create_new(&path) {
                Ok(_) => return Place::open(&path),
                // Another product's, at the same moment.
                Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// What went well; else that there is no place, and why.
    fn said<T>(&self, outcome: Result<T, DiskError>) -> Option<T> {
        outcome.map_err(|error| unused(&self.dir, &error)).ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes over what an earlier process left at a path; whether it was no whole product.
    fn take_over(&mut self, path: &Path, spool: &Path) -> Result<bool, DiskError> {
        let Some(mut place) = Place::open(path)? else {
            return Ok(false);
        };
        match place.content()? {
            Found::Nothing => self.free.push(place),
            Found::Leftovers => self.free.extend(place.clear()?),
            Found::Whole(kept) => {
                self.taken.insert(kept.id.clone(), (place, kept));
            }
            Found::Part => {
                tracing::warn!(target: "delivery", path = %path.display(), "a result that was not whole when the machine went down is gone");
                self.free.extend(place.clear()?);
                return Ok(true);
            }
            // As files of its own it is looked at like any other, and kept aside.
            Found::Strange { id, row, media } => {
                let (row_path, media_path) = (row_path(spool, &id), media_path(spool, &id));
                for path in [&row_path, &media_path] {
                    // Of an earlier try.
                    disk::remove(path)?;
                }
                let row = disk::write_new(&row_path, &row)?;
                let mut files = vec![(&row, row_path.as_path())];
                let media = (!media.is_empty()).then(|| disk::write_new(&media_path, &media));
                let media = media.transpose()?;
                files.extend(media.as_ref().map(|media| (media, media_path.as_path())));
                disk::sync_all(&files, spool)?;
                self.free.extend(place.clear()?);
            }
            Found::Foreign => {
                tracing::warn!(target: "delivery", path = %path.display(), "a file that this version did not write is left alone");
            }
        }
        Ok(false)
    }
}

fn unused(path: &Path, error: &DiskError) {
    tracing::warn!(target: "delivery", path = %path.display(), %error, "not used to keep results in");
}

#[cfg(test)]
mod tests;
