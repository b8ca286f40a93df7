//! Small files that only their owner can read, replaced as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Why a file could not be written. What was there before is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}; check its folder's owner and free space", path = path.display())]
pub struct WriteError {
    /// What was being done.
    pub doing: &'static str,
    /// To which file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

fn at<T>(result: io::Result<T>, doing: &'static str, path: &Path) -> Result<T, WriteError> {
    result.map_err(|source| WriteError {
        doing,
        path: path.to_owned(),
        source,
    })
}

/// Replaces a file's content: a temporary file (0600) in the same folder, synced, renamed, and the folder synced. The
/// folder is made when it is missing. A symbolic link stays one: the file behind it is replaced.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    let target = at(behind_links(path), "find", path)?;
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    private_folder(folder)?;
    // `tempfile` creates with mode 0600.
    let mut file = at(tempfile::NamedTempFile::new_in(folder), "write in", folder)?;
    at(file.write_all(content), "write", path)?;
    at(file.as_file().sync_all(), "write", path)?;
    at(file.persist(&target).map_err(|e| e.error), "replace", path)?;
    sync_folder(folder)
}

/// Makes a folder and its parents, for their owner only, unless it is there.
pub(crate) fn private_folder(folder: &Path) -> Result<(), WriteError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    at(builder.create(folder), "create", folder)
}

/// Removes a file durably; one that is gone is as good.
pub(crate) fn remove(path: &Path) -> Result<(), WriteError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => at(Err(e), "remove", path),
        _ => Ok(()),
    }
}

/// What a file of at most `limit` bytes holds; `Ok(None)`: there is none. Longer is [`io::ErrorKind::FileTooLarge`].
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut content = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(content))
}

fn behind_links(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(kind) if kind.is_symlink() => fs::canonicalize(path),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(path.to_owned()),
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<(), WriteError> {
    at(
        File::open(folder).and_then(|f| f.sync_all()),
        "write in",
        folder,
    )
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<(), WriteError> {
    Ok(())
}
