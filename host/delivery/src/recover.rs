//! What a killed process left, finished or swept when the spool is opened. No frame and no request goes out here.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::disk::{self, DiskError};
use crate::id::{EntryId, unix_millis};
use crate::product::Kept;
use crate::row::{MAX_ROW_BYTES, MediaRow, Row, VERSION};
use crate::spool::{Spool, media_path, row_path, rows_in};

/// What was found at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Products that wait for the next welcome.
    pub waiting: usize,
    /// Steps that a killed process had begun, and which were finished.
    pub finished: usize,
    /// Leftover files that belong to no product, removed.
    pub swept: usize,
    /// Products whose row cannot be read, kept aside.
    pub set_aside: usize,
}

/// Recovers both directories; the aside first, because its rows say which products have left the spool.
pub(crate) fn run(spool: &Spool) -> Result<Recovered, DiskError> {
    let mut found = Recovered::default();
    finish_rows(spool.aside.dir(), &mut found)?;
    leave_spool(spool, &mut found)?;
    finish_rows(&spool.dir, &mut found)?;
    set_unreadable_aside(spool, &mut found)?;
    sweep(&spool.dir, &mut found)?;
    sweep(spool.aside.dir(), &mut found)?;
    disk::sync_dir(&spool.dir)?;
    disk::sync_dir(spool.aside.dir())?;
    found.waiting = spool.entries()?.len();
    Ok(found)
}

/// Gives temporary rows their names when all that they speak of is there.
fn finish_rows(dir: &Path, found: &mut Recovered) -> Result<(), DiskError> {
    for name in disk::names(dir)? {
        let Some(id) = name
            .strip_suffix(".row.tmp")
            .and_then(|id| EntryId::parse(id).ok())
        else {
            continue;
        };
        let partial = dir.join(&name);
        let row = match disk::read_bounded(&partial, MAX_ROW_BYTES) {
            Ok(bytes) => Row::read(&bytes),
            Err(_) => None,
        };
        let whole = row.is_some_and(|row| match row.media {
            Some(media) => disk::size_of(&media_path(dir, &id)) == Some(media.bytes),
            None => true,
        });
        if whole {
            disk::name(&partial, &row_path(dir, &id))?;
            found.finished += 1;
        }
    }
    Ok(())
}

/// Removes from the spool what the aside has already. What the aside has may be a name and nothing more, after a power cut:
/// what the spool has is whole then.
fn leave_spool(spool: &Spool, found: &mut Recovered) -> Result<(), DiskError> {
    for id in rows_in(&disk::names(spool.aside.dir())?) {
        let row = row_path(&spool.dir, &id);
        let (in_place, in_files) = (spool.is_in_place(&id), disk::is_there(&row));
        if !in_place && !in_files {
            continue;
        }
        if spool.aside.has_whole(&id)? {
            spool.leave_place(&id)?;
            disk::remove(&row)?;
            found.finished += 1;
        } else {
            let back = (!in_place).then(|| spool.media(&id));
            spool.aside.give_back(&id, back.as_deref())?;
            found.swept += 1;
        }
    }
    Ok(())
}

/// A row that the disk spoiled, or media that is not what its row says, cannot be delivered, and is not thrown away.
fn set_unreadable_aside(spool: &Spool, found: &mut Recovered) -> Result<(), DiskError> {
    for id in spool.rows()? {
        let reason = match spool.load(&id) {
            Ok(None) => continue,
            Ok(Some(kept)) => match &kept.row.media {
                Some(media) if disk::size_of(&spool.media(&id)) != Some(media.bytes) => {
                    "its file is missing or has another size than when it was kept"
                }
                _ => continue,
            },
            Err(e) if is_spoiled(&e) => "its row cannot be read",
            Err(e) => return Err(e),
        };
        set_spoiled_aside(spool, &id, reason)?;
        found.set_aside += 1;
    }
    Ok(())
}

/// Whether a row was read and makes no sense, rather than not read.
pub(crate) fn is_spoiled(error: &DiskError) -> bool {
    matches!(
        error.source.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput
    )
}

/// Keeps aside what there is of a product: its media, else its row as it is.
pub(crate) fn set_spoiled_aside(
    spool: &Spool,
    id: &EntryId,
    reason: &str,
) -> Result<(), DiskError> {
    let row_path = row_path(&spool.dir, id);
    let known = spool.load(id).ok().flatten();
    let media = spool.media(id);
    let ext = if disk::is_there(&media) {
        known
            .as_ref()
            .and_then(|kept| kept.row.media.as_ref())
            .map_or("bin", |media| media.ext.as_str())
            .to_owned()
    } else {
        disk::name(&row_path, &media)?;
        "row".to_owned()
    };
    let mut row = known.map_or_else(unknown, |kept| (*kept.row).clone());
    row.json = None;
    row.failure = None;
    row.media = Some(MediaRow {
        ext,
        media_type: None,
        bytes: disk::size_of(&media).unwrap_or(0),
    });
    let kept = Kept {
        id: id.clone(),
        row: Arc::new(row),
        bytes: None,
    };
    spool.set_aside(&kept, reason).map(|_| ())
}

fn unknown() -> Row {
    Row {
        version: VERSION,
        job: "unknown".to_owned(),
        kind: String::new(),
        model: String::new(),
        prompt: String::new(),
        studio: String::new(),
        worker_id: String::new(),
        session: 0,
        process: String::new(),
        finished_at_ms: unix_millis(SystemTime::now()),
        media: None,
        json: None,
        failure: None,
        aside: None,
    }
}

/// Removes temporary files, and media without a row: its product has left.
fn sweep(dir: &Path, found: &mut Recovered) -> Result<(), DiskError> {
    let names = disk::names(dir)?;
    let rows = rows_in(&names);
    for name in &names {
        let stem = name.split('.').next().unwrap_or_default();
        let Ok(id) = EntryId::parse(stem) else {
            // Not a name that the spool gives: somebody else's file.
            continue;
        };
        let orphan = name.ends_with(".media") && !rows.contains(&id);
        if name.ends_with(".tmp") || orphan {
            disk::remove(&dir.join(name))?;
            found.swept += 1;
        }
    }
    Ok(())
}
