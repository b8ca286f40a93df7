//! Unpacking a downloaded archive, of which nothing is believed.
//!
//! Every entry is judged before the first byte is written; what an entry says of its size is held against what comes out
//! of it. Files are written into a folder that nobody uses until all of them are there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use zip::{CompressionMethod, ZipArchive};

use super::names::Names;

/// Bounds of one archive. A release of a GPU program has some ten files and some hundred megabytes.
#[derive(Debug, Clone)]
pub struct ArchiveLimits {
    /// Most entries. Larger only lets a hostile archive fill the folder with names.
    pub entries: usize,
    /// Most bytes of one file.
    pub file_bytes: u64,
    /// Most bytes of all files. Smaller refuses releases that carry a GPU vendor's libraries.
    pub total_bytes: u64,
    /// How many times larger than the archive its content may be. Programs shrink to a third, a bomb to a thousandth.
    pub ratio: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self {
            entries: 4096,
            file_bytes: 4 << 30,
            total_bytes: 8 << 30,
            ratio: 100,
        }
    }
}

/// Content that is small enough is never a bomb, whatever its ratio: a file of zeros is legitimate.
const RATIO_FREE_BYTES: u64 = 1 << 20;
/// The type of a file in its mode, and the two types that are taken.
const MODE_TYPE: u32 = 0o170_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_FOLDER: u32 = 0o040_000;

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// No zip archive, or a broken one.
    #[error("it is no sound zip archive: {0}")]
    Malformed(String),
    /// More entries than the limit.
    #[error("it has {count} entries, more than the {limit} allowed")]
    TooManyEntries {
        /// How many it has.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// An entry that is larger than the limit, larger than it says, or the one with which all are too large.
    #[error("`{name}` {why}")]
    TooLarge {
        /// The entry.
        name: String,
        /// Which bound it breaks.
        why: &'static str,
    },
    /// A name that leads out, hides something or cannot be told from another.
    #[error("the name `{name}` {why}")]
    Name {
        /// The entry, with what is unprintable escaped.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A link, a device, an encrypted file.
    #[error("`{name}` is {what}")]
    Special {
        /// The entry.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// The disk has no room for what is in it.
    #[error("it unpacks to {needed} bytes and the disk has {free} free: make room")]
    NoRoom {
        /// Bytes that it unpacks to.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The system refused.
    #[error("it cannot be unpacked into {}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The caller did not want it any more.
    #[error("unpacking was cancelled")]
    Cancelled,
}

impl ArchiveError {
    /// Whether the same archive may unpack another time: only what the disk did can pass.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Self::NoRoom { .. } | Self::Io { .. } | Self::Cancelled
        )
    }
}

struct Entry {
    index: usize,
    name: String,
    size: u64,
}

/// Unpacks `archive` into the new folder `into`. When it fails, that folder is as far as it came and the caller removes it.
/// Blocks; reads, checks and writes everything, and flushes it to the disk.
///
/// # Errors
/// At the first rule that an entry breaks; none is written before all have been judged.
pub(super) fn unpack(
    archive: &Path,
    into: &Path,
    limits: &ArchiveLimits,
    cancel: &CancellationToken,
) -> Result<(), ArchiveError> {
    let file = File::open(archive).map_err(at(archive))?;
    let length = file.metadata().map_err(at(archive))?.len();
    let mut zip = ZipArchive::new(io::BufReader::new(file)).map_err(malformed)?;
    let listed = count_listed(archive, zip.central_directory_start(), limits.entries)?;
    if listed > limits.entries {
        return Err(ArchiveError::TooManyEntries {
            count: listed,
            limit: limits.entries,
        });
    }
    // The reader keeps one entry per name, so a second one shows only in the numbers.
    if listed != zip.len() {
        return Err(ArchiveError::Malformed(
            "two entries have one name".to_owned(),
        ));
    }
    if zip.has_overlapping_files().map_err(malformed)? {
        return Err(ArchiveError::Malformed(
            "two entries share their content".to_owned(),
        ));
    }
    let entries = judge(&mut zip, length, limits)?;
    make_folder(into)?;
    let needed = entries.iter().map(|entry| entry.size).sum();
    check_room(into, needed)?;
    for entry in &entries {
        let path = into.join(&entry.name);
        let parent = path.parent().unwrap_or(into);
        make_folder(parent)?;
        let mut content = zip.by_index(entry.index).map_err(malformed)?;
        write(&mut content, &path, entry, cancel)?;
    }
    sync_folders(into)
}

/// Entries that the archive's directory lists, counted up to one more than `most`: the reader itself drops a name's
/// earlier entries.
fn count_listed(archive: &Path, start: u64, most: usize) -> Result<usize, ArchiveError> {
    const SIGNATURE: &[u8] = b"PK\x01\x02";
    let mut file = io::BufReader::new(File::open(archive).map_err(at(archive))?);
    file.seek(io::SeekFrom::Start(start)).map_err(at(archive))?;
    let (mut header, mut count) = ([0; 46], 0);
    while count <= most && file.read_exact(&mut header).is_ok() && header.starts_with(SIGNATURE) {
        count += 1;
        // Lengths of name, extra fields and comment.
        let length = |at: usize| {
            let low = header.get(at).copied().unwrap_or_default();
            let high = header.get(at + 1).copied().unwrap_or_default();
            i64::from(u16::from_le_bytes([low, high]))
        };
        let rest = length(28) + length(30) + length(32);
        file.seek_relative(rest).map_err(at(archive))?;
    }
    Ok(count)
}

/// The files of an archive, all of them within the rules.
fn judge<R: Read + Seek>(
    zip: &mut ZipArchive<R>,
    length: u64,
    limits: &ArchiveLimits,
) -> Result<Vec<Entry>, ArchiveError> {
    let (mut names, mut files, mut total) = (Names::default(), Vec::new(), 0_u64);
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(malformed)?;
        let (name, is_folder) = names.take(entry.name_raw())?;
        let special = |what| ArchiveError::Special {
            name: name.clone(),
            what,
        };
        match entry.unix_mode().map_or(0, |mode| mode & MODE_TYPE) {
            0 => {}
            MODE_FILE if !is_folder => {}
            MODE_FOLDER if is_folder => {}
            _ => {
                return Err(special(
                    "a link or another special file; only files are taken",
                ));
            }
        }
        if entry.encrypted() {
            return Err(special("encrypted"));
        }
        if !matches!(
            entry.compression(),
            CompressionMethod::Stored | CompressionMethod::Deflated
        ) {
            return Err(special("compressed in a way that is not taken"));
        }
        let size = entry.size();
        let too_large = |why| ArchiveError::TooLarge {
            name: name.clone(),
            why,
        };
        total = total.saturating_add(size);
        if is_folder {
            if size > 0 {
                return Err(special("a folder with content"));
            }
            continue;
        }
        if size > limits.file_bytes {
            return Err(too_large("is larger than a file may be"));
        }
        if total > limits.total_bytes {
            return Err(too_large("makes the whole larger than an archive may be"));
        }
        if total > RATIO_FREE_BYTES && total > length.saturating_mul(limits.ratio) {
            return Err(too_large(
                "makes the whole larger than what such an archive can hold: a bomb",
            ));
        }
        files.push(Entry { index, name, size });
    }
    if files.is_empty() {
        return Err(ArchiveError::Malformed("it holds no file".to_owned()));
    }
    Ok(files)
}

fn check_room(dir: &Path, needed: u64) -> Result<(), ArchiveError> {
    // Where the file system does not say, writing will.
    let Some(free) = super::free_bytes(dir) else {
        return Ok(());
    };
    if needed > free {
        return Err(ArchiveError::NoRoom { needed, free });
    }
    Ok(())
}

fn write(
    content: &mut impl Read,
    path: &Path,
    entry: &Entry,
    cancel: &CancellationToken,
) -> Result<(), ArchiveError> {
    let lies = |why| ArchiveError::TooLarge {
        name: entry.name.clone(),
        why,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(at(path))?;
    let (mut buffer, mut written, mut head) = (vec![0; 256 * 1024], 0_u64, Vec::new());
    loop {
        if cancel.is_cancelled() {
            return Err(ArchiveError::Cancelled);
        }
        let read = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => return Err(ArchiveError::Malformed(error.to_string())),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        written = written.saturating_add(read as u64);
        if written > entry.size {
            return Err(lies("is larger than it says"));
        }
        if head.len() < 8 {
            head.extend(bytes.iter().take(8));
        }
        file.write_all(bytes).map_err(at(path))?;
    }
    if written < entry.size {
        return Err(lies("is smaller than it says"));
    }
    let mode = if is_code(&head) { 0o755 } else { 0o644 };
    file.set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| file.sync_all())
        .map_err(at(path))
}

/// Whether a file begins as programs and libraries do: ELF, and Mach-O in its orders and widths. The archive's own modes
/// are not believed, and a script is no program that anybody asked for.
fn is_code(head: &[u8]) -> bool {
    const MACH_O: [[u8; 4]; 5] = [
        [0xfe, 0xed, 0xfa, 0xce],
        [0xfe, 0xed, 0xfa, 0xcf],
        [0xce, 0xfa, 0xed, 0xfe],
        [0xcf, 0xfa, 0xed, 0xfe],
        [0xca, 0xfe, 0xba, 0xbe],
    ];
    head.starts_with(b"\x7fELF") || MACH_O.iter().any(|magic| head.starts_with(magic))
}

fn make_folder(path: &Path) -> Result<(), ArchiveError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(at(path))
}

/// Flushes a folder and all below it, so that a rename of the whole shows the whole after a power cut.
fn sync_folders(dir: &Path) -> Result<(), ArchiveError> {
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        if entry.file_type().map_err(at(dir))?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(at(dir))
}

fn malformed(error: zip::result::ZipError) -> ArchiveError {
    ArchiveError::Malformed(error.to_string())
}

fn at(path: &Path) -> impl Fn(io::Error) -> ArchiveError + '_ {
    move |source| ArchiveError::Io {
        path: path.to_owned(),
        source,
    }
}
