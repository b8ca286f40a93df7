//! One file that products are written into.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{self, DiskError, Doing};
use crate::id::EntryId;
use crate::product::Kept;
use crate::record::{HEAD, Head, is_of_another_version};
use crate::row::Row;
use crate::upload;

/// Longest row that is kept in place, in bytes: with the longest media, less than half a megabyte for each file.
pub(super) const LONGEST_ROW: u64 = 128 * 1024;

/// Longest media: what is sent from memory, so that nobody reads the file.
pub(super) const LONGEST_MEDIA: u64 = upload::AT_ONCE;

/// Written over what has left.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// One file.
#[derive(Debug)]
pub(super) struct Place {
    file: File,
    path: PathBuf,
    /// Bytes from its beginning that may be other than zero.
    used: usize,
}

/// What a file holds.
pub(super) enum Found {
    Nothing,
    /// What a killed process was writing or wiping.
    Leftovers,
    Whole(Kept),
    /// Some of a product, which nobody was promised.
    Part,
    /// All that was written, and it makes no sense.
    Strange {
        id: EntryId,
        row: Vec<u8>,
        media: Vec<u8>,
    },
    /// Something that this version does not write.
    Foreign,
}

impl Place {
    /// Opens a file; none where there is none.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, DiskError> {
        if !disk::is_there(path) {
            return Ok(None);
        }
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.doing("open", path)?;
        let length = file.metadata().doing("read", path)?.len();
        Ok(Some(Self {
            file,
            path: path.to_owned(),
            used: usize::try_from(length).unwrap_or(usize::MAX),
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the name still leads here.
    pub(super) fn is_there(&self) -> bool {
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
            // An open file cannot be removed there.
            named.is_file() && open.is_file()
        }
    }

    /// The head last: a process killed before it leaves no product.
    pub(super) fn write(
        &mut self,
        head: &[u8; HEAD],
        row: &[u8],
        media: &[u8],
    ) -> Result<(), DiskError> {
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

    /// Waits until what was written is on disk.
    pub(super) fn flush(&self) -> Result<(), DiskError> {
        self.file.sync_data().doing("write", &self.path)
    }

    /// Empties it, by whatever means there are; none where the file itself had to go.
    pub(super) fn clear(mut self) -> Result<Option<Self>, DiskError> {
        // A filesystem that never writes in place may be too full to write zeros.
        let wiped = self.wipe().or_else(|_| self.file.set_len(0));
        if wiped.is_ok() {
            self.used = 0;
            return Ok(Some(self));
        }
        disk::remove(&self.path).map(|()| None)
    }

    /// The head first: a process killed after it has removed the product.
    fn wipe(&mut self) -> io::Result<()> {
        // What a full disk cut off is not to be made longer.
        let length = usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX);
        let mut left = self.used.min(length);
        self.file.rewind()?;
        while left > 0 {
            let zeros = ZEROS.get(..left).unwrap_or(&ZEROS);
            self.file.write_all(zeros)?;
            left -= zeros.len();
        }
        Ok(())
    }

    /// What is in it.
    pub(super) fn content(&mut self) -> Result<Found, DiskError> {
        self.read().doing("read", &self.path)
    }

    fn read(&mut self) -> io::Result<Found> {
        let longest = LONGEST_ROW + LONGEST_MEDIA + HEAD as u64;
        if !within(self.used, longest) {
            return Ok(Found::Foreign);
        }
        let mut bytes = Vec::with_capacity(self.used);
        self.file.rewind()?;
        (&self.file).take(longest).read_to_end(&mut bytes)?;
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Ok(if bytes.iter().all(|byte| *byte == 0) {
                Found::Nothing
            } else {
                Found::Part
            });
        };
        if head.iter().all(|byte| *byte == 0) {
            return Ok(if rest.iter().all(|byte| *byte == 0) {
                Found::Nothing
            } else {
                Found::Leftovers
            });
        }
        let Some(head) = Head::read(head) else {
            return Ok(if is_of_another_version(head) {
                Found::Foreign
            } else {
                Found::Part
            });
        };
        let whole = rest
            .split_at_checked(head.row)
            .and_then(|(row, rest)| Some((row, rest.get(..head.media)?)))
            .filter(|(row, media)| head.is_of(row, media));
        let Some((row, media)) = whole else {
            return Ok(Found::Part);
        };
        let Some(read) = Row::read(row).filter(|row| row.media.is_some() || media.is_empty())
        else {
            return Ok(Found::Strange {
                id: head.id,
                row: row.to_vec(),
                media: media.to_vec(),
            });
        };
        Ok(Found::Whole(Kept {
            bytes: read.media.is_some().then(|| Bytes::copy_from_slice(media)),
            id: head.id,
            row: Arc::new(read),
        }))
    }
}

/// Whether something is no longer than that.
pub(super) fn within(length: usize, most: u64) -> bool {
    u64::try_from(length).is_ok_and(|length| length <= most)
}
