//! Reads the plugin folder: regular files of it and nothing else.
//!
//! Everything goes through one directory handle, so that a folder renamed meanwhile does not mix two. A file is opened without following links
//! and without waiting (a pipe named `x.wasm` would otherwise hold the worker for ever), looked at through its own
//! handle, and read once.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};

use crate::names::one_line;
use crate::refusal::{Broken, Rule};

/// Entries of a folder that are looked at. A folder with more is not a plugin folder.
const MAX_ENTRIES: usize = 4_096;

/// An open plugin folder.
pub(crate) struct Folder {
    dir: Dir,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("is not there")]
    Missing,
    #[error("is not a regular file; links, folders, pipes and devices are not followed")]
    NotRegular,
    #[error("is larger than its limit of {limit_mib} MiB")]
    TooLarge { limit_mib: u64 },
    #[error("cannot be read: {0}")]
    Io(std::io::Error),
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        let rule = match &error {
            ReadError::NotRegular => Rule::RegularFile,
            ReadError::TooLarge { .. } => Rule::FileSize,
            ReadError::Missing => Rule::Readable,
            ReadError::Io(_) => return Rule::Readable.unmet(error.to_string()),
        };
        rule.broken(error.to_string())
    }
}

impl Folder {
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let dir = Dir::open_ambient_dir(path, ambient_authority())?;
        Ok(Self { dir })
    }

    /// The names of all entries that look like plugins, sorted; what is not UTF-8 is shown as far as it can be and read by nobody.
    pub(crate) fn plugins(&self) -> std::io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for (seen, entry) in self.dir.entries()?.enumerate() {
            if seen >= MAX_ENTRIES {
                return Err(std::io::Error::other("it has more than 4096 entries"));
            }
            let name = entry?.file_name();
            let shown = name.to_string_lossy().to_ascii_lowercase();
            if shown.ends_with(".wasm") && !shown.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The bytes of a regular file of at most `limit` bytes.
    pub(crate) fn read(&self, name: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
        let file = self.open_regular(name)?;
        let metadata = file.metadata().map_err(ReadError::Io)?;
        if !metadata.is_file() {
            return Err(ReadError::NotRegular);
        }
        let too_large = ReadError::TooLarge {
            limit_mib: limit >> 20,
        };
        if metadata.len() > limit {
            return Err(too_large);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        // It may have grown since it was looked at.
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(ReadError::Io)?;
        if bytes.len() as u64 > limit {
            return Err(too_large);
        }
        Ok(bytes)
    }

    /// What a regular file looks like from outside; links are not followed.
    pub(crate) fn look(&self, name: &Path) -> Result<cap_std::fs::Metadata, ReadError> {
        let metadata = self.dir.symlink_metadata(name).map_err(open_error)?;
        if metadata.is_file() {
            Ok(metadata)
        } else {
            Err(ReadError::NotRegular)
        }
    }

    fn open_regular(&self, name: &Path) -> Result<cap_std::fs::File, ReadError> {
        // Looked at before it is opened, because opening some devices does something.
        self.look(name)?;
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            use cap_std::fs::OpenOptionsExt;
            use rustix::fs::OFlags;
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
        }
        self.dir.open_with(name, &options).map_err(open_error)
    }
}

fn open_error(error: std::io::Error) -> ReadError {
    match error.kind() {
        std::io::ErrorKind::NotFound => ReadError::Missing,
        #[cfg(unix)]
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            ReadError::NotRegular
        }
        _ => ReadError::Io(error),
    }
}

/// A file name, fit to be shown.
pub(crate) fn shown(name: &std::ffi::OsStr) -> String {
    one_line(&name.to_string_lossy(), 128)
}
