//! The few file operations that the spool is made of.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}", path = path.display())]
pub struct DiskError {
    /// What was being done.
    pub doing: &'static str,
    /// To which file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl DiskError {
    /// Whether there was no room, so that freeing some helps.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Attaches what was being done to which file.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, DiskError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, DiskError> {
        self.map_err(|source| DiskError {
            doing,
            path: path.to_owned(),
            source,
        })
    }
}

/// Makes a directory that only its owner can look into, with its parents.
pub(crate) fn private_dir(path: &Path) -> Result<(), DiskError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).doing("create", path)?;
    // One that was there already may be open to others.
    #[cfg(unix)]
    set_mode(path, 0o700)?;
    Ok(())
}

/// Writes a new file, 0600. An existing one of that name is an error. It is on disk only after [`sync_all`].
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<File, DiskError> {
    let mut file = create_new(path)?;
    file.write_all(bytes).doing("write", path)?;
    Ok(file)
}

/// Waits until files and the names in their directory are on disk. All at once: a filesystem with a journal then
/// commits once for all of them, where one after the other would each wait for a flush of the device.
pub(crate) fn sync_all(files: &[(&File, &Path)], dir: &Path) -> Result<(), DiskError> {
    std::thread::scope(|scope| {
        let mut waiting = Vec::new();
        for &(file, path) in files {
            let sync = move || file.sync_all().doing("write", path);
            match std::thread::Builder::new().spawn_scoped(scope, sync) {
                Ok(thread) => waiting.push((thread, path)),
                // No thread to be had: in turn, then.
                Err(_) => sync()?,
            }
        }
        let mut synced = sync_dir(dir);
        for (thread, path) in waiting {
            let ended = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("interrupted")).doing("write", path));
            synced = synced.and(ended);
        }
        synced
    })
}

/// Moves a file to where nothing is yet. A file on another filesystem is copied and left for its owner to remove. It
/// is on disk only after [`sync_all`].
pub(crate) fn take_in(from: &Path, to: &Path) -> Result<(), DiskError> {
    let file = open_regular(from)?;
    match fs::rename(from, to) {
        Ok(()) => {
            #[cfg(unix)]
            set_mode(to, 0o600)?;
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => copy_in(file, to),
        Err(e) => Err(e).doing("move", from),
    }
}

fn copy_in(mut from: File, to: &Path) -> Result<(), DiskError> {
    let partial = with_suffix(to, ".tmp");
    let mut file = create_new(&partial)?;
    let copied = io::copy(&mut from, &mut file)
        .doing("write", &partial)
        .and_then(|_| fs::rename(&partial, to).doing("name", to));
    if copied.is_err() {
        remove_quietly(&partial);
    }
    copied
}

/// Opens a regular file for reading; a link or anything else is refused.
pub(crate) fn open_regular(path: &Path) -> Result<File, DiskError> {
    let kind = fs::symlink_metadata(path).doing("read", path)?;
    if !kind.is_file() {
        let refused = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(refused).doing("read", path);
    }
    File::open(path).doing("read", path)
}

/// Opens a file to sync it, which some systems allow only to a writer.
pub(crate) fn open_to_sync(path: &Path) -> Result<File, DiskError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .doing("open", path)
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, DiskError> {
    let file = open_regular(path)?;
    let mut bytes = Vec::new();
    let read = file
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .doing("read", path)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > limit {
        let refused = io::Error::new(io::ErrorKind::FileTooLarge, "larger than it can be");
        return Err(refused).doing("read", path);
    }
    Ok(bytes)
}

/// Gives a file its name, within one directory.
pub(crate) fn name(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).doing("name", to)
}

/// Waits until a directory's names are on disk. Windows has no such call and needs none.
pub(crate) fn sync_dir(path: &Path) -> Result<(), DiskError> {
    #[cfg(unix)]
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .doing("write", path)?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Removes a file; one that is gone already is as good.
pub(crate) fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).doing("remove", path),
        _ => Ok(()),
    }
}

/// Removes what an error left behind; the error itself is what gets reported.
pub(crate) fn remove_quietly(path: &Path) {
    if let Err(error) = remove(path) {
        tracing::warn!(%error, "a partial file stays until the next start");
    }
}

/// Whether a regular file is there.
pub(crate) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_file())
}

/// Bytes of a regular file; none where there is none.
pub(crate) fn size_of(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)
        .map(|m| m.len())
}

/// Whether anything has that name.
pub(crate) fn is_taken(path: &Path) -> bool {
    !matches!(fs::symlink_metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound)
}

/// File names of a directory, sorted. Names that are not text are none of ours.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, DiskError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).doing("list", dir)? {
        if let Ok(name) = entry.doing("list", dir)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The path with something appended to its last name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes an empty file, 0600, where nothing is yet.
pub(crate) fn create_new(path: &Path) -> Result<File, DiskError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).doing("create", path)
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> Result<(), DiskError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).doing("protect", path)
}
